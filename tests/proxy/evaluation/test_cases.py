"""Evaluation data: the accepted shapes, samples, and errors that name the line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.proxy.evaluation.cases import EvaluationDataError, read_cases

GOOD: dict[str, Any] = {"question": "Who?", "document": "Ada wrote it.", "answer": "Ada"}
DATA = Path(__file__).parents[4] / "shared" / "data"


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_one_question_about_one_document(tmp_path: Path) -> None:
    (case,) = read_cases(write(tmp_path / "own.jsonl", GOOD, ""))
    assert (case.data, case.question, case.text, case.answers) == ("own", "Who?", "Ada wrote it.", ("Ada",))


def test_documents_are_numbered_and_keep_their_titles(tmp_path: Path) -> None:
    documents = [{"title": "Ada  L.", "text": "Ada wrote it."}, "Bob read it."]
    (case,) = read_cases(write(tmp_path / "x.jsonl", {"question": "Who?", "documents": documents, "answers": ["Ada"]}))
    assert case.text == "Document [1](Title: Ada L.) Ada wrote it.\nDocument [2] Bob read it."
    assert case.document_texts == ["Ada L.\nAda wrote it.", "Bob read it."]


def test_several_questions_about_one_text(tmp_path: Path) -> None:
    questions = [{"question": "Who?", "answer": "Ada"}, {"question": "What?", "answers": ["it", "the book"]}]
    cases = read_cases(write(tmp_path / "x.jsonl", {"text": "Ada wrote it.", "questions": questions}))
    assert [(case.question, case.answers) for case in cases] == [("Who?", ("Ada",)), ("What?", ("it", "the book"))]


INVALID_LINES: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ("[1]", "not a JSON object"),
    ({"document": "x", "answer": "y"}, "`question` must be a text"),
    (GOOD | {"question": 3}, "`question` must be a text"),
    ({"question": "Who?", "answer": "y"}, "no text in `document`, `context`, `text`, `documents`, `docs`"),
    (GOOD | {"document": " "}, "no text in"),
    ({"question": "Who?", "documents": [{"body": "x"}], "answer": "y"}, "objects with `text`"),
    ({"question": "Who?", "document": "x"}, "no answer"),
    (GOOD | {"answer": ""}, "`answer` must be a text"),
    (GOOD | {"answers": []}, "`answers` must be a text"),
    (GOOD | {"answers": ["a", None]}, "`answers` must be a text"),
    ({"text": "x", "questions": "Who?"}, "`questions` must be a list"),
]


@pytest.mark.parametrize(("line", "words"), INVALID_LINES)
def test_invalid_line_is_named_with_its_number(tmp_path: Path, line: Any, words: str) -> None:
    path = write(tmp_path / "x.jsonl", GOOD, "", line)
    with pytest.raises(EvaluationDataError) as raised:
        read_cases(path)
    assert str(raised.value).startswith(f"{path}, line 3: ")
    assert words in str(raised.value)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "x.jsonl.gz"
    broken.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 100)[:-20])
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xe9"}')
    for path, words in (
        (tmp_path / "absent.jsonl", "cannot read"),
        (write(tmp_path / "empty.jsonl", ""), "no questions"),
        (broken, "cannot read"),
        (latin, "line 2: not JSON"),
    ):
        with pytest.raises(EvaluationDataError, match=words) as raised:
            read_cases(path)
        assert path.name in str(raised.value)


def test_larger_sample_holds_the_smaller_one(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", *(GOOD | {"question": f"Who is {number}?"} for number in range(40)))
    small, large = set(read_cases(path, 10)), set(read_cases(path, 20))
    assert (len(small), len(large)) == (10, 20)
    assert small < large
    assert set(read_cases(path, 10, seed=1)) != small
    assert len(read_cases(path, 99)) == 40


@pytest.mark.parametrize("name", ["qa_short", "qa_multidoc", "documents"])
def test_shared_data_is_accepted(name: str) -> None:
    path = DATA / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip("the data folder ../shared/data is not here")
    cases = read_cases(path)
    assert len(cases) > 50
    assert sum(case.is_answered_by(case.text) for case in cases) > 0.8 * len(cases)
