"""`clara-proxy train --from-ledger`: from a real ledger and what was kept beside it to lines one can train on."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import asyncio
import base64
import json
import time
from pathlib import Path

import typer
from typer.testing import CliRunner

from clara_proxy.compression.clara.train import data
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import train
from clara_proxy.proxy.commands.recorded import read as read_recorded
from clara_proxy.proxy.stores.accounting import settle
from clara_proxy.proxy.stores.contents import Contents, Texts
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.proxy.stores.row import Passage, Row, passages_json
from clara_proxy.tests import faulty, running

DAY = 86_400.0
KEY, OTHER = (base64.b64encode(letter * 32).decode() for letter in (b"k", b"o"))
FILLER = "".join(f"{number}: nothing of note happens in this row, as in all the others\n" for number in range(60))
WHERE = "src/web/session_pool.py: def make_session()"
FOUND = Texts(f"{FILLER}{WHERE}\n{FILLER}", WHERE, "Where is make_session defined?\ngrep make_session")
READ = Texts(f"{FILLER}class Pool\n{FILLER}", "class Pool", "Where is it?\nread_file src/web/session_pool.py")
SHOWN = Texts(f"{FILLER}retries_left = 3\n", "retries_left = 3", "How large is retries_left?")
Request = tuple[str, float, dict[int, Texts], str]  # its name, its age in seconds, its passages, what it shadows


def recorded(folder: Path, *requests: Request, keys: tuple[str, ...] = (), at: float | None = None) -> None:
    """Write rows and keep passages as a proxy does."""

    async def write() -> None:
        now = time.time() if at is None else at
        ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
        originals = Originals(folder / "originals.sqlite3", DAY, lambda: now, keys=keys)
        await asyncio.gather(ledger.start(), originals.start())
        contents = Contents(originals)
        for name, age, texts, shadow in requests:
            passages = passages_json([Passage("tool", "grep", 900, 9)] * len(texts))
            row = Row(name, now - age, tokens_received=9, tokens_sent=4, passages=passages, shadow_of=shadow)
            ledger.write(settle(row, None, None))
            contents.keep(name, "0" * 32, texts)
        await contents.stop()
        await asyncio.gather(ledger.stop(), originals.stop())

    asyncio.run(write())


def said(folder: Path, *arguments: str, code: int = 0, key: str = "") -> str:
    app = typer.Typer()
    app.command()(train.train)
    settings = {"CLARA_DATA_DIR": str(folder), "CLARA_ORIGINALS_KEY": key}
    done = CliRunner().invoke(app, ["--from-ledger", *arguments], env=settings)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A conversation of two requests, a request that says nothing of use, one of long ago, and a shadow check."""
    recorded(
        tmp_path,
        ("r1", 60, {0: FOUND}, ""),
        ("r2", 30, {0: FOUND, 3: READ}, ""),
        ("r3", 9 * DAY, {0: SHOWN}, ""),
        ("r4", 20, {0: Texts(f"{FILLER}x\n", "x")}, ""),
        ("r5", 10, {0: FOUND._replace(question="What does make_session hold?")}, "r2"),
    )
    return tmp_path


def test_a_dry_run_says_how_many_lines_there_are_and_writes_nothing(folder: Path) -> None:
    told = said(folder, "--dry-run", "--out", str(folder / "out"))
    assert "4 requests, 5 kept passages of 4: 1 lines of what was used later" in told
    assert "3 requests, 4 kept passages of 3: 1 lines" in said(folder, "--dry-run", "--since", "7d")
    assert not (folder / "out").exists()


def test_the_lines_are_written_for_their_owner_alone(folder: Path) -> None:
    told = said(folder, "--out", str(folder / "out"), code=2)  # no checkpoint to go on with: the lines are there
    assert "--checkpoint" in told
    path = folder / "out" / "data.jsonl"
    assert path.stat().st_mode & 0o077 == 0
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["answer"], line["question"]) == (WHERE, FOUND.question)
    assert len(data.read(path)) == 1


def test_the_first_stage_restates_the_passages(folder: Path) -> None:
    said(folder, "--stage", "stage1", "--out", str(folder / "out"), code=2)
    items = data.read(folder / "out" / "data.jsonl")
    assert all(item.paraphrase for item in items)
    restated = "".join(item.documents[0] for item in items)
    assert all(line in restated for line in (WHERE, "class Pool", "retries_left = 3"))


def test_what_has_expired_is_not_there(tmp_path: Path) -> None:
    recorded(tmp_path, ("r1", 0, {0: FOUND, 1: READ}, ""), at=time.time() - 2 * DAY)
    assert "0 kept passages of 0: 0 lines" in said(tmp_path, "--dry-run")
    assert "CLARA_KEEP_CONTENT" in said(tmp_path, "--out", str(tmp_path / "out"), code=1)
    assert not (tmp_path / "out").exists()


def test_what_is_sealed_is_read_with_its_key_only(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="encryption needs the extra [encrypted]")
    recorded(tmp_path, ("r1", 0, {0: FOUND, 1: READ}, ""), keys=(KEY,))
    assert "1 lines" in said(tmp_path, "--dry-run", key=KEY)
    assert "1 lines" in said(tmp_path, "--dry-run", key=f"{OTHER},{KEY}")
    told = said(tmp_path, "--dry-run", key=OTHER)
    assert "0 lines" in told
    assert "1 requests cannot be read" in told


def test_what_was_erased_is_not_there(folder: Path) -> None:
    async def erase() -> None:
        originals = Originals(folder / "originals.sqlite3", DAY)
        await originals.start()
        await originals.drop("0" * 32)
        await originals.stop()

    asyncio.run(erase())
    assert "0 lines" in said(folder, "--dry-run")


def test_where_there_is_no_ledger_or_nothing_kept_it_says_so(tmp_path: Path) -> None:
    assert "no ledger" in said(tmp_path, "--dry-run", code=1)
    recorded(tmp_path, ("r1", 0, {}, ""))
    (tmp_path / "originals.sqlite3").unlink()
    assert "nothing was kept" in said(tmp_path, "--dry-run", code=1)
    assert "soon" in said(tmp_path, "--dry-run", "--since", "soon", code=1)


def test_what_a_proxy_kept_says_what_it_was_wanted_for(tmp_path: Path) -> None:
    with faulty.running() as upstream, running.proxy(upstream.url, tmp_path, keep_content="passages") as proxy:
        assert proxy.post(running.tool_chat()).status_code == 200
    found = asyncio.run(read_recorded(Settings(data_dir=tmp_path, model="none"), 0.0))
    (texts,) = found.requests[0]
    assert texts.question == "why did it fail?\nlogs {}"
    assert texts.before == running.tool_chat()["messages"][2]["content"]
