"""Training data: JSON lines in the format of CLaRa's own trainer, read into items; knows no tokens.

One object a line. Documents are the list `docs`, else `context`, else `content`; the answer is `answer`, else
`answers`, else the first of `golden_answers`; `data_type` is "qa" or "paraphrase"; `pos_index` lists the documents that
help.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ClaraError


class Item(NamedTuple):
    """One line: `questions` and `answers` are parallel; a paraphrase has no question and one answer, its target."""

    documents: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    paraphrase: bool = False
    positives: tuple[int, ...] = ()


class DataError(ClaraError):
    """A line that is not what the format says; names the line."""


def read(path: Path) -> list[Item]:
    """Read a file of JSON lines; empty lines are passed over. Raises `DataError` naming file and line."""
    with path.open(encoding="utf-8") as lines:
        return list(_items(lines, str(path)))


def item(record: Mapping[str, Any]) -> Item:
    """Read one record. Raises `KeyError`, `TypeError` or `ValueError` where it does not hold what it must."""
    documents = next(record[name] for name in ("docs", "context", "content") if name in record)
    if isinstance(documents, str) or not documents:
        raise ValueError("the documents are not a list of texts")
    texts = _texts(documents)
    paraphrase = record.get("data_type", "qa") == "paraphrase"
    answers = _answers(record)
    questions = () if paraphrase else _texts(record["question"])
    if not paraphrase and len(questions) != len(answers):
        raise ValueError(f"{len(questions)} questions, {len(answers)} answers")
    positives = tuple(int(place) for place in record.get("pos_index", ()))
    if any(not 0 <= place < len(texts) for place in positives):
        raise ValueError(f"pos_index {positives}, but {len(texts)} documents")
    return Item(texts, questions, answers[:1] if paraphrase else answers, paraphrase, positives)


def _items(lines: Iterable[str], name: str) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield item(json.loads(line))
        except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
            raise DataError(f"{name}, line {number}: {error!r}") from error


def _answers(record: Mapping[str, Any]) -> tuple[str, ...]:
    if isinstance(record.get("answer"), str):
        return (record["answer"],)
    if isinstance(record.get("answers"), list):
        return _texts(record["answers"])
    return _texts(record["golden_answers"][:1])


def _texts(value: Any) -> tuple[str, ...]:
    texts: list[Any] = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("something else than text where text is wanted")
    return tuple(texts)
