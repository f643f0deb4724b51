"""Reading training data: every spelling of the format, and a plain word about a line that does not fit it."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json
from pathlib import Path
from typing import Any

from clara_proxy.compression.clara.train import data
from clara_proxy.compression.clara.train.data import DataError, Item


@pytest.mark.parametrize("name", ["docs", "context", "content"])
def test_documents_have_three_names(name: str) -> None:
    made = data.item({name: ["a", "b"], "question": "q", "answer": "x", "pos_index": [1]})
    assert made == Item(("a", "b"), ("q",), ("x",), positives=(1,))


@pytest.mark.parametrize("answer", [{"answer": "x"}, {"answers": ["x"]}, {"golden_answers": ["x", "y"]}])
def test_answers_have_three_names(answer: dict[str, Any]) -> None:
    assert data.item({"docs": ["a"], "question": "q", **answer}).answers == ("x",)


def test_stage_one_asks_several_questions() -> None:
    made = data.item({"docs": ["a"], "question": ["q", "r"], "answers": ["x", "y"]})
    assert (made.questions, made.answers) == (("q", "r"), ("x", "y"))


def test_a_paraphrase_has_no_question() -> None:
    made = data.item({"data_type": "paraphrase", "docs": ["a"], "question": "ignored", "answers": ["b", "c"]})
    assert made == Item(("a",), (), ("b",), paraphrase=True)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"docs": ["a"], "question": "q"}',
        '{"docs": [], "question": "q", "answer": "x"}',
        '{"docs": "a", "question": "q", "answer": "x"}',
        '{"docs": [1], "question": "q", "answer": "x"}',
        '{"docs": ["a"], "question": ["q", "r"], "answers": ["x"]}',
        '{"question": "q", "answer": "x"}',
        '{"docs": ["a"], "question": "q", "answer": "x", "pos_index": [1]}',
    ],
)
def test_a_line_that_does_not_fit_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"docs": ["a"], "question": "q", "answer": "x"}) + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=r"data\.jsonl, line 3"):
        data.read(path)
