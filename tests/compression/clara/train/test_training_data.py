"""Training data: all spellings of the format, and errors that name the line."""

import json
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.compression.clara.train.training_data import DataError, Example, parse_example, read_examples


@pytest.mark.parametrize("name", ["docs", "context", "content"])
def test_documents_have_three_names(name: str) -> None:
    example = parse_example({name: ["a", "b"], "question": "q", "answer": "x", "pos_index": [1]})
    assert example == Example(("a", "b"), ("q",), ("x",), positives=(1,))


@pytest.mark.parametrize("answer", [{"answer": "x"}, {"answers": ["x"]}, {"golden_answers": ["x", "y"]}])
def test_answers_have_three_names(answer: dict[str, Any]) -> None:
    assert parse_example({"docs": ["a"], "question": "q", **answer}).answers == ("x",)


def test_stage_1_lines_may_have_several_questions() -> None:
    example = parse_example({"docs": ["a"], "question": ["q", "r"], "answers": ["x", "y"]})
    assert (example.questions, example.answers) == (("q", "r"), ("x", "y"))


def test_a_paraphrase_has_no_question() -> None:
    record = {"data_type": "paraphrase", "docs": ["a"], "question": "ignored", "answers": ["b", "c"]}
    assert parse_example(record) == Example(("a",), (), ("b",), paraphrase=True)


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
def test_the_error_of_an_invalid_line_names_it(line: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"docs": ["a"], "question": "q", "answer": "x"}) + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=r"data\.jsonl, line 3"):
        read_examples(path)
