"""Unknown clients: pages of other origins, other machines, and requests that name a host."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clara_proxy.config.server_settings import LitellmModel
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.api import create_api
from clara_proxy.proxy.app import ADAPTERS, create_app
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.commands.serve import UnprotectedAddressError
from clara_proxy.proxy.http.exchange import Message, Scope
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.endpoints.test_passthrough import Records
from clara_proxy.tests.running import CLIENT_KEY, TIMEOUT, Proxy, short_chat, tool_chat

CHAT, OTHER = "/v1/chat/completions", "/v1/embeddings"
UPSTREAM_KEY = "sk-operator-0123456789"
both_paths = pytest.mark.parametrize("path", [CHAT, OTHER])
EVIL_ORIGIN = "https://evil.com"
REMOTE_SERVER = ("192.0.2.7", 8765)  # the address of a network interface, as the server sees it


@pytest.fixture(scope="module")
def keyed_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy without API keys, with a configured key for the upstream."""
    options: dict[str, Any] = {"upstream_api_key": UPSTREAM_KEY, "litellm_providers": "groq"}
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("generous"), **options) as proxy:
        yield proxy


def send_raw(proxy: Proxy, head: str, body: bytes = b"{}") -> bytes:
    """Send send_raw bytes, and return the whole response."""
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as connection:
        request_head = f"{head}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(request_head.encode("latin-1") + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


# pages of other origins


@both_paths
def test_a_preflight_request_is_rejected(keyed_proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    headers = {
        "origin": EVIL_ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    answer = issue.send_request(keyed_proxy, path, method="OPTIONS", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert not upstream.requests


@both_paths
def test_cors_headers_of_the_upstream_are_dropped(keyed_proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    allowing = (
        "Access-Control-Allow-Origin: *",
        "access-control-expose-headers: x",
        "Access-Control-Allow-Private-Network: true",
    )
    upstream.respond_with(http_response(b"{}", *allowing, "vary: origin"))
    answer = keyed_proxy.post(short_chat(), path)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.headers["vary"] == "origin"


@pytest.mark.parametrize("path", [CHAT, OTHER, "/unload", "/compress", "/v1/compress"])
@pytest.mark.parametrize(
    "headers",
    [{"origin": EVIL_ORIGIN}, {"origin": "null"}, {"host": "evil.com"}, {"host": "127.0.0.1.evil.com:8765"}],
    ids=str,
)
def test_pages_of_other_origins_cannot_send_requests(
    keyed_proxy: Proxy, upstream: FaultyUpstream, path: str, headers: dict[str, str]
) -> None:
    plain = {"content-type": "text/plain", **headers}  # browsers send this without a preflight request
    answer = issue.send_request(
        keyed_proxy, path, method="POST", content=b'{"model": "gpt-4o", "messages": []}', headers=plain
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
    assert not upstream.requests


@pytest.mark.parametrize("path", ["/stats", "/v1/savings", "/status", "/openapi.json", "/v1/models", "/dashboard"])
def test_dns_rebinding_reads_nothing(keyed_proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    assert issue.send_request(keyed_proxy, path, headers={"host": "rebound.evil.com:8765"}).status_code == 403
    assert not upstream.requests


@pytest.mark.parametrize(
    "headers",
    [
        *({}, {"host": "localhost:8765"}, {"host": "host.docker.internal:8765"}, {"origin": "http://localhost:3000"}),
        *({"origin": "vscode-webview://x"}, {"origin": "chrome-extension://x"}),
    ],
    ids=str,
)
def test_local_clients_are_admitted(keyed_proxy: Proxy, headers: dict[str, str]) -> None:
    assert issue.send_request(keyed_proxy, CHAT, method="POST", json=short_chat(), headers=headers).status_code == 200
    assert issue.send_request(keyed_proxy, "/stats", headers=headers).status_code == 200


def test_open_admits_other_origins_to_the_api_only(tmp_path: Path, upstream: FaultyUpstream) -> None:
    with running.run_proxy(upstream.url, tmp_path, open=True) as proxy:
        assert (
            issue.send_request(proxy, CHAT, method="POST", json=short_chat(), headers={"host": "evil.com"}).status_code
            == 200
        )
        assert issue.send_request(proxy, "/stats", headers={"host": "evil.com"}).status_code == 403
        assert issue.send_request(proxy, "/stats").status_code == 200


# other machines


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_it_does_not_listen_on_a_public_address_by_default(tmp_path: Path, host: str) -> None:
    with pytest.raises(UnprotectedAddressError):
        serve.serve(Settings(host=host, port=0, data_dir=tmp_path, model="none"))


async def send_from(app: Any, path: str, method: str = "POST", server: object = REMOTE_SERVER, **headers: str) -> int:
    """Send a request to an application as a server does; return the status."""
    sent: list[Message] = []
    raw_headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": raw_headers, "server": server, "client": ("192.0.2.8", 5), "scheme": "http",
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


@pytest.mark.parametrize("server", [REMOTE_SERVER, ("::ffff:192.0.2.7", 1), ("2001:db8::1", 1)])
async def test_without_keys_other_machines_are_rejected(
    tmp_path: Path, upstream: FaultyUpstream, server: object
) -> None:
    """This holds for each way to start: the command line refuses to listen, but uvicorn does not."""
    app = create_app(Settings(upstream_base_url=f"{upstream.url}/v1", data_dir=tmp_path, model="none"))
    async with app.router.lifespan_context(app):
        for path in (CHAT, OTHER, "/v1/compress", "/compress", "/stats", "/dashboard", "/unload"):
            assert await send_from(app, path, server=server) == 401, path
        assert await send_from(app, "/livez", "GET", server) == 200
        for local_server in (("127.0.0.1", 1), ("::1", 1), ("/run/clara.sock", None), None):
            assert await send_from(app, CHAT, server=local_server) == 200
    assert len(upstream.requests) == 4


async def test_open_admits_other_machines_to_the_api_only(tmp_path: Path, upstream: FaultyUpstream) -> None:
    settings = Settings(
        upstream_base_url=f"{upstream.url}/v1", data_dir=tmp_path, model="none", open=True, host="0.0.0.0"
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        assert await send_from(app, CHAT) == 200
        assert await send_from(app, CHAT, host="anything.example.com") == 200
        for server in (REMOTE_SERVER, ("127.0.0.1", 1)):  # the configured host is not loopback
            assert await send_from(app, "/stats", "GET", server) == 401
            assert await send_from(app, "/unload", server=server) == 401


async def test_with_a_key_other_machines_are_admitted(tmp_path: Path, upstream: FaultyUpstream) -> None:
    key, root = create_two_keys(tmp_path)
    settings = Settings(
        upstream_base_url=f"{upstream.url}/v1", upstream_api_key=UPSTREAM_KEY, data_dir=tmp_path, model="none"
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        assert await send_from(app, CHAT) == 401
        assert await send_from(app, CHAT, authorization=f"Bearer {key}", host="clara.example.com") == 200
        assert await send_from(app, "/stats", "GET", authorization=f"Bearer {key}") == 403
        assert await send_from(app, "/stats", "GET", authorization=f"Bearer {root}", host="clara.example.com") == 200


def create_two_keys(folder: Path) -> tuple[str, str]:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - what makes keys has an event loop of its own

    with ThreadPoolExecutor(1) as pool:
        return (
            pool.submit(issue.create_key, folder, "alice").result(),
            pool.submit(issue.create_key, folder, "root", admin=True).result(),
        )


# requests that name a host


HOSTS = [
    ("POST http://evil.com/v1/embeddings HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1/embeddings HTTP/1.1", "host: 127.0.0.1\r\nx-forwarded-host: evil.com\r\nforwarded: host=evil.com"),
    ("POST /v1/embeddings HTTP/1.1", "host: 127.0.0.1\r\nx-forwarded-proto: https\r\nx-original-url: http://evil.com"),
    ("POST /v1/embeddings HTTP/1.1", "host: 127.0.0.1\r\nx-clara-session: s\r\nopenai-base-url: http://evil.com"),
    ("POST //evil.com/v1/embeddings HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1//evil.com/x HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1%2F@evil.com/x HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1%2f%40evil.com HTTP/1.1", "host: 127.0.0.1"),
    ("POST /%76%31/@evil.com/x HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1/@evil.com/x HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1/?@evil.com/x HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1/http://evil.com/ HTTP/1.1", "host: 127.0.0.1"),
    ("POST /v1/\\evil.com/ HTTP/1.1", "host: 127.0.0.1"),
]


@pytest.fixture(scope="module", params=["/v1", ""], ids=["with a path", "without a path"])
def base_path_proxy(
    _upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Proxy]:
    """A proxy whose upstream URL has a path or not; without one, a request might extend the host name."""
    base = _upstream.url + request.param
    folder = tmp_path_factory.mktemp("pathed")
    with running.run_proxy(_upstream.url, folder, upstream_base_url=base, anthropic_base_url=base) as proxy:
        yield proxy


@pytest.mark.parametrize(("line", "headers"), HOSTS, ids=[line for line, _ in HOSTS])
def test_no_request_chooses_the_host_of_the_upstream(
    base_path_proxy: Proxy, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, line: str, headers: str
) -> None:
    lookups: list[object] = []
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        lookups.append(host)
        return original(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    answer = send_raw(base_path_proxy, f"{line}\r\n{headers}")
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405")), answer
    assert b"evil" not in b" ".join(str(host).encode() for host in lookups)
    for request in upstream.requests:  # all forwarded requests reached the one upstream
        assert request.header_values("host") == [upstream.url.removeprefix("http://").encode()]
        assert request.request_line.split(b" ")[1].startswith(b"/")


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/../admin", "/v1/./x", "/v1/x/../../admin", "/v1/%2e%2e/admin", "/v1/%2E./admin", "/v1/x/.."),
        *("/v1/..%2fadmin", "/v1/..%5cadmin", "/v1/..\\admin", "/v1%2f..%2fadmin", "/v1/x%2f%2e%2e%2fadmin"),
    ],
)
def test_no_request_leaves_the_path_of_the_upstream(
    base_path_proxy: Proxy, upstream: FaultyUpstream, path: str
) -> None:
    assert send_raw(base_path_proxy, f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1").startswith(
        (b"HTTP/1.1 400", b"HTTP/1.1 404")
    )
    assert not upstream.requests


@pytest.mark.parametrize("path", ["/v1/files/a..b", "/v1/files/...", "/v1/files/.x", "/v1/files/a%2Fb", "/v1/x?a=/../"])
def test_other_dots_in_paths_are_forwarded(keyed_proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    assert send_raw(keyed_proxy, f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1", b"").startswith(b"HTTP/1.1 200")
    assert upstream.last_request.request_line == f"GET {path} HTTP/1.1".encode()


@pytest.mark.parametrize(
    "field",
    ["api_base", "base_url", "api_key", "custom_llm_provider", "extra_headers", "api_version", "model_list", "proxy"],
)
def test_no_body_chooses_the_host_of_a_provider(keyed_proxy: Proxy, upstream: FaultyUpstream, field: str) -> None:
    answer = keyed_proxy.post(short_chat(model="groq/llama", **{field: upstream.url}))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert not upstream.requests
    assert (
        keyed_proxy.post(short_chat(**{field: EVIL_ORIGIN})).status_code == 200
    )  # the upstream gets unknown fields unchanged
    assert upstream.last_request.json[field] == EVIL_ORIGIN


# keys in URLs, files and logs


@pytest.mark.parametrize("where", ["/v1/files/{}", "/v1/files?key={}", "/{}", "/v1/{}%20x"])
def test_a_key_in_the_url_is_neither_forwarded_nor_stored(
    keyed_proxy: Proxy, upstream: FaultyUpstream, where: str
) -> None:
    key = KEY_PREFIX + "0" * 56
    answer = issue.send_request(keyed_proxy, where.format(key))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "key_in_address")
    assert key not in answer.text
    assert key not in str(keyed_proxy.wait_for_row(answer))
    assert not upstream.requests


def test_no_key_is_stored_logged_or_returned(tmp_path: Path, upstream: FaultyUpstream) -> None:
    own_records, all_records = Records(), Records()
    key = issue.create_key(tmp_path, "alice", requests_per_minute=7)
    root, revoked = issue.create_key(tmp_path, "root", admin=True), issue.create_key(tmp_path, "revoked")
    issue.revoke_key(tmp_path, "revoked")
    wrong, answers = key[:-1] + ("0" if key[-1] != "0" else "1"), list[httpx.Response]()
    with issue.run_proxy(upstream.url, tmp_path, upstream_api_key=UPSTREAM_KEY, log_level="debug") as proxy:
        for name, handler in (("clara_proxy", own_records), ("", all_records)):
            logging.getLogger(name).addHandler(handler)
        try:
            for path in (CHAT, OTHER, "/v1/messages", "/v1/compress", "/stats", f"/v1/x/{key}"):
                for presented in (key, root, revoked, wrong):
                    for headers in (
                        {"authorization": f"Bearer {presented}"},
                        {"x-clara-key": presented, "x-api-key": CLIENT_KEY},
                    ):
                        body = tool_chat(x=path)
                        answers.append(issue.send_request(proxy, path, method="POST", json=body, headers=headers))
            answers.append(issue.send_request(proxy, "/stats", auth=("admin", root)))
            upstream.respond_with(b"nonsense\r\n\r\n")
            answers.append(
                issue.send_request(proxy, CHAT, method="POST", json=short_chat(), headers={"x-clara-key": root})
            )
        finally:
            for name, handler in (("clara_proxy", own_records), ("", all_records)):
                logging.getLogger(name).removeHandler(handler)
    statuses = {answer.status_code for answer in answers}
    assert {200, 400, 401, 403, 429, 502} <= statuses
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    logged = "\n".join(own_records.texts + all_records.texts)
    returned = "\n".join(f"{answer.headers}{answer.text}" for answer in answers)
    assert len(stored) > 10_000
    for secret in (key, root, revoked, wrong, UPSTREAM_KEY, CLIENT_KEY):
        bare = secret[len(KEY_PREFIX) + 8 :] if secret.startswith(KEY_PREFIX) else secret
        assert bare.encode() not in stored
        assert bare not in logged
        assert bare not in returned
    assert not [
        request
        for request in upstream.requests
        if KEY_PREFIX.encode() in b"".join(value for _, value in request.headers)
    ]


async def test_only_paths_without_an_endpoint_are_forwarded_directly(tmp_path: Path, upstream: FaultyUpstream) -> None:
    """The application forwards other `/v1` paths without loading the endpoints on FastAPI."""
    models = (LitellmModel(name="old", litellm="openai/gpt-4", api_key="k"),)
    url = f"{upstream.url}/v1"
    app = create_app(Settings(upstream_base_url=url, data_dir=tmp_path, model="none", memory=True, models=models))
    async with app.router.lifespan_context(app):
        paths = create_api(app.state.services).openapi()["paths"].keys() - ADAPTERS.keys()
    segments = {path.split("/")[2] for path in paths if path.startswith("/v1/")}
    assert {*segments, "models"} == app._own_segments  # pyright: ignore[reportPrivateUsage]
