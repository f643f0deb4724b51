"""`clara-proxy serve`: what it says when it starts, why it does not, and how it ends."""

import re
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


def url_of(line: str) -> str:
    return line.partition(READY)[2].partition("/v1")[0]


def test_what_stops_the_start_is_one_line_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = shell.run("serve", CLARA_PORT="0", CLARA_DATA_DIR=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"clara-proxy: the data directory .* \(CLARA_DATA_DIR\)\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        (r"ledger in .*: file is not a database \(CLARA_DATA_DIR\)", {}),
        (r"ledger .*\(CLARA_LEDGER_URL\)", {"ledger_url": "postgresql://me:hunter2@127.0.0.1:1/x"}),
        (r"ledger .*\(CLARA_LEDGER_URL\)", {"ledger_url": "postgresql://me:hun/ter2@127.0.0.1/x"}),
        (r"originals .*\(CLARA_ORIGINALS_URL\)", {"originals_url": "redis://:hunter2@127.0.0.1:1"}),
    ],
)
def test_a_store_that_cannot_be_opened_is_named_without_its_password(
    tmp_path: Path, said: str, chosen: dict[str, Any]
) -> None:
    ours: dict[str, Any] = chosen or {"data_dir": tmp_path / "damaged"}
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StartupError, match=said) as caught, running.run_proxy("http://x", tmp_path / "data", **ours):
        pass
    assert "hun" not in str(caught.value)


def test_an_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clara_proxy.proxy.stores.ledger_postgres", None)
    wanted = r"needs the extra: pip install 'clara-proxy\[postgres\]' \(CLARA_LEDGER_URL\)"
    with (
        pytest.raises(StartupError, match=wanted),
        running.run_proxy("http://x", tmp_path, ledger_url="postgresql://h/x"),
    ):
        pass


@pytest.mark.parametrize("mode", ["answer", "summary", "latent"])
def test_a_mode_that_needs_a_model_is_not_started_without(tmp_path: Path, mode: str) -> None:
    with (
        pytest.raises(StartupError, match=f"mode {mode} .*CLARA_MODEL"),
        running.run_proxy("http://x", tmp_path, mode=mode),
    ):
        pass
    if mode != "latent":  # clara-nano answers, and never meets other people's documents
        with (
            pytest.raises(StartupError, match="CLARA_MODEL"),
            running.run_proxy("http://x", tmp_path, mode=mode, model="clara-nano"),
        ):
            pass


def test_it_says_where_it_is_where_it_sends_and_what_is_most_likely_a_slip(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    environment = {"CLARA_PORT": "0", "CLARA_DATA_DIR": str(tmp_path)}
    told = {**environment, "CLARA_MOED": "off", "OPENAI_BASE_URL": "http://user:hunter2@other.example/v1"}
    with shell.started(tmp_path, "serve", **told) as proxy:
        line = proxy.says(READY)
        url = url_of(line)
        assert line.endswith(
            f"{READY}{url}/v1, upstream https://api.openai.com/v1, dashboard {url}/dashboard, data in {tmp_path}\n"
        )
        assert httpx.get(f"{url}/livez").status_code == 200
        assert "no setting reads CLARA_MOED" in proxy.err
        assert (
            "OPENAI_BASE_URL=http://other.example/v1 is for clients: requests go to https://api.openai.com" in proxy.err
        )
        assert "hunter2" not in proxy.err
        proxy.interrupt()
        proxy.ended()
    told = {**environment, "OPENAI_BASE_URL": "http://other.example/v1"}
    with shell.started(tmp_path, "serve", "--upstream", upstream.url, **told) as proxy:
        assert f"upstream {upstream.url}," in proxy.says(READY)
        assert proxy.err.count("\n") == 1


def test_a_host_that_is_none_is_told_from_a_port_that_is_taken(tmp_path: Path) -> None:
    where = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_OPEN": "true"}
    for host in ("nowhere.invalid", "192.0.2.7"):
        done = shell.run("serve", "--host", host, **where)
        assert done.returncode == 1
        assert re.fullmatch(
            rf"clara-proxy: cannot listen on {host}:8765: .*; choose another with --host\n", done.stderr
        )
    with serve.bind_socket("127.0.0.1", 0) as taken:
        done = shell.run("serve", CLARA_PORT=str(taken.getsockname()[1]), **where)
    assert done.stderr.endswith("choose another with --port\n")


def test_ctrl_c_says_what_is_waited_for_and_ctrl_c_again_stops_at_once(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("so far"))))
    environment = {"CLARA_PORT": "0", "CLARA_DATA_DIR": str(tmp_path)}
    with shell.started(tmp_path, "serve", "--upstream", f"{upstream.url}/v1", **environment) as proxy:
        with streaming(url_of(proxy.says(READY))) as begun:
            assert begun.wait(TIMEOUT)
            proxy.interrupt()
            assert "for 1 request;" in proxy.says("waiting up to 10 s")
            proxy.interrupt()
            proxy.ended()
        said = proxy.err
    for noise in ("Traceback", "CancelledError", 'File "', "timeout graceful shutdown exceeded"):
        assert noise not in said
    (row,) = issue.read_rows(tmp_path)
    assert (row.outcome, row.status, row.tokens_sent > 0) == ("cancelled", 200, True)


def test_who_is_not_ready_in_time_is_broken_off_and_leaves_its_row(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "SHUTDOWN_GRACE", 1)
    upstream.respond_then_hang(EVENT_STREAM_HEAD, http_chunk(sse_event(completion_chunk("so far"))))
    with ExitStack() as stack, running.run_proxy(upstream.url, tmp_path) as proxy:  # the proxy ends before its client
        assert stack.enter_context(streaming(proxy.url)).wait(TIMEOUT)
    (row,) = issue.read_rows(tmp_path)
    assert (row.outcome, row.status, row.tokens_sent > 0) == ("cancelled", 200, True)


@contextmanager
def streaming(url: str) -> Generator[threading.Event]:
    """Read a stream beside the block, until it ends or is broken off; yields what is set when it has begun."""
    begun = threading.Event()

    def read() -> None:
        body, where = short_chat(stream=True), f"{url}/v1/chat/completions"
        with suppress(httpx.HTTPError), httpx.stream("POST", where, json=body, timeout=TIMEOUT) as answer:
            for piece in answer.iter_raw():
                if b"so far" in piece:
                    begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield begun
    finally:
        reader.join()
