"""`clara-proxy wrap`: API keys, the summary of the savings, and signals."""

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
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
print(urllib.request.urlopen(request).status)
"""
ANTHROPIC = f"""
import os, urllib.request
headers = {{"x-api-key": "{KEY}", "anthropic-version": "2023-06-01"}}
request = urllib.request.Request(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages/batches", headers=headers)
print(urllib.request.urlopen(request).status)
"""
LINE = re.compile(
    r"clara-proxy: Saved ([\d,]+) of ([\d,]+) tokens \(([\d.]+) %\)(, \$[\d.]+ net|; [^.]+)?\. (\d+) requests?\.\n"
)


@pytest.fixture
def other() -> Iterator[FaultyUpstream]:
    """An upstream that must not receive requests."""
    with faulty.run_upstream() as upstream:
        yield upstream


def build_command(code: str) -> tuple[str, ...]:
    return ("--", sys.executable, "-c", code)


@pytest.mark.parametrize("server", ["a proxy", "another server"])
def test_server_on_the_configured_port_never_gets_the_key(
    upstream: FaultyUpstream, other: FaultyUpstream, tmp_path: Path, server: str
) -> None:
    """A proxy that already runs has another upstream, and another server is not trusted."""
    with running.run_proxy(other.url, tmp_path) as proxy:
        port = (proxy if server == "a proxy" else other).url.rpartition(":")[2]
        environment = {"CLARA_PORT": port, "CLARA_DATA_DIR": str(tmp_path), "OPENAI_BASE_URL": f"{other.url}/v1"}
        proxy.wait_for_row(proxy.post(tool_chat(), x_clara_session="another client"))
        before = len(other.requests)
        result = shell.run("wrap", "--upstream", f"{upstream.url}/v1", *build_command(OPENAI), **environment)
    assert (result.returncode, result.stdout) == (0, "200\n"), result.stderr
    assert len(other.requests) == before
    assert upstream.last_request.header_values("authorization") == [f"Bearer {KEY}".encode()]
    saved, received, share, _, requests = LINE.fullmatch(result.stderr).groups()  # type: ignore[union-attr]
    row = max(proxy.read_rows(), key=lambda row: row.at)
    assert (saved, received, requests) == (f"{row.saved_tokens:,}", f"{row.tokens_received:,}", "1")
    assert row.saved_tokens > 1000
    assert float(share) == pytest.approx(100 * row.saved_tokens / row.tokens_received, abs=0.05)


def test_requests_go_to_the_upstream_of_the_environment(
    upstream: FaultyUpstream, other: FaultyUpstream, tmp_path: Path
) -> None:
    environment = {
        "CLARA_DATA_DIR": str(tmp_path),
        "OPENAI_BASE_URL": f"{upstream.url}/v1",
        "ANTHROPIC_BASE_URL": other.url,
    }
    result = shell.run("wrap", *build_command(OPENAI + ANTHROPIC), **environment)
    assert (result.returncode, result.stdout) == (0, "200\n200\n"), result.stderr
    for server in (upstream, other):
        assert KEY in str(server.last_request.headers)
        assert f"requests are forwarded to {server.url}/v1, as the environment says" in result.stderr
    assert other.last_request.request_line == b"GET /v1/messages/batches HTTP/1.1"
    assert (len(upstream.requests), len(other.requests)) == (1, 1)


def test_command_without_requests_gets_a_hint(upstream: FaultyUpstream, tmp_path: Path) -> None:
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    result = shell.run("wrap", *build_command("print('done')"), **environment)
    assert (result.returncode, result.stdout) == (0, "done\n")
    assert result.stderr.startswith("clara-proxy: the proxy received no requests; the command must read OPENAI_BASE_")


def test_failed_requests_are_counted_in_one_line(upstream: FaultyUpstream, tmp_path: Path) -> None:
    upstream.respond_with(faulty.http_response(LOG_TEXT.encode(), status="503 Service Unavailable"))
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    code = OPENAI.replace("print(", "try: print(", 1) + "except urllib.error.HTTPError as error: print(error.code)\n"
    result = shell.run("wrap", *build_command(code), **environment)
    assert (result.returncode, result.stdout) == (0, "503\n")
    remedy = "run `clara-proxy doctor` to check the upstream and the key"
    assert result.stderr == f"clara-proxy: Saved 0 of 0 tokens. 1 request, 1 failed; {remedy}.\n"


def test_command_may_handle_an_interrupt(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """A command that continues after Ctrl-C, as agents do, also continues under `wrap`."""
    code = """
import signal, sys, time
signals = []
signal.signal(signal.SIGINT, lambda *_: signals.append(1))
print("running", flush=True)
while not signals:
    time.sleep(0.01)
time.sleep(1)
print("continuing", flush=True)
sys.exit(3)
"""
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    with shell.start(tmp_path, "wrap", *build_command(code), **environment) as wrap:
        wrap.wait_for_line("running")
        wrap.interrupt()
        assert wrap.wait() == 3
        assert "continuing" in wrap.out
        assert "the proxy received no requests" in wrap.err
        assert "Traceback" not in wrap.err


def test_interrupted_command_ends_with_its_usual_status(upstream: FaultyUpstream, tmp_path: Path) -> None:
    code = "import time\nprint('running', flush=True)\nwhile True: time.sleep(0.1)"
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    with shell.start(tmp_path, "wrap", *build_command(code), **environment) as wrap:
        wrap.wait_for_line("running")
        wrap.interrupt()
        assert wrap.wait() == 128 + signal.SIGINT
        assert "the proxy received no requests" in wrap.err


def test_terminating_wrap_terminates_the_command(upstream: FaultyUpstream, tmp_path: Path) -> None:
    code = "import os, time\nprint(f'it is {os.getpid()}', flush=True)\nwhile True: time.sleep(0.1)"
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1"}
    with shell.start(tmp_path, "wrap", *build_command(code), **environment) as wrap:
        child = int(wrap.wait_for_line("it is ").split()[-1])
        time.sleep(0.1)
        wrap.process.terminate()
        assert wrap.wait() == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_start_error_of_the_proxy_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = shell.run("wrap", "--data-dir", str(tmp_path / "file"), *build_command("print('never')"))
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"clara-proxy: the data directory .* \(CLARA_DATA_DIR\)\n", result.stderr)


def test_outbound_proxy_is_used_for_the_upstream_only(upstream: FaultyUpstream, tmp_path: Path) -> None:
    """The command reaches the proxy directly; the proxy reaches the upstream through the outbound proxy."""
    upstream_url = "http://models.internal.example/v1"
    environment = {"CLARA_DATA_DIR": str(tmp_path), "HTTP_PROXY": upstream.url, "NO_PROXY": "elsewhere.example"}
    result = shell.run("wrap", "--upstream", upstream_url, *build_command(OPENAI), **environment)
    assert (result.returncode, result.stdout) == (0, "200\n"), result.stderr
    assert [request.request_line for request in upstream.requests] == [
        f"POST {upstream_url}/chat/completions HTTP/1.1".encode()
    ]
