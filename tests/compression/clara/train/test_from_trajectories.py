"""Training lines from agent runs: only what was used, verbatim, and nothing that was known before."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import gzip
import json
from pathlib import Path
from typing import Any

from clara_proxy.compression.clara.errors import ClaraError
from clara_proxy.compression.clara.train import data, trajectories

DATA = Path(__file__).parents[5] / "shared" / "data" / "trajectories.jsonl.gz"
FILLER = "".join(f"{number}: nothing of note happens in this row, as in all the others\n" for number in range(60))


def chat(output: str, later: str) -> list[dict[str, Any]]:
    call = {"function": {"name": "grep", "arguments": '{"pattern": "session"}'}}
    return [
        {"role": "user", "content": "Where is make_session defined?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": output},
        {"role": "assistant", "content": later},
    ]


def test_the_answer_is_the_line_that_was_used() -> None:
    output = f"{FILLER}src/web/session_pool.py: def make_session()\n{FILLER}"
    (made,) = trajectories.records(chat(output, "I will edit src/web/session_pool.py now."))
    assert made["answer"] == "src/web/session_pool.py: def make_session()"
    assert len(made["docs"]) == trajectories.DOCUMENTS
    assert all(made["answer"] in made["docs"][place] for place in made["pos_index"])
    assert made["pos_index"]
    assert "Where is make_session defined?" in made["question"]
    assert "grep" in made["question"]


def test_what_was_known_before_is_not_learned() -> None:
    assert not list(trajectories.records(chat(f"{FILLER}make_session\n{FILLER}", "make_session it is")))


def test_what_was_never_used_is_not_learned() -> None:
    assert not list(trajectories.records(chat(f"{FILLER}other_session.py\n{FILLER}", "done")))


def test_a_line_that_is_no_chat_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": chat(FILLER, "done")}) + "\n{}\n")
    with pytest.raises(ClaraError, match=r"a\.jsonl, line 2"):
        list(trajectories.read(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClaraError, match="no"):
        list(trajectories.read(tmp_path / "empty"))


def test_real_runs_give_lines_that_can_be_trained_on(tmp_path: Path) -> None:
    if not DATA.is_file():
        pytest.skip("the data ../shared/data is not here")
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        (tmp_path / "runs.jsonl").write_text("".join(line for _, line in zip(range(12), lines, strict=False)))
    made = list(trajectories.read(tmp_path))
    assert len(made) > 12
    for record in made:
        data.item(record)
        everything = "\n".join(record["docs"])
        assert all(line in everything for line in record["answer"].splitlines())
        assert len(record["docs"]) == trajectories.DOCUMENTS
