"""`clara-proxy train --from-ledger`: from a ledger with kept content to training lines."""

import pytest

pytest.importorskip("accelerate", reason="training needs the extra [train]")

import asyncio
import base64
import json
import time
from pathlib import Path

import typer
from typer.testing import CliRunner

from clara_proxy.compression.clara.train.training_data import read_examples
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import train
from clara_proxy.proxy.commands.recorded_passages import read_recorded_passages
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.contents import ContentStore, PassageTexts
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Passage, Row, encode_passages
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.tests import faulty, running

DAY = 86_400.0
KEY, OTHER_KEY = (base64.b64encode(letter * 32).decode() for letter in (b"k", b"o"))
FILLER = "".join(f"{number}: nothing of note happens in this row, as in all the others\n" for number in range(60))
LINE = "src/web/session_pool.py: def make_session()"
SEARCH = PassageTexts(f"{FILLER}{LINE}\n{FILLER}", LINE, "Where is make_session defined?\ngrep make_session")
READ = PassageTexts(f"{FILLER}class Pool\n{FILLER}", "class Pool", "Where is it?\nread_file src/web/session_pool.py")
SETTING = PassageTexts(f"{FILLER}retries_left = 3\n", "retries_left = 3", "How large is retries_left?")
Request = tuple[str, float, dict[int, PassageTexts], str]  # id, age in seconds, passages, id of the shadowed request


def record_requests(folder: Path, *requests: Request, keys: tuple[str, ...] = (), clock: float | None = None) -> None:
    """Write ledger rows and kept passages as a proxy does."""

    async def write() -> None:
        now = time.time() if clock is None else clock
        ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
        originals = Originals(folder / "originals.sqlite3", DAY, lambda: now, encryption_keys=keys)
        await asyncio.gather(ledger.start(), originals.start())
        contents = ContentStore(originals)
        for request_id, age, texts, shadow in requests:
            passages = encode_passages([Passage("tool", "grep", 900, 9)] * len(texts))
            row = Row(request_id, now - age, tokens_received=9, tokens_sent=4, passages=passages, shadow_of=shadow)
            ledger.write(apply_bill(row, None, None))
            contents.keep_texts(request_id, "0" * 32, texts)
        await contents.stop()
        await asyncio.gather(ledger.stop(), originals.stop())

    asyncio.run(write())


def run_train(folder: Path, *arguments: str, code: int = 0, key: str = "") -> str:
    """Run the command with `--from-ledger` and return its output."""
    app = typer.Typer()
    app.command()(train.train)
    settings = {"CLARA_DATA_DIR": str(folder), "CLARA_ORIGINALS_KEY": key}
    result = CliRunner().invoke(app, ["--from-ledger", *arguments], env=settings)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A conversation of two requests, a request without names, an old request, and a shadow request."""
    record_requests(
        tmp_path,
        ("r1", 60, {0: SEARCH}, ""),
        ("r2", 30, {0: SEARCH, 3: READ}, ""),
        ("r3", 9 * DAY, {0: SETTING}, ""),
        ("r4", 20, {0: PassageTexts(f"{FILLER}x\n", "x")}, ""),
        ("r5", 10, {0: SEARCH._replace(question="What does make_session hold?")}, "r2"),
    )
    return tmp_path


def test_a_dry_run_prints_counts_and_writes_no_file(folder: Path) -> None:
    output = run_train(folder, "--dry-run", "--out", str(folder / "out"))
    assert "4 requests, 4 with kept content (5 passages): 1 lines from later use" in output
    output = run_train(folder, "--dry-run", "--since", "7d")
    assert "3 requests, 3 with kept content (4 passages): 1 lines" in output
    assert not (folder / "out").exists()


def test_only_the_owner_can_read_the_training_lines(folder: Path) -> None:
    # Without a checkpoint the command fails after it has written the lines.
    output = run_train(folder, "--out", str(folder / "out"), code=2)
    assert "--checkpoint" in output
    path = folder / "out" / "data.jsonl"
    assert path.stat().st_mode & 0o077 == 0
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["answer"], line["question"]) == (LINE, SEARCH.question)
    assert len(read_examples(path)) == 1


def test_stage_1_restates_the_passages(folder: Path) -> None:
    run_train(folder, "--stage", "stage1", "--out", str(folder / "out"), code=2)
    examples = read_examples(folder / "out" / "data.jsonl")
    assert all(example.paraphrase for example in examples)
    documents = "".join(example.documents[0] for example in examples)
    assert all(line in documents for line in (LINE, "class Pool", "retries_left = 3"))


def test_expired_passages_are_skipped(tmp_path: Path) -> None:
    record_requests(tmp_path, ("r1", 0, {0: SEARCH, 1: READ}, ""), clock=time.time() - 2 * DAY)
    assert "0 with kept content (0 passages): 0 lines" in run_train(tmp_path, "--dry-run")
    assert "CLARA_KEEP_CONTENT" in run_train(tmp_path, "--out", str(tmp_path / "out"), code=1)
    assert not (tmp_path / "out").exists()


def test_encrypted_passages_need_their_key(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="encryption needs the extra [encrypted]")
    record_requests(tmp_path, ("r1", 0, {0: SEARCH, 1: READ}, ""), keys=(KEY,))
    assert "1 lines" in run_train(tmp_path, "--dry-run", key=KEY)
    assert "1 lines" in run_train(tmp_path, "--dry-run", key=f"{OTHER_KEY},{KEY}")
    output = run_train(tmp_path, "--dry-run", key=OTHER_KEY)
    assert "0 lines" in output
    assert "1 requests could not be read" in output


def test_erased_passages_are_skipped(folder: Path) -> None:
    async def erase() -> None:
        originals = Originals(folder / "originals.sqlite3", DAY)
        await originals.start()
        await originals.delete_all("0" * 32)
        await originals.stop()

    asyncio.run(erase())
    assert "0 lines" in run_train(folder, "--dry-run")


def test_a_missing_ledger_or_store_and_a_bad_date_are_errors(tmp_path: Path) -> None:
    assert "no ledger" in run_train(tmp_path, "--dry-run", code=1)
    record_requests(tmp_path, ("r1", 0, {}, ""))
    (tmp_path / "originals.sqlite3").unlink()
    assert "no content was kept" in " ".join(run_train(tmp_path, "--dry-run", code=1).split())
    assert "soon" in run_train(tmp_path, "--dry-run", "--since", "soon", code=1)


def test_a_proxy_keeps_the_question_of_a_passage(tmp_path: Path) -> None:
    with faulty.run_upstream() as upstream, running.run_proxy(upstream.url, tmp_path, keep_content="passages") as proxy:
        assert proxy.post(running.tool_chat()).status_code == 200
    recorded = asyncio.run(read_recorded_passages(Settings(data_dir=tmp_path, model="none"), 0.0))
    (texts,) = recorded.requests[0]
    assert texts.question == "why did it fail?\nlogs"
    assert texts.before == running.tool_chat()["messages"][2]["content"]
