"""The way to the upstream in a company's network: a proxy before it, and authorities of its own that sign."""

import asyncio
import ipaddress
import logging
import ssl
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clara_proxy.config import settings
from clara_proxy.config.settings import SettingsError, load_settings
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import CLIENT_KEY, short_chat

FAR = "http://models.internal.example"
ASK = """
import asyncio, sys
from clara_proxy.proxy.http.upstream import Upstream
from clara_proxy.proxy.protocols.api_errors import ApiError
try:
    import uvloop as loops  # what the server runs on, where there is one
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


def with_user(url: str) -> str:
    return url.replace("://", "://user:hunter2%40@")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_the_proxy_that_the_environment_names_is_taken(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", with_user(upstream.url))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # for the client of this test, which would take it, too
    with running.run_proxy(FAR, tmp_path) as proxy:
        assert proxy.post(short_chat(), path).status_code == 200
    assert upstream.last_request.request_line == f"POST {FAR}{path} HTTP/1.1".encode()
    assert upstream.last_request.header_values("proxy-authorization") == [b"Basic dXNlcjpodW50ZXIyQA=="]
    assert upstream.last_request.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]


def test_a_proxy_that_is_set_counts_more_than_the_environment(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://nowhere.invalid:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,direct.invalid")
    with running.run_proxy(FAR, tmp_path / "one", upstream_proxy=upstream.url) as proxy:
        assert proxy.post(short_chat()).status_code == 200
        assert upstream.last_request.request_line.startswith(f"POST {FAR}".encode())
    with running.run_proxy("http://direct.invalid", tmp_path / "two", upstream_proxy=upstream.url) as proxy:
        refused = proxy.post(short_chat())
    assert (refused.status_code, len(upstream.requests)) == (502, 1)
    assert "proxy" not in refused.json()["error"]["message"]


def test_this_machine_is_reached_directly(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", "http://nowhere.invalid:1")
        patch.setenv("NO_PROXY", "127.0.0.1/32")  # httpx, which the test asks with, does not go directly by itself
        with running.run_proxy(upstream.url, tmp_path) as proxy:
            patch.undo()
            assert proxy.post(short_chat()).status_code == 200
    assert upstream.last_request.request_line == b"POST /v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://user:hunter2@127.0.0.1:9", "proxy on the way to the upstream cannot be reached: Connect"),
        ("socks5://user:hunter2@127.0.0.1:9", "must be http://HOST:PORT or https://HOST:PORT"),
    ],
)
def test_a_proxy_that_does_not_work_is_named_and_its_password_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str, why: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ALL_PROXY", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running.run_proxy(FAR, tmp_path) as proxy:
        monkeypatch.delenv("ALL_PROXY")
        answer = proxy.post(short_chat())
        row = proxy.wait_for_row(answer)
    assert answer.status_code == 502
    assert why in answer.json()["error"]["message"]
    assert (answer.json()["error"]["code"], row.outcome) == ("upstream_unreachable", "failed")
    assert "hunter2" not in answer.text + caplog.text


def test_a_setting_that_is_no_proxy_stops_the_start_and_its_password_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLARA_UPSTREAM_PROXY", "socks5://user:hunter2@proxy.example:1080")
    with pytest.raises(SettingsError, match=r"upstream_proxy \(CLARA_UPSTREAM_PROXY\)") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("CLARA_UPSTREAM_PROXY", "http://user:hunter2@proxy.example:3128")
    assert "hunter2" not in repr(load_settings())


def signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for any host of `.example` that no system knows; return it, and it with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the company")])
    made = (
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
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    known, whole = folder / "known.pem", folder / "whole.pem"
    known.write_bytes(pem)
    whole.write_bytes(pem + private)
    return known, whole


@asynccontextmanager
async def tunnel(certificate: Path, *, refuses: bool = False) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """Run a proxy that is also the TLS server behind it; yield its port, and what it hears."""
    heard: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            if refuses:
                writer.write(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")
                return
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.start_tls(context)
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(http_response(b"through"))
            await writer.drain()
        except (ssl.SSLError, OSError, asyncio.IncompleteReadError):
            pass  # who does not trust us leaves
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def ask(url: str, **environment: str) -> str:
    """Ask from a process of its own, as certificates are read when one starts."""
    made = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        ASK,
        url,
        env=settings.build_child_environment(**environment),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await made.communicate()
    return said.decode().strip()


async def test_a_tunnel_to_an_upstream_whose_authority_ssl_cert_file_names(tmp_path: Path) -> None:
    known, whole = signed(tmp_path)
    async with tunnel(whole) as (port, heard):
        proxy = {"HTTPS_PROXY": f"http://user:hunter2@127.0.0.1:{port}"}
        assert await ask("https://models.example/v1/models", SSL_CERT_FILE=str(known), **proxy) == "200 through"
        assert heard[0].startswith(b"CONNECT models.example:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n" in heard[0]
        assert heard[1].startswith(b"GET /v1/models HTTP/1.1\r\n")
        assert b"hunter2" not in heard[1]
        assert b"roxy-Authorization" not in heard[1]
        unknown = await ask("https://models.example/v1/models", **proxy)
    assert unknown.startswith("502 upstream_unreachable the upstream's certificate is not trusted: self")
    assert "SSL_CERT_FILE" in unknown


async def test_a_proxy_that_refuses_to_go_there_is_told_by_its_status(tmp_path: Path) -> None:
    _, whole = signed(tmp_path)
    async with tunnel(whole, refuses=True) as (port, _):
        said = await ask("https://models.example/v1/models", HTTPS_PROXY=f"http://user:hunter2@127.0.0.1:{port}")
    assert said == "502 upstream_unreachable the proxy on the way to the upstream refuses to go there: status 407"
