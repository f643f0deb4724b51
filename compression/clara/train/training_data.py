"""Training data: JSON lines in the format of CLaRa's reference trainer, parsed into examples.

Each line is one object. The documents are the list `docs`, `context` or `content`; the answer is `answer`, `answers` or
the first of `golden_answers`; `data_type` is "qa" or "paraphrase"; `pos_index` lists the relevant documents.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...models.errors import ModelError


class Example(NamedTuple):
    """One line of training data.

    `questions` and `answers` are parallel. A paraphrase has no question and one answer: its target text. `positives`
    are the indices of the relevant documents.
    """

    documents: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    paraphrase: bool = False
    positives: tuple[int, ...] = ()


class DataError(ModelError):
    """A line of training data that does not follow the format; the message names the line."""


def read_examples(path: Path) -> list[Example]:
    """Read a file of JSON lines and skip empty lines. Raises `DataError` with the file and the line number."""
    with path.open(encoding="utf-8") as lines:
        return list(_parse_lines(lines, str(path)))


def parse_example(record: Mapping[str, Any]) -> Example:
    """Parse one record. Raises `KeyError`, `TypeError` or `ValueError` if a required value is missing or invalid."""
    documents = next(record[name] for name in ("docs", "context", "content") if name in record)
    if isinstance(documents, str) or not documents:
        raise ValueError("the documents must be a list of strings with at least one item")
    texts = _to_strings(documents)
    paraphrase = record.get("data_type", "qa") == "paraphrase"
    answers = _parse_answers(record)
    questions = () if paraphrase else _to_strings(record["question"])
    if not paraphrase and len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions, but {len(answers)} answers")
    positives = tuple(int(index) for index in record.get("pos_index", ()))
    if any(not 0 <= index < len(texts) for index in positives):
        raise ValueError(f"pos_index {positives} is out of range: there are {len(texts)} documents")
    return Example(texts, questions, answers[:1] if paraphrase else answers, paraphrase, positives)


def _parse_lines(lines: Iterable[str], name: str) -> Iterator[Example]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield parse_example(json.loads(line))
        except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
            raise DataError(f"{name}, line {number}: {error!r}") from error


def _parse_answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    if isinstance(record.get("answer"), str):
        return (record["answer"],)
    if isinstance(record.get("answers"), list):
        return _to_strings(record["answers"])
    return _to_strings(record["golden_answers"][:1])


def _to_strings(value: Any) -> tuple[str, ...]:
    texts: list[Any] = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("expected a string or a list of strings")
    return tuple(texts)
