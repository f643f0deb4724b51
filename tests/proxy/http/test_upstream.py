"""The upstream in a company network: HTTP proxies and custom certificate authorities."""

import asyncio
import ipaddress
import logging
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clara_proxy.config import settings
from clara_proxy.config.settings import load_settings
from clara_proxy.config.settings_errors import SettingsError
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import CLIENT_KEY, short_chat

UPSTREAM_URL = "http://models.internal.example"
SEND_SCRIPT = """
import asyncio, sys
from clara_proxy.proxy.http.upstream import Upstream
from clara_proxy.proxy.protocols.api_errors import ApiError
try:
    import uvloop as loops  # the server uses it if it is installed
except ImportError:
    loops = asyncio

async def main():
    upstream = Upstream(connect_timeout=9, read_timeout=9, decompress=True)
    try:
        async with upstream.send("GET", sys.argv[1], [], None) as reply:
            print(reply.status, (await reply.read()).decode())
    except ApiError as error:
        print(error.status, error.code, error.message)
    finally:
        await upstream.close()

loops.run(main())
"""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.build_child_environment():
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
            monkeypatch.delenv(name)


def add_credentials(url: str) -> str:
    return url.replace("://", "://user:hunter2%40@")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_the_environments_proxy_is_used(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", add_credentials(upstream.url))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # for the HTTP client of this test, which reads the variable, too
    with running.run_proxy(UPSTREAM_URL, tmp_path) as proxy:
        assert proxy.post(short_chat(), path).status_code == 200
    assert upstream.last_request.request_line == f"POST {UPSTREAM_URL}{path} HTTP/1.1".encode()
    assert upstream.last_request.header_values("proxy-authorization") == [b"Basic dXNlcjpodW50ZXIyQA=="]
    assert upstream.last_request.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]


def test_the_setting_overrides_the_environments_proxy(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://nowhere.invalid:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,direct.invalid")
    with running.run_proxy(UPSTREAM_URL, tmp_path / "one", upstream_proxy=upstream.url) as proxy:
        assert proxy.post(short_chat()).status_code == 200
        assert upstream.last_request.request_line.startswith(f"POST {UPSTREAM_URL}".encode())
    with running.run_proxy("http://direct.invalid", tmp_path / "two", upstream_proxy=upstream.url) as proxy:
        refused = proxy.post(short_chat())
    assert (refused.status_code, len(upstream.requests)) == (502, 1)
    assert "proxy" not in refused.json()["error"]["message"]


def test_this_machine_is_reached_directly(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", "http://nowhere.invalid:1")
        patch.setenv("NO_PROXY", "127.0.0.1/32")  # httpx in this test needs this to connect directly
        with running.run_proxy(upstream.url, tmp_path) as proxy:
            patch.undo()
            assert proxy.post(short_chat()).status_code == 200
    assert upstream.last_request.request_line == b"POST /v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:hunter2@127.0.0.1:9", "cannot connect to the proxy: Connect"),
        ("socks5://user:hunter2@127.0.0.1:9", "must be http://HOST:PORT or https://HOST:PORT"),
    ],
)
def test_a_broken_proxy_is_a_502_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str, reason: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ALL_PROXY", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running.run_proxy(UPSTREAM_URL, tmp_path) as proxy:
        monkeypatch.delenv("ALL_PROXY")
        answer = proxy.post(short_chat())
        row = proxy.wait_for_row(answer)
    assert answer.status_code == 502
    assert reason in answer.json()["error"]["message"]
    assert (answer.json()["error"]["code"], row.outcome) == ("upstream_unreachable", "failed")
    assert "hunter2" not in answer.text + caplog.text


def test_https_in_the_address_of_a_plain_upstream_is_named(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # answers the TLS handshake with a 400 in plain text
    Thread(target=server.handle_request, daemon=True).start()
    with running.run_proxy(f"https://127.0.0.1:{server.server_port}", tmp_path) as proxy:
        error = proxy.post(short_chat()).json()["error"]
    server.server_close()
    assert error["code"] == "upstream_unreachable"
    assert "may need http:// instead of https://" in error["message"]


def test_an_invalid_proxy_setting_stops_the_start_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLARA_UPSTREAM_PROXY", "socks5://user:hunter2@proxy.example:1080")
    with pytest.raises(SettingsError, match=r"upstream_proxy \(CLARA_UPSTREAM_PROXY\)") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("CLARA_UPSTREAM_PROXY", "http://user:hunter2@proxy.example:3128")
    assert "hunter2" not in repr(load_settings())


def write_certificates(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate; return the paths of the certificate, and of certificate and key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the company")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(*[True] + [False] * 4 + [True] + [False] * 3), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("models.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    authority, with_key = folder / "authority.pem", folder / "with_key.pem"
    authority.write_bytes(pem)
    with_key.write_bytes(pem + private)
    return authority, with_key


@asynccontextmanager
async def run_tunnel(certificate: Path, *, reject: bool = False) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """Run a proxy that is also the TLS server behind it; yield its port and the received heads."""
    received: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            received.append(await reader.readuntil(b"\r\n\r\n"))
            if reject:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
                return
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.start_tls(context)
            received.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(http_response(b"through"))
            await writer.drain()
        except (ssl.SSLError, OSError, asyncio.IncompleteReadError):
            pass  # a client that does not trust the certificate disconnects
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


async def send_from_child_process(url: str, **environment: str) -> str:
    """Send a request from a new process, since certificates are read at its start; return the output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SEND_SCRIPT,
        url,
        env=settings.build_child_environment(**environment),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return output.decode().strip()


async def test_ssl_cert_file_adds_an_authority_for_a_tunnelled_upstream(tmp_path: Path) -> None:
    authority, with_key = write_certificates(tmp_path)
    async with run_tunnel(with_key) as (port, received):
        proxy = {"HTTPS_PROXY": f"http://user:hunter2@127.0.0.1:{port}"}
        assert (
            await send_from_child_process("https://models.example/v1/models", SSL_CERT_FILE=str(authority), **proxy)
            == "200 through"
        )
        assert received[0].startswith(b"CONNECT models.example:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in received[0]
        assert received[1].startswith(b"GET /v1/models HTTP/1.1\r\n")
        assert b"hunter2" not in received[1]
        assert b"roxy-Authorization" not in received[1]
        unknown = await send_from_child_process("https://models.example/v1/models", **proxy)
    assert unknown.startswith("502 upstream_unreachable the upstream's certificate is not trusted: self")
    assert "SSL_CERT_FILE" in unknown


async def test_a_refusing_proxy_is_reported_with_its_status(tmp_path: Path) -> None:
    _, with_key = write_certificates(tmp_path)
    async with run_tunnel(with_key, reject=True) as (port, _):
        output = await send_from_child_process(
            "https://models.example/v1/models", HTTPS_PROXY=f"http://user:hunter2@127.0.0.1:{port}"
        )
    assert output == "502 upstream_unreachable the proxy refused to connect to the upstream: status 407"
