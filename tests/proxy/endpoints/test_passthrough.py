"""Whatever the proxy has no part in comes back as it was, and what is private stays where it belongs (laws 5 and 8)."""

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, TIMEOUT, Proxy, short_chat, tool_chat

CHAT, OTHER = "/v1/chat/completions", "/v1/embeddings"
BOTH = pytest.mark.parametrize("path", [CHAT, OTHER])
OURS = "sk-upstream-9876543210"


@pytest.fixture(scope="module")
def keyed(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("keyed"), upstream_api_key=OURS) as proxy:
        yield proxy


class Records(logging.Handler):
    """Keeps all that is logged."""

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
    "a usage that is none": ("200 OK", "application/json", b'{"usage":[1]}'),
    "bytes": ("200 OK", "application/octet-stream", bytes(range(256)) * 500),
    "nothing": ("200 OK", "application/json", b""),
}


@BOTH
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_comes_back_as_it_was(proxy: Proxy, upstream: FaultyUpstream, path: str, name: str) -> None:
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
    is_none = path == CHAT and not body.startswith(b'{"')  # what is no JSON object answers no chat
    assert row.outcome == ("upstream_error" if answer.status_code >= 400 or is_none else "ok")
    assert row.status == answer.status_code
    assert row.billed_input is None


@BOTH
def test_an_answer_without_a_body_has_none(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_with(b"HTTP/1.1 204 No Content\r\nx-custom: 1\r\n\r\n")
    answer = proxy.post(short_chat(), path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-custom"] == "1"
    assert "content-length" not in answer.headers
    assert "transfer-encoding" not in answer.headers


@BOTH
def test_headers_come_back_as_they_were(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
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


def test_an_upstream_without_date_and_server_gets_none(proxy: Proxy, upstream: FaultyUpstream) -> None:
    assert not {"date", "server"} & set(proxy.post(short_chat()).headers)


@BOTH
def test_headers_arrive_as_they_were_but_for_those_of_one_hop_and_ours(
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
    arrived = upstream.last_request
    assert arrived.header_values("authorization") == [f"Bearer {CLIENT_KEY}".encode()]
    assert arrived.header_values("openai-organization") == [b"org"]
    assert arrived.header_values("user-agent") == [b"me/1"]
    assert arrived.header_values("x-two") == [b"1", b"2"]
    assert arrived.header_values("cookie") == [b"s=1"]
    assert arrived.header_values("accept") == [b"a/b"]
    assert arrived.header_values("x-name") == ["é漢".encode()]
    assert arrived.header_values("host") == [upstream.url.removeprefix("http://").encode()]
    assert arrived.header_values("content-length") == [b"%d" % len(body)]
    names = {name.lower() for name, _ in arrived.headers}
    assert not names & {b"connection", b"x-hop", b"te", b"proxy-authorization", b"content-type", b"transfer-encoding"}
    assert not [name for name in names if name.startswith(b"x-clara")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS", "POST"])
def test_any_method_any_path_any_query(proxy: Proxy, upstream: FaultyUpstream, method: str) -> None:
    target = "/v1/files/a%2Fb%20c/%C3%A9?limit=2&after=a%20b&after=&x=%2f+y"
    upstream.respond_with(http_response(b"" if method == "HEAD" else b"ok", "x-custom: 1", content_type="text/plain"))
    answer = httpx.request(method, proxy.url + target)
    assert upstream.last_request.request_line == f"{method} {target} HTTP/1.1".encode()
    assert answer.content == (b"" if method == "HEAD" else b"ok")
    assert answer.headers["x-custom"] == "1"
    row = proxy.wait_for_row(answer)
    assert (row.protocol, row.mode_used, row.outcome) == ("passthrough", "off", "ok")
    assert "limit" not in row.path  # a query may hold what is nobody's business


def test_the_list_of_stored_completions_is_no_chat(proxy: Proxy, upstream: FaultyUpstream) -> None:
    assert httpx.get(f"{proxy.url}/v1/chat/completions?limit=1").status_code == 200
    assert upstream.last_request.request_line == b"GET /v1/chat/completions?limit=1 HTTP/1.1"


def test_an_upload_in_chunks_arrives_whole(proxy: Proxy, upstream: FaultyUpstream) -> None:
    pieces = [b"--x\r\n", bytes(range(256)) * 4000, b"\r\n--x--"]
    answer = httpx.post(
        f"{proxy.url}/v1/files", content=iter(pieces), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 200
    assert upstream.last_request.body == b"".join(pieces)
    assert upstream.last_request.header_values("content-type") == [b"multipart/form-data; boundary=x"]


def test_a_compressed_answer_is_left_compressed_where_we_have_no_part_in_it(
    proxy: Proxy, upstream: FaultyUpstream
) -> None:
    packed = gzip.compress(b'{"a": 1}')
    upstream.respond_with(http_response(packed, "content-encoding: gzip"))
    with httpx.stream("POST", proxy.url + OTHER, json={}, headers={"accept-encoding": "gzip"}) as answer:
        assert b"".join(answer.iter_raw()) == packed
        assert answer.headers["content-encoding"] == "gzip"
    assert upstream.last_request.header_values("accept-encoding") == [b"gzip"]


def test_a_chat_answered_compressed_although_nobody_asked_is_unpacked(proxy: Proxy, upstream: FaultyUpstream) -> None:
    upstream.respond_with(http_response(gzip.compress(orjson.dumps(faulty.completion())), "content-encoding: gzip"))
    answer = proxy.post(short_chat())
    assert answer.json() == faulty.completion()
    assert "content-encoding" not in answer.headers
    assert upstream.last_request.header_values("accept-encoding") == [b"identity"]
    assert proxy.wait_for_row(answer).billed_input == 40


@BOTH
def test_a_redirect_is_not_followed(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_with(http_response(b"", f"location: {upstream.url}/elsewhere", status="307 Temporary Redirect"))
    answer = proxy.post(short_chat(), path)
    assert answer.status_code == 307
    assert answer.headers["location"] == f"{upstream.url}/elsewhere"
    assert len(upstream.requests) == 1


@BOTH
def test_cookies_do_not_pass_from_one_client_to_another(proxy: Proxy, upstream: FaultyUpstream, path: str) -> None:
    upstream.respond_with(http_response(b"{}", "set-cookie: session=secret; Path=/"))
    assert "set-cookie" in proxy.post(short_chat(), path).headers
    proxy.post(short_chat(), path)
    assert upstream.last_request.header_values("cookie") == []


@BOTH
def test_our_key_takes_the_place_of_the_clients(keyed: Proxy, upstream: FaultyUpstream, path: str) -> None:
    keyed.post(short_chat(), path, api_key=CLIENT_KEY, x_api_key=CLIENT_KEY)
    assert upstream.last_request.header_values("authorization") == [f"Bearer {OURS}".encode()]
    assert CLIENT_KEY.encode() not in b"".join(value for _, value in upstream.last_request.headers)


def test_anthropic_gets_the_clients_own_key_and_never_ours(keyed: Proxy, upstream: FaultyUpstream) -> None:
    httpx.post(f"{keyed.url}/v1/messages?beta=true", json={}, headers={"x-api-key": CLIENT_KEY})
    assert upstream.last_request.request_line.startswith(b"POST /v1/messages?beta=true ")
    assert upstream.last_request.header_values("x-api-key") == [CLIENT_KEY.encode()]
    assert upstream.last_request.header_values("authorization") == []


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/batches/b1"])
def test_what_is_anthropics_goes_to_anthropic(tmp_path: Path, upstream: FaultyUpstream, path: str) -> None:
    nowhere = "http://127.0.0.1:9/v1"
    with running.run_proxy(upstream.url, tmp_path, upstream_base_url=nowhere) as proxy:
        assert proxy.post({}, path).status_code == 200
        assert proxy.post({}, "/v1/messages_of_somebody_else").status_code == 502


def test_keys_and_contents_are_written_nowhere_in_the_clear(tmp_path: Path, upstream: FaultyUpstream) -> None:
    said, asked = Records(), Records()
    secret = "the-word-nobody-may-read"
    with running.run_proxy(upstream.url, tmp_path, upstream_api_key=OURS, log_level="debug") as proxy:
        for name, handler in (("clara_proxy", said), ("", asked)):
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
            for name, handler in (("clara_proxy", said), ("", asked)):
                logging.getLogger(name).removeHandler(handler)
        ledger = b"".join(file.read_bytes() for file in tmp_path.glob("ledger*"))
        originals = b"".join(file.read_bytes() for file in tmp_path.glob("originals*"))
    logged = "\n".join(said.texts + asked.texts)
    for private in (CLIENT_KEY, OURS, secret):
        assert private.encode() not in ledger
        assert private not in logged
    assert CLIENT_KEY.encode() not in originals
    assert len(ledger) > 10_000


def test_a_place_that_is_not_there_says_where_to_point(proxy: Proxy) -> None:
    answer = httpx.post(f"{proxy.url}/chat/completions", json=short_chat(), timeout=TIMEOUT)
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
def test_what_is_ours_by_another_method_and_trace_go_nowhere(
    proxy: Proxy, upstream: FaultyUpstream, method: str, path: str
) -> None:
    answer = httpx.request(method, proxy.url + path, headers={"authorization": f"Bearer {CLIENT_KEY}"})
    assert answer.status_code == 405
    assert not upstream.requests


def test_the_openapi_document_names_every_operation_once(proxy: Proxy) -> None:
    paths: Any = httpx.get(f"{proxy.url}/openapi.json").json()["paths"]
    names = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(names) == len(set(names)) > 10


@BOTH
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_label_may_be_written_in_any_way_that_clients_write_it(proxy: Proxy, path: str, encoding: str) -> None:
    headers = {b"authorization": f"Bearer {CLIENT_KEY}".encode(), b"x-clara-user": "Jürgen".encode(encoding)}
    assert proxy.wait_for_row(httpx.post(proxy.url + path, json=short_chat(), headers=headers)).user == "Jürgen"
