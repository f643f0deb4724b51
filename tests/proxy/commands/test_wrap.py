"""`clara-proxy wrap`: whose key goes where, whose savings are told, and whose an interrupt is."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.commands import shell
from clara_proxy.tests.running import LOG_TEXT, tool_chat

KEY = "sk-for-the-upstream-that-was-named"
OPENAI = f"""
import json, os, urllib.request
body = {tool_chat()!r}
headers = {{"authorization": "Bearer {KEY}", "content-type": "application/json"}}
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
print(urllib.request.urlopen(asked).status)
"""
ANTHROPIC = f"""
import os, urllib.request
headers = {{"x-api-key": "{KEY}", "anthropic-version": "2023-06-01"}}
asked = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages/batches", headers=headers)
print(urllib.request.urlopen(asked).status)
"""
LINE = re.compile(
    r"clara-proxy: Saved ([\d,]+) of ([\d,]+) tokens \(([\d.]+) %\)(, \$[\d.]+ net|; [^.]+)?\. (\d+) requests?\.\n"
)


@pytest.fixture
def other() -> Iterator[FaultyUpstream]:
    """An upstream that nothing is meant for."""
    with faulty.run_upstream() as found:
        yield found


def python(code: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code)


@pytest.mark.parametrize("there", ["a proxy", "anything"])
def test_what_answers_on_the_port_is_not_given_the_key(
    upstream: FaultyUpstream, other: FaultyUpstream, tmp_path: Path, there: str
) -> None:
    """A proxy that runs already has an upstream of its own, and another server may be anybody's."""
    with running.run_proxy(other.url, tmp_path) as proxy:
        port = (proxy if there == "a proxy" else other).url.rpartition(":")[2]
        where = {"CLARA_PORT": port, "CLARA_DATA_DIR": str(tmp_path), "OPENAI_BASE_URL": f"{other.url}/v1"}
        proxy.wait_for_row(proxy.post(tool_chat(), x_clara_session="somebody else"))
        before = len(other.requests)
        done = shell.run("wrap", "--upstream", f"{upstream.url}/v1", *python(OPENAI), **where)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert len(other.requests) == before
    assert upstream.last_request.header_values("authorization") == [f"Bearer {KEY}".encode()]
    saved, received, share, _, requests = LINE.fullmatch(done.stderr).groups()  # type: ignore[union-attr]
    row = max(proxy.read_rows(), key=lambda row: row.at)
    assert (saved, received, requests) == (f"{row.saved_tokens:,}", f"{row.tokens_received:,}", "1")
    assert row.saved_tokens > 1000
    assert float(share) == pytest.approx(100 * row.saved_tokens / row.tokens_received, abs=0.05)


def test_who_would_have_been_asked_without_us_is_asked(
    upstream: FaultyUpstream, other: FaultyUpstream, tmp_path: Path
) -> None:
    where = {"CLARA_DATA_DIR": str(tmp_path), "OPENAI_BASE_URL": f"{upstream.url}/v1", "ANTHROPIC_BASE_URL": other.url}
    done = shell.run("wrap", *python(OPENAI + ANTHROPIC), **where)
    assert (done.returncode, done.stdout) == (0, "200\n200\n"), done.stderr
    for asked in (upstream, other):
        assert KEY in str(asked.last_request.headers)
        assert f"requests go on to {asked.url}/v1, as the environment says" in done.stderr
    assert other.last_request.request_line == b"GET /v1/messages/batches HTTP/1.1"
    assert (len(upstream.requests), len(other.requests)) == (1, 1)


def test_a_command_that_does_not_come_by_is_told_of(upstream: FaultyUpstream, tmp_path: Path) -> None:
    where = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    done = shell.run("wrap", *python("print('done')"), **where)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.startswith("clara-proxy: no request came through the proxy: does the command read OPENAI_BASE_")


def test_what_was_not_answered_is_told_and_nothing_else_is_written_over_the_command(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    upstream.respond_with(faulty.http_response(LOG_TEXT.encode(), status="503 Service Unavailable"))
    where = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    caught = OPENAI.replace("print(", "try: print(", 1) + "except urllib.error.HTTPError as error: print(error.code)\n"
    done = shell.run("wrap", *python(caught), **where)
    assert (done.returncode, done.stdout) == (0, "503\n")
    assert done.stderr == "clara-proxy: Saved 0 of 0 tokens. 1 request, 1 of which came to nothing.\n"


def test_an_interrupt_is_the_commands_own(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """What goes on after Ctrl-C, as agents do that only stop a generation, goes on under `wrap`, too."""
    code = """
import signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
print("it runs", flush=True)
while not heard:
    time.sleep(0.01)
time.sleep(1)
print("it goes on", flush=True)
sys.exit(3)
"""
    where = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    with shell.started(tmp_path, "wrap", *python(code), **where) as wrap:
        wrap.says("it runs")
        wrap.interrupt()
        assert wrap.ended() == 3
        assert "it goes on" in wrap.out
        assert "no request came through" in wrap.err
        assert "Traceback" not in wrap.err


def test_an_interrupt_that_ends_the_command_ends_it_as_it_would_without_us(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    code = "import time\nprint('it runs', flush=True)\nwhile True: time.sleep(0.1)"
    where = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    with shell.started(tmp_path, "wrap", *python(code), **where) as wrap:
        wrap.says("it runs")
        wrap.interrupt()
        assert wrap.ended() == 128 + signal.SIGINT
        assert "no request came through" in wrap.err


def test_who_ends_us_ends_the_command(upstream: FaultyUpstream, tmp_path: Path) -> None:
    code = "import os, time\nprint(f'it is {os.getpid()}', flush=True)\nwhile True: time.sleep(0.1)"
    where = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    with shell.started(tmp_path, "wrap", *python(code), **where) as wrap:
        child = int(wrap.says("it is ").split()[-1])
        time.sleep(0.1)
        wrap.process.terminate()
        assert wrap.ended() == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_proxy_that_cannot_start_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    done = shell.run("wrap", "--data-dir", str(tmp_path / "file"), *python("print('never')"))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"clara-proxy: the data directory .* \(CLARA_DATA_DIR\)\n", done.stderr)


def test_a_proxy_of_the_companys_does_not_come_between(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """Requests of the command to us stay on this machine, and ours go through it to where they are meant to go."""
    far = "http://models.internal.example/v1"
    where = {"CLARA_DATA_DIR": str(tmp_path), "HTTP_PROXY": upstream.url, "NO_PROXY": "elsewhere.example"}
    done = shell.run("wrap", "--upstream", far, *python(OPENAI), **where)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert [heard.request_line for heard in upstream.requests] == [f"POST {far}/chat/completions HTTP/1.1".encode()]
