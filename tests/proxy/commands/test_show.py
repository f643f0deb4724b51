"""`clara-proxy show`, on what a running proxy has written: one request, and its texts where they were kept."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from clara_proxy.proxy.commands import cli
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import LOG_TEXT, Proxy, tool_chat

SECRET = "quokka-4711"
HOSTILE = "\x1b[2J\x1b[31m2024-01-01 10:00:00 INFO nothing of note"
TEXT = f"{LOG_TEXT}\n{HOSTILE}\n2024-01-01 10:00:00 INFO {SECRET} was served in 3 ms"


@pytest.fixture(scope="module")
def keeping(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that keeps texts to be looked at."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("keeping"), keep_content="passages") as proxy:
        yield proxy


def said(folder: Path, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["show", *arguments, "--data-dir", str(folder)])
    assert done.exit_code == code, done.output
    return done.output


def kept(proxy: Proxy, response: httpx.Response) -> str:
    """Return what is shown of a request as soon as its texts are stored, which nobody waits for."""
    proxy.wait_for_row(response)
    deadline = time.monotonic() + running.TIMEOUT
    while "Texts: none here" in (shown := said(proxy.folder, response.headers["x-clara-request-id"])):
        assert time.monotonic() < deadline, "no text was kept"
        time.sleep(0.02)
    return shown


def test_a_request_is_shown_with_its_figures_and_its_texts(keeping: Proxy) -> None:
    response = keeping.post(tool_chat(TEXT), x_clara_project="search")
    shown, row = kept(keeping, response), keeping.wait_for_row(response)
    assert shown.startswith(f"{row.id}  ")
    assert f"{row.tokens_received:,} received" in shown
    assert f"= {row.tokens_sent:,} sent" in shown
    assert "project search" in shown
    assert f"tokens ({-100 * row.saved_tokens / row.tokens_received:.0f}"[:9] in shown
    assert "\n  2024-01-01 ERROR disk full on /dev/sda1\n" in shown
    assert f"{SECRET} was served" in shown
    left_out = [line.removeprefix("- ") for line in shown.splitlines() if line.startswith("- ")]
    assert len(left_out) > 300
    assert set(left_out) <= {*TEXT.replace("\x1b", "?").splitlines(), ""}
    assert [line for line in shown.splitlines() if line.startswith("+ [")]  # the marker


def test_no_text_moves_the_cursor(keeping: Proxy) -> None:
    assert "\x1b" not in kept(keeping, keeping.post(tool_chat(TEXT), x_clara_project="a b"))


def test_the_newest_is_shown_and_without_texts_where_that_is_wanted(keeping: Proxy) -> None:
    response = keeping.post(tool_chat(f"{TEXT}\nanother"), x_clara_session="newest")
    kept(keeping, response)
    shown = said(keeping.folder, "last", "--figures")
    assert shown.startswith(response.headers["x-clara-request-id"])
    assert "session newest" in shown
    assert SECRET not in shown


def test_what_was_left_alone_is_shown_with_its_reason(keeping: Proxy) -> None:
    response = keeping.post(tool_chat(TEXT), x_clara_mode="extract", x_clara_min_tokens="1000000")
    keeping.wait_for_row(response)
    shown = said(keeping.folder, response.headers["x-clara-request-id"])
    assert "alone     too-short" in shown
    assert "Texts" not in shown


def test_where_nothing_was_kept_it_says_what_would_keep_it(proxy: Proxy) -> None:
    response = proxy.post(tool_chat(TEXT))
    proxy.wait_for_row(response)
    shown = said(proxy.folder, response.headers["x-clara-request-id"])
    assert "CLARA_KEEP_CONTENT=passages" in shown
    assert SECRET not in shown


def test_what_is_not_there_is_said(keeping: Proxy, tmp_path: Path) -> None:
    assert "no request req_none" in said(keeping.folder, "req_none", code=1)
    assert "there is no ledger" in said(tmp_path, "last", code=2)
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1_000)
    assert "cannot be read: file is not a database" in said(tmp_path, "last", code=2)


def test_a_store_that_cannot_be_read_leaves_the_figures(keeping: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    response = keeping.post(tool_chat(f"{TEXT}\nsealed"))
    kept(keeping, response)
    monkeypatch.setenv("CLARA_ORIGINALS_URL", "redis://127.0.0.1:1/0")
    shown = said(keeping.folder, response.headers["x-clara-request-id"], code=1)
    assert "received" in shown
    assert "the texts cannot be read" in shown
