"""`clara-proxy show` with requests of a running proxy, with and without stored texts."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from clara_proxy.proxy.commands import cli
from clara_proxy.proxy.stores.ledger_row import Outcome, Row
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.running import LOG_TEXT, Proxy, tool_chat

SECRET = "quokka-4711"
HOSTILE = "\x1b[2J\x1b[31m2024-01-01 10:00:00 INFO nothing of note"
TEXT = f"{LOG_TEXT}\n{HOSTILE}\n2024-01-01 10:00:00 INFO {SECRET} was served in 3 ms"


@pytest.fixture(scope="module")
def storing_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that stores texts."""
    _upstream.reset()  # an earlier module may have left it hanging
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("storing"), keep_content="passages") as proxy:
        yield proxy


def run_show(folder: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["show", *arguments, "--data-dir", str(folder)])
    assert result.exit_code == code, result.output
    return result.output


def wait_for_texts(proxy: Proxy, response: httpx.Response) -> str:
    """Return the output for a request once its texts are stored; they are stored after the response."""
    proxy.wait_for_row(response)
    deadline = time.monotonic() + running.TIMEOUT
    while "No stored texts" in (output := run_show(proxy.folder, response.headers["x-clara-request-id"])):
        assert time.monotonic() < deadline, "no text was stored"
        time.sleep(0.02)
    return output


def test_request_is_shown_with_numbers_and_texts(storing_proxy: Proxy) -> None:
    response = storing_proxy.post(tool_chat(TEXT), x_clara_project="search")
    output, row = wait_for_texts(storing_proxy, response), storing_proxy.wait_for_row(response)
    assert output.startswith(f"{row.id}  ")
    assert f"{row.tokens_received:,} received" in output
    assert json.loads(run_show(storing_proxy.folder, row.id, "--json"))["id"] == row.id
    assert f"= {row.tokens_sent:,} sent" in output
    assert "project search" in output
    assert f"tokens ({-100 * row.saved_tokens / row.tokens_received:.0f}"[:9] in output
    assert "\n  2024-01-01 ERROR disk full on /dev/sda1\n" in output
    assert f"{SECRET} was served" in output
    left_out = [line.removeprefix("- ") for line in output.splitlines() if line.startswith("- ")]
    assert len(left_out) > 300
    assert set(left_out) <= {*TEXT.replace("\x1b", "?").splitlines(), ""}
    assert [line for line in output.splitlines() if line.startswith("+ [")]  # the marker


def test_texts_cannot_move_the_cursor(storing_proxy: Proxy) -> None:
    assert "\x1b" not in wait_for_texts(storing_proxy, storing_proxy.post(tool_chat(TEXT), x_clara_project="a b"))


def test_newest_request_can_be_shown_without_texts(storing_proxy: Proxy) -> None:
    response = storing_proxy.post(tool_chat(f"{TEXT}\nanother"), x_clara_session="newest")
    wait_for_texts(storing_proxy, response)
    output = run_show(storing_proxy.folder, "last", "--figures")
    assert output.startswith(response.headers["x-clara-request-id"])
    assert "session newest" in output
    assert SECRET not in output
    assert "No stored texts" not in output


def test_unchanged_passages_are_shown_with_their_reason(storing_proxy: Proxy) -> None:
    response = storing_proxy.post(tool_chat(TEXT), x_clara_mode="extract", x_clara_min_tokens="1000000")
    storing_proxy.wait_for_row(response)
    output = run_show(storing_proxy.folder, response.headers["x-clara-request-id"])
    assert "unchanged too-short" in output
    assert "No stored texts" not in output


def test_missing_texts_name_the_setting_that_stores_them(proxy: Proxy) -> None:
    response = proxy.post(tool_chat(TEXT))
    proxy.wait_for_row(response)
    output = run_show(proxy.folder, response.headers["x-clara-request-id"])
    assert "CLARA_KEEP_CONTENT=passages" in output
    assert SECRET not in output


@pytest.mark.parametrize(
    ("outcome", "bill"),
    [("ok", "unknown"), ("failed", "unknown"), ("served", "nothing"), ("rejected", "nothing")],
)
def test_request_without_usage_is_billed_nothing_only_if_no_provider_was_asked(
    tmp_path: Path, outcome: Outcome, bill: str
) -> None:
    issue.write_row(tmp_path, Row(id="r", at=1.0, mode_asked="auto", mode_used="off", outcome=outcome))
    output = run_show(tmp_path, "r", "--figures")
    assert f"billed    {bill}\n" in output
    mode = "unknown" if outcome == "rejected" else "off (requested: auto)"
    assert f"mode      {mode}; outcome {outcome}" in output


def test_missing_request_and_ledger_are_reported(storing_proxy: Proxy, tmp_path: Path) -> None:
    assert "no request with the id req_none" in run_show(storing_proxy.folder, "req_none", code=1)
    assert "there is no ledger" in run_show(tmp_path, "last", code=2)
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1_000)
    assert "cannot be read: file is not a database" in run_show(tmp_path, "last", code=2)


def test_unreadable_store_does_not_hide_the_numbers(storing_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    response = storing_proxy.post(tool_chat(f"{TEXT}\nsealed"))
    wait_for_texts(storing_proxy, response)
    monkeypatch.setenv("CLARA_ORIGINALS_URL", "redis://127.0.0.1:1/0")
    output = run_show(storing_proxy.folder, response.headers["x-clara-request-id"], code=1)
    assert "received" in output
    assert "the texts cannot be read" in output
