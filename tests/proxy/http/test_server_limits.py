"""Limits before authentication: heads, silent clients, and connections."""

import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from clara_proxy.proxy.http import server_limits
from clara_proxy.proxy.http.server_limits import MAX_HEAD_BYTES, MAX_HEADERS, LimitedConnection, RefusalReason
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import TIMEOUT, Proxy, short_chat

BODY = orjson.dumps(short_chat())


@pytest.fixture(scope="module")
def strict(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy(
        _upstream.url, tmp_path_factory.mktemp("strict"), client_timeout=0.2, max_connections=4
    ) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(proxy.url).port or 0), timeout=TIMEOUT)


def send(proxy: Proxy, *pieces: bytes) -> bytes:
    """Send pieces until the server closes the connection or answers, and return the answer."""
    with connect(proxy) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
            return client.recv(65536)
        except ConnectionError:
            return b""


def is_cut_off(proxy: Proxy, start: bytes, piece: bytes, *, pause: float = 0.0, pieces: int = 2000) -> bool:
    """Send a start and then the same piece again and again; return True if the server closes the connection."""
    with connect(proxy) as client:
        try:
            client.sendall(start)
            for _ in range(pieces):
                client.sendall(piece)
                time.sleep(pause)
        except ConnectionError:
            return True
    return False


def read_metric(proxy: Proxy, reason: str) -> float:
    name = f'clara_refused_connections_total{{reason="{reason}"}} '
    lines = [line for line in httpx.get(f"{proxy.url}/metrics").text.splitlines() if line.startswith(name)]
    return float(lines[0].split()[1]) if lines else 0.0


def format_head(version: str, *headers: bytes, length: int = len(BODY)) -> bytes:
    lines = [f"POST /v1/chat/completions HTTP/{version}".encode(), b"host: 127.0.0.1", b"content-length: %d" % length]
    return b"\r\n".join([*lines, *headers, b"", b""])


@pytest.mark.parametrize(
    ("version", "pieces"),
    [
        ("1.1", [b"x-long: " + b"a" * 2 * MAX_HEAD_BYTES]),
        ("1.0", [b"x-long: " + b"a" * 2 * MAX_HEAD_BYTES]),
        ("1.1", [b"x-%d: a" % number for number in range(MAX_HEADERS + 1)]),
        ("1.1", [b"a: b"] * (MAX_HEAD_BYTES // 4)),
        ("1.0", [b"a: b"] * (MAX_HEAD_BYTES // 4)),
    ],
    ids=["long", "long in 1.0", "many", "many short", "many short in 1.0"],
)
def test_a_head_that_is_too_large_is_refused(
    proxy: Proxy, upstream: FaultyUpstream, version: str, pieces: list[bytes]
) -> None:
    answer = send(proxy, format_head(version, *pieces) + BODY)
    assert not upstream.requests
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert proxy.post(short_chat()).status_code == 200


def test_an_endless_header_is_refused_while_it_arrives(proxy: Proxy) -> None:
    before = read_metric(proxy, "headers")
    assert is_cut_off(proxy, b"GET /livez HTTP/1.1\r\nx: ", b"a" * 65536)
    assert read_metric(proxy, "headers") == before + 1


def test_endless_trailers_are_refused(proxy: Proxy) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    assert is_cut_off(proxy, head, b"trailer: value\r\n" * 4096)


def test_a_head_with_as_many_headers_as_allowed_is_served(proxy: Proxy) -> None:
    headers = {f"x-{number}": "a" * 100 for number in range(MAX_HEADERS - 10)}
    assert httpx.post(f"{proxy.url}/v1/chat/completions", json=short_chat(), headers=headers).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost:", b"GET /livez HTTP/1.0\r\n"])
def test_a_client_without_a_whole_head_is_disconnected(strict: Proxy, sent: bytes) -> None:
    before = read_metric(strict, "head-timeout")
    assert send(strict, sent) == b""
    assert read_metric(strict, "head-timeout") == before + 1


def test_a_client_that_drips_a_head_is_disconnected(strict: Proxy) -> None:
    assert is_cut_off(strict, b"GET /livez HTTP/1.1\r\nx: ", b"a", pause=0.02)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_client_without_a_whole_body_gets_a_408(strict: Proxy, version: str) -> None:
    answer = send(strict, format_head(version) + BODY[:9])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert orjson.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def test_a_slow_body_is_accepted(strict: Proxy) -> None:
    with connect(strict) as client:
        client.sendall(format_head("1.1"))
        for byte in (BODY[:10], BODY[10:20], BODY[20:30], BODY[30:]):
            time.sleep(0.08)
            client.sendall(byte)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_connection_beyond_the_limit_is_refused_and_an_idle_one_gives_way(strict: Proxy) -> None:
    head = b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with connect(strict) as idle:
        idle.sendall(head)
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
        silent = [connect(strict) for _ in range(3)]
        assert send(strict, head).startswith(b"HTTP/1.1 200 ")
        assert idle.recv(1) == b""
        silent.append(connect(strict))
        answer = send(strict, b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"too_many_connections"' in answer
        for connection in silent:
            connection.close()


class StalledConnection(LimitedConnection):
    """A connection whose client does not read its response."""

    ended: RefusalReason | None = None

    @property
    def waits_for(self) -> RefusalReason | None:
        return "unread-response"

    @property
    def is_idle(self) -> bool:
        return False

    def end(self, reason: RefusalReason) -> None:
        self.ended = reason


def test_an_unread_response_is_aborted_later_than_a_silent_client() -> None:
    limits, connection = server_limits.ServerLimits(9, 1.0), StalledConnection()
    for now in (0.0, 100.0, 299.0):
        limits.sweep_once([connection, object()], now)
        assert connection.ended is None
    limits.sweep_once([connection], 301.0)
    assert connection.ended == "unread-response"


def test_the_limit_of_open_files_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, connections in ((64, 8), (1024, 488), (10**6, server_limits.MAX_CONNECTIONS), (10, 4)):

        def get_limit(_: int, files: int = files) -> tuple[int, int]:
            return files, files

        monkeypatch.setattr(resource, "getrlimit", get_limit)
        assert server_limits.compute_max_connections() == connections


def test_each_refusal_is_logged_with_its_setting(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    limits = server_limits.ServerLimits(7, 3.0)
    limits.record_refusal("connections", ("127.0.0.1", 1))
    limits.record_refusal("connections", ("127.0.0.1", 2))
    limits.record_refusal("head-timeout", None)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "7 are open already (CLARA_MAX_CONNECTIONS)" in caplog.text
    assert limits.refusals == {"connections": 2, "head-timeout": 1}
