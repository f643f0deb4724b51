"""`clara-proxy serve`: start messages, start errors, and shutdown."""

import re
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.stores.errors import StartupError
from clara_proxy.tests import running
from clara_proxy.tests.faulty import EVENT_STREAM_HEAD, FaultyUpstream, completion_chunk, http_chunk, sse_event
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.commands import shell
from clara_proxy.tests.running import TIMEOUT, short_chat

READY = "ready: OPENAI_BASE_URL="


def parse_url(line: str) -> str:
    return line.partition(READY)[2].partition("/v1")[0]


def test_start_error_is_one_line_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = shell.run("serve", CLARA_PORT="0", CLARA_DATA_DIR=str(tmp_path / "file"))
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"clara-proxy: the data directory .* \(CLARA_DATA_DIR\)\n", result.stderr), result.stderr


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"ledger in .*: file is not a database \(CLARA_DATA_DIR\)", {}),
        (r"ledger .*\(CLARA_LEDGER_URL\)", {"ledger_url": "postgresql://me:hunter2@127.0.0.1:1/x"}),
        (r"ledger .*\(CLARA_LEDGER_URL\)", {"ledger_url": "postgresql://me:hun/ter2@127.0.0.1/x"}),
        (r"originals .*\(CLARA_ORIGINALS_URL\)", {"originals_url": "redis://:hunter2@127.0.0.1:1"}),
    ],
)
def test_store_error_names_the_store_without_its_password(
    tmp_path: Path, message: str, options: dict[str, Any]
) -> None:
    settings: dict[str, Any] = options or {"data_dir": tmp_path / "damaged"}
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    with (
        pytest.raises(StartupError, match=message) as caught,
        running.run_proxy("http://x", tmp_path / "data", **settings),
    ):
        pass
    assert "hun" not in str(caught.value)


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clara_proxy.proxy.stores.ledger_postgres", None)
    message = r"needs the extra: pip install 'clara-proxy\[postgres\]' \(CLARA_LEDGER_URL\)"
    with (
        pytest.raises(StartupError, match=message),
        running.run_proxy("http://x", tmp_path, ledger_url="postgresql://h/x"),
    ):
        pass


@pytest.mark.parametrize("mode", ["answer", "summary", "latent"])
def test_mode_without_its_model_prevents_the_start(tmp_path: Path, mode: str) -> None:
    with (
        pytest.raises(StartupError, match=f"mode {mode} .*CLARA_MODEL"),
        running.run_proxy("http://x", tmp_path, mode=mode),
    ):
        pass
    if mode != "latent":  # clara-nano is too small for documents
        with (
            pytest.raises(StartupError, match="CLARA_MODEL"),
            running.run_proxy("http://x", tmp_path, mode=mode, model="clara-nano"),
        ):
            pass


def test_start_messages_name_addresses_and_likely_mistakes(upstream: FaultyUpstream, tmp_path: Path) -> None:
    environment = {"CLARA_PORT": "0", "CLARA_DATA_DIR": str(tmp_path)}
    settings = {**environment, "CLARA_MOED": "off", "OPENAI_BASE_URL": "http://user:hunter2@other.example/v1"}
    with shell.start(tmp_path, "serve", **settings) as proxy:
        line = proxy.wait_for_line(READY)
        url = parse_url(line)
        assert line.endswith(
            f"{READY}{url}/v1, upstream https://api.openai.com/v1, dashboard {url}/dashboard, data in {tmp_path}\n"
        )
        assert httpx.get(f"{url}/livez").status_code == 200
        assert "CLARA_MOED is not a setting (did you mean CLARA_MODE?)" in proxy.err
        assert (
            "OPENAI_BASE_URL=http://other.example/v1 configures clients, not this proxy; requests go to https://api.openai.com"
            in proxy.err
        )
        assert "hunter2" not in proxy.err
        proxy.interrupt()
        proxy.wait()
    settings = {**environment, "OPENAI_BASE_URL": "http://other.example/v1"}
    with shell.start(tmp_path, "serve", "--upstream", upstream.url, **settings) as proxy:
        assert f"upstream {upstream.url}," in proxy.wait_for_line(READY)
        assert proxy.err.count("\n") == 1


def test_invalid_host_and_used_port_have_different_errors(tmp_path: Path) -> None:
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_OPEN": "true"}
    for host in ("nowhere.invalid", "192.0.2.7"):
        result = shell.run("serve", "--host", host, **environment)
        assert result.returncode == 1
        assert re.fullmatch(rf"clara-proxy: cannot listen on {host}:8765: .*; change it with --host\n", result.stderr)
    with serve.bind_socket("127.0.0.1", 0) as listener:
        listener.listen()
        result = shell.run("serve", CLARA_PORT=str(listener.getsockname()[1]), **environment)
    assert result.stderr.endswith("change it with --port\n")


def test_second_ctrl_c_stops_a_waiting_shutdown_at_once(upstream: FaultyUpstream, tmp_path: Path) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("so far"))))
    environment = {"CLARA_PORT": "0", "CLARA_DATA_DIR": str(tmp_path)}
    with shell.start(tmp_path, "serve", "--upstream", f"{upstream.url}/v1", **environment) as proxy:
        with streaming(parse_url(proxy.wait_for_line(READY))) as (started, _):
            assert started.wait(TIMEOUT)
            proxy.interrupt()
            assert "for 1 request;" in proxy.wait_for_line("waiting up to 10 s")
            proxy.interrupt()
            proxy.wait()
        stderr = proxy.err
    for noise in ("Traceback", "CancelledError", 'File "', "timeout graceful shutdown exceeded"):
        assert noise not in stderr
    (row,) = issue.read_rows(tmp_path)
    assert (row.outcome, row.status, row.tokens_sent > 0) == ("cancelled", 200, True)


@pytest.mark.parametrize(
    ("path", "tools", "last_event"),
    [
        ("/v1/chat/completions", True, b'data: {"error":{'),
        ("/v1/chat/completions", False, b'data: {"error":{'),
        ("/v1/responses", False, b'event: error\ndata: {"type":"error",'),
        ("/v1/messages", True, b'event: error\ndata: {"type":"error","error":{'),
    ],
)
def test_a_stream_cut_by_a_shutdown_ends_with_an_error_and_has_its_row(
    upstream: FaultyUpstream, tmp_path: Path, path: str, tools: bool, last_event: bytes
) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event({"delta": "so far"})))
    # The proxy stops before its client.
    with ExitStack() as stack, running.run_proxy(upstream.url, tmp_path, drain_seconds=0.2) as proxy:
        started, received = stack.enter_context(streaming(proxy.url, path, tools=tools))
        assert started.wait(TIMEOUT)
    (row,) = issue.read_rows(tmp_path)
    assert (row.outcome, row.status, row.tokens_sent > 0) == ("cancelled", 200, True)
    assert last_event in b"".join(received)
    assert b"the proxy was stopped" in b"".join(received)


def test_the_port_accepts_no_connection_before_the_server_starts() -> None:
    with serve.bind_socket("127.0.0.1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listener.getsockname()).close()


def test_a_port_that_another_process_uses_is_an_error_at_once() -> None:
    with serve.bind_socket("127.0.0.1", 0) as listener:
        listener.listen()
        with pytest.raises(OSError, match="in use"):
            serve.bind_socket("127.0.0.1", listener.getsockname()[1])


@contextmanager
def streaming(
    url: str, path: str = "/v1/chat/completions", *, tools: bool = False
) -> Generator[tuple[threading.Event, list[bytes]]]:
    """Read a stream in a thread; yields an event that is set once the first chunk is there, and all pieces."""
    started, received = threading.Event(), list[bytes]()
    body: dict[str, Any] = short_chat(stream=True, max_tokens=9)
    if path == "/v1/responses":
        body["input"] = body.pop("messages")
    if tools:
        function = {"name": "ls", "parameters": {"type": "object"}}
        body["tools"] = [
            {"type": "function", "function": function} if "chat" in path else {"type": "function"} | function
        ]

    def read() -> None:
        with suppress(httpx.HTTPError), httpx.stream("POST", url + path, json=body, timeout=TIMEOUT) as answer:
            for piece in answer.iter_raw():
                received.append(piece)
                if b"so far" in piece:
                    started.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield started, received
    finally:
        reader.join()


def test_reload_is_as_careful_as_a_plain_start(tmp_path: Path) -> None:
    exposed = shell.run("serve", "--reload", CLARA_HOST="0.0.0.0", CLARA_PORT="0", CLARA_DATA_DIR=str(tmp_path))
    assert exposed.returncode == 1
    assert "clara-proxy keys create" in exposed.stderr
    combined = shell.run("serve", "--reload", "--uds", str(tmp_path / "s"), CLARA_DATA_DIR=str(tmp_path))
    assert combined.returncode == 2
    assert "--reload" in combined.stderr
