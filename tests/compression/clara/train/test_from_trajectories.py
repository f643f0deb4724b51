"""Training records from agent runs: verbatim answers that were used later and were not known before."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.compression.clara.train.example_records import DOCUMENT_COUNT
from clara_proxy.compression.clara.train.from_trajectories import chat_records, read_records
from clara_proxy.compression.clara.train.training_data import parse_example
from clara_proxy.compression.models.errors import ModelError

DATA = Path(__file__).parents[5] / "shared" / "data" / "trajectories.jsonl.gz"
FILLER = "".join(f"{number}: nothing of note happens in this row, as in all the others\n" for number in range(60))


def make_chat(output: str, reply: str) -> list[dict[str, Any]]:
    call = {"function": {"name": "grep", "arguments": '{"pattern": "session"}'}}
    return [
        {"role": "user", "content": "Where is make_session defined?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": output},
        {"role": "assistant", "content": reply},
    ]


def test_the_answer_is_the_line_that_was_used() -> None:
    output = f"{FILLER}src/web/session_pool.py: def make_session()\n{FILLER}"
    (record,) = chat_records(make_chat(output, "I will edit src/web/session_pool.py now."))
    assert record["answer"] == "src/web/session_pool.py: def make_session()"
    assert len(record["docs"]) == DOCUMENT_COUNT
    assert all(record["answer"] in record["docs"][index] for index in record["pos_index"])
    assert record["pos_index"]
    assert "Where is make_session defined?" in record["question"]
    assert "grep" in record["question"]


def test_text_from_before_the_output_gives_no_record() -> None:
    assert not list(chat_records(make_chat(f"{FILLER}make_session\n{FILLER}", "make_session it is")))


def test_unused_output_gives_no_record() -> None:
    assert not list(chat_records(make_chat(f"{FILLER}other_session.py\n{FILLER}", "done")))


def test_the_error_of_a_line_without_a_chat_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": make_chat(FILLER, "done")}) + "\n{}\n")
    with pytest.raises(ModelError, match=r"a\.jsonl, line 2"):
        list(read_records(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no \*\.jsonl files"):
        list(read_records(tmp_path / "empty"))


def test_real_runs_give_valid_verbatim_records(tmp_path: Path) -> None:
    if not DATA.is_file():
        pytest.skip("the data ../shared/data is not here")
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        (tmp_path / "runs.jsonl").write_text("".join(line for _, line in zip(range(12), lines, strict=False)))
    records = list(read_records(tmp_path))
    assert len(records) > 12
    for record in records:
        parse_example(record)
        text = "\n".join(record["docs"])
        assert all(line in text for line in record["answer"].splitlines())
        assert len(record["docs"]) == DOCUMENT_COUNT
