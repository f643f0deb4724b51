"""Invariants structure and private of passthrough: bytes are unchanged, keys stay with their upstream."""

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, TIMEOUT, Proxy, short_chat, tool_chat

CHAT, OTHER = "/v1/chat/completions", "/v1/embeddings"
both_paths = pytest.mark.parametrize("path", [CHAT, OTHER])
UPSTREAM_KEY = "sk-upstream-9876543210"


@pytest.fixture(scope="module")
def proxy_with_key(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("keyed"), upstream_api_key=UPSTREAM_KEY) as proxy:
        yield proxy


class Records(logging.Handler):
    """Collects all log messages."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter("%(message)s").format(record))


ANSWERS = {
    "refused": ("401 Unauthorized", "application/json", b'{"error": {"message":"no \\u00e9", "code" :null}}'),
    "too many": ("429 Too Many Requests", "application/json; charset=utf-8", b'{"error":{"message":"slow down"}}'),
    "down": ("503 Service Unavailable", "text/html", b"<html><h1>503</h1></html>"),
    "a strange status": ("418 I'm a teapot", "text/plain", b"short and stout"),
    "an unknown status": ("599 Whatever", "text/plain", b""),
    "nonsense": ("200 OK", "application/json", b"{{{ \xff\x00 not JSON"),
    "strange JSON": ("200 OK", "application/json", b'[{"usage": 3}]'),
    "a strange usage": ("200 OK", "application/json", b'{"usage":{"prompt_tokens":-5,"completion_tokens":"x"}}'),
    "an invalid usage": ("200 OK", "application/json", b'{"usage":[1]}'),
    "bytes": ("200 OK", "application/octet-stream", bytes(range(256)) * 500),
    "nothing": ("200 OK", "application/json", b""),
}


@both_paths
@pytest.mark.parametrize("name", ANSWERS)
def test_a_response_is_returned_unchanged(proxy: Proxy, upstream: FaultyUpstream, path: str, name: str) -> None:
    status, kind, body = ANSWERS[name]
    upstream.respond_with(
        http_response(body, "retry-after: 7", "x-request-id: req-1", status=status, content_type=kind)
    )
    answer = proxy.post(short_chat(), path)
    assert answer.status_code == int(status[:3])
    assert answer.content == body
    assert answer.headers.get_list("content-type") == [kind]
    assert answer.headers.get_list("content-length") == [str(len(body))]
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-request-id"] == "req-1"
    row = proxy.wait_for_row(answer)
    is_invalid = path == CHAT and not body.startswith(b'{"')  # a chat needs a JSON object
    assert row.outcome == ("upstream_error" if answer.status_code >= 400 or is_invalid else "ok")
    assert row.status == answer.status_code
    assert row.billed_input is None


@both_paths
def test_a_response_without_a_body_stays_without(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_with(b"HTTP/1.1 204 No Content\r\nx-custom: 1\r\n\r\n")
    answer = proxy.post(short_chat(), path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-custom"] == "1"
    assert "content-length" not in answer.headers
    assert "transfer-encoding" not in answer.headers


@both_paths
def test_response_headers_are_returned_unchanged(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    long = "x" * 12_000
    upstream.respond_with(
        http_response(
            b"{}",
            *("Set-Cookie: a=1; Path=/", "set-cookie: b=2", "X-Custom: one", "x-custom: two", f"x-long: {long}"),
            *("Date: Mon, 01 Jan 2024 00:00:00 GMT", "Server: somebody", "openai-processing-ms: 12"),
            *("Connection: x-for-one-hop", "x-for-one-hop: 1", "keep-alive: timeout=5", "proxy-authenticate: Basic"),
        )
    )
    answer = proxy.post(short_chat(), path)
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert answer.headers.get_list("x-custom") == ["one", "two"]
    assert answer.headers.get_list("date") == ["Mon, 01 Jan 2024 00:00:00 GMT"]
    assert answer.headers.get_list("server") == ["somebody"]
    assert answer.headers["openai-processing-ms"] == "12"
    assert answer.headers["x-long"] == long
    assert not {"x-for-one-hop", "keep-alive", "proxy-authenticate"} & set(answer.headers)


def test_the_proxy_adds_no_date_and_server_headers(proxy: Proxy, upstream: FaultyUpstream) -> None:
    assert not {"date", "server"} & set(proxy.post(short_chat()).headers)


@both_paths
def test_request_headers_are_forwarded_without_hop_by_hop_and_own_headers(
    proxy: Proxy, upstream: FaultyUpstream, path: str
) -> None:
    headers = [
        *(
            ("Authorization", f"Bearer {CLIENT_KEY}"),
            ("OpenAI-Organization", "org"),
            ("User-Agent", "me/1"),
            ("x-two", "1"),
        ),
        *(("x-two", "2"), ("Cookie", "s=1"), ("Accept", "a/b"), ("x-name", "é漢".encode().decode("latin-1"))),
        *(("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("TE", "trailers"), ("Proxy-Authorization", "p")),
        *(("x-clara-mode", "extract"), ("X-Clara-Tag-Team", "blue"), ("x-clara-session", "s")),
    ]
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    body = orjson.dumps(short_chat())
    assert httpx.post(proxy.url + path, content=body, headers=raw).status_code == 200
    request = upstream.last_request
    assert request.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]
    assert request.header_values("openai-organization") == [b"org"]
    assert request.header_values("user-agent") == [b"me/1"]
    assert request.header_values("x-two") == [b"1", b"2"]
    assert request.header_values("cookie") == [b"s=1"]
    assert request.header_values("accept") == [b"a/b"]
    assert request.header_values("x-name") == ["é漢".encode()]
    assert request.header_values("host") == [upstream.url.removeprefix("http://").encode()]
    assert request.header_values("content-length") == [b"%d" % len(body)]
    names = {name.lower() for name, _ in request.headers}
    assert not names & {b"connection", b"x-hop", b"te", b"proxy-authorization", b"content-type", b"transfer-encoding"}
    assert not [name for name in names if name.startswith(b"x-clara")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS", "POST"])
def test_any_method_path_and_query_is_forwarded(proxy: Proxy, upstream: FaultyUpstream, method: str) -> None:
    target = "/v1/files/a%2Fb%20c/%C3%A9?limit=2&after=a%20b&after=&x=%2f+y"
    upstream.respond_with(http_response(b"" if method == "HEAD" else b"ok", "x-custom: 1", content_type="text/plain"))
    answer = httpx.request(method, proxy.url + target)
    assert upstream.last_request.request_line == f"{method} {target} HTTP/1.1".encode()
    assert answer.content == (b"" if method == "HEAD" else b"ok")
    assert answer.headers["x-custom"] == "1"
    row = proxy.wait_for_row(answer)
    assert (row.protocol, row.mode_used, row.outcome) == ("passthrough", "off", "ok")
    assert "limit" not in row.path  # a query may be confidential


def test_the_list_of_stored_completions_is_forwarded(proxy: Proxy, upstream: FaultyUpstream) -> None:
    assert httpx.get(f"{proxy.url}/v1/chat/completions?limit=1").status_code == 200
    assert upstream.last_request.request_line == b"GET /v1/chat/completions?limit=1 HTTP/1.1"


def test_a_chunked_upload_is_forwarded_whole(proxy: Proxy, upstream: FaultyUpstream) -> None:
    chunks = [b"--x\r\n", bytes(range(256)) * 4000, b"\r\n--x--"]
    answer = httpx.post(
        f"{proxy.url}/v1/files", content=iter(chunks), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 200
    assert upstream.last_request.body == b"".join(chunks)
    assert upstream.last_request.header_values("content-type") == [b"multipart/form-data; boundary=x"]


def test_a_passthrough_response_keeps_its_content_encoding(proxy: Proxy, upstream: FaultyUpstream) -> None:
    packed = gzip.compress(b'{"a": 1}')
    upstream.respond_with(http_response(packed, "content-encoding: gzip"))
    with httpx.stream("POST", proxy.url + OTHER, json={}, headers={"accept-encoding": "gzip"}) as answer:
        assert b"".join(answer.iter_raw()) == packed
        assert answer.headers["content-encoding"] == "gzip"
    assert upstream.last_request.header_values("accept-encoding") == [b"gzip"]


def test_an_unrequested_content_encoding_of_a_chat_is_decoded(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_with(http_response(gzip.compress(orjson.dumps(faulty.completion())), "content-encoding: gzip"))
    answer = proxy.post(short_chat())
    assert answer.json() == faulty.completion()
    assert "content-encoding" not in answer.headers
    assert upstream.last_request.header_values("accept-encoding") == [b"identity"]
    assert proxy.wait_for_row(answer).billed_input == 40


@both_paths
def test_a_redirect_is_not_followed(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_with(http_response(b"", f"location: {upstream.url}/elsewhere", status="307 Temporary Redirect"))
    answer = proxy.post(short_chat(), path)
    assert answer.status_code == 307
    assert answer.headers["location"] == f"{upstream.url}/elsewhere"
    assert len(upstream.requests) == 1


@both_paths
def test_cookies_are_not_shared_between_clients(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_with(http_response(b"{}", "set-cookie: session=secret; Path=/"))
    assert "set-cookie" in proxy.post(short_chat(), path).headers
    proxy.post(short_chat(), path)
    assert upstream.last_request.header_values("cookie") == []


@both_paths
def test_the_configured_key_replaces_the_clients_keys(
    proxy_with_key: Proxy, upstream: FaultyUpstream, path: str
) -> None:
    proxy_with_key.post(short_chat(), path, api_key=CLIENT_KEY, x_api_key=CLIENT_KEY)
    assert upstream.last_request.header_values("authorization") == [f"Bearer {UPSTREAM_KEY}".encode()]
    assert CLIENT_KEY.encode() not in b"".join(value for _, value in upstream.last_request.headers)


def test_anthropic_gets_the_clients_key_and_not_openais(proxy_with_key: Proxy, upstream: FaultyUpstream) -> None:
    httpx.post(f"{proxy_with_key.url}/v1/messages?beta=true", json={}, headers={"x-api-key": CLIENT_KEY})
    assert upstream.last_request.request_line.startswith(b"POST /v1/messages?beta=true ")
    assert upstream.last_request.header_values("x-api-key") == [CLIENT_KEY.encode()]
    assert upstream.last_request.header_values("authorization") == []


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches/b1"])
def test_anthropics_paths_go_to_anthropics_upstream(tmp_path: Path, upstream: FaultyUpstream, path: str) -> None:
    nowhere = "http://127.0.0.1:9/v1"
    with running.run_proxy(upstream.url, tmp_path, upstream_base_url=nowhere) as proxy:
        assert proxy.post({}, path).status_code == 200
        assert proxy.post({}, "/v1/messages_of_somebody_else").status_code == 502


def test_no_key_or_content_is_stored_or_logged_in_plain_text(tmp_path: Path, upstream: FaultyUpstream) -> None:
    own_records, all_records = Records(), Records()
    secret = "a-confidential-word"
    with running.run_proxy(upstream.url, tmp_path, upstream_api_key=UPSTREAM_KEY, log_level="debug") as proxy:
        for name, handler in (("clara_proxy", own_records), ("", all_records)):
            logging.getLogger(name).addHandler(handler)
        try:
            chat = tool_chat(f"{LOG_TEXT}\n{secret}")
            proxy.wait_for_row(proxy.post(chat, x_api_key=CLIENT_KEY))
            proxy.post({**chat, "stream": True})
            proxy.post(b"{", x_clara_mode="bogus")
            proxy.post({"input": secret}, OTHER)
            upstream.respond_with(b"nonsense\r\n\r\n")
            proxy.wait_for_row(proxy.post(chat))
        finally:
            for name, handler in (("clara_proxy", own_records), ("", all_records)):
                logging.getLogger(name).removeHandler(handler)
        ledger = b"".join(file.read_bytes() for file in tmp_path.glob("ledger*"))
        originals = b"".join(file.read_bytes() for file in tmp_path.glob("originals*"))
    logged = "\n".join(own_records.texts + all_records.texts)
    for private in (CLIENT_KEY, UPSTREAM_KEY, secret):
        assert private.encode() not in ledger
        assert private not in logged
    assert CLIENT_KEY.encode() not in originals
    assert len(ledger) > 10_000


def test_an_unknown_path_is_a_404_with_the_api_url(proxy: Proxy) -> None:
    answer = httpx.post(f"{proxy.url}/v2/chat/completions", json=short_chat(), timeout=TIMEOUT)
    assert answer.status_code == 404
    assert f"{proxy.url}/v1" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("TRACE", "/v1/files"),
        ("TRACE", "/v1/compress"),
        ("PUT", "/v1/compress"),
        ("DELETE", "/v1/retrieve/0123456789ab"),
    ],
)
def test_trace_and_wrong_methods_of_own_paths_are_not_forwarded(
    proxy: Proxy, upstream: FaultyUpstream, method: str, path: str
) -> None:
    answer = httpx.request(method, proxy.url + path, headers={"authorization": f"Bearer {CLIENT_KEY}"})
    assert answer.status_code == 405
    assert not upstream.requests


@both_paths
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_label_may_be_utf_8_or_latin_1(proxy: Proxy, path: str, encoding: str) -> None:
    headers = {b"authorization": f"Bearer {CLIENT_KEY}".encode(), b"x-clara-user": "Jürgen".encode(encoding)}
    assert proxy.wait_for_row(httpx.post(proxy.url + path, json=short_chat(), headers=headers)).user == "Jürgen"
