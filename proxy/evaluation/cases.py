"""Reads evaluation data: JSON lines of a question, its documents and the accepted answers.

A line has a `question`, its text as `document`, `context` or `text`, or a list `documents` of texts or of objects with
`title` and `text`, and an `answer` or a list `answers`. Instead of one question, it may have a list `questions` of
objects with `question` and `answer`. Other fields are ignored. Files may be gzipped.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..protocols.json_types import Json, is_array, is_object

TEXT_FIELDS = ("document", "context", "text")
LIST_FIELDS = ("documents", "docs")
ANSWER_FIELDS = ("answers", "answer", "golden_answers")


class EvaluationDataError(ValueError):
    """A file or a line that cannot be evaluated; the message names both."""


class Document(NamedTuple):
    """A document and its title; the title may be empty."""

    title: str
    text: str


class Case(NamedTuple):
    """A question about documents; any of the `answers` is right. `name` identifies the content."""

    data: str
    name: str
    question: str
    documents: tuple[Document, ...]
    answers: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return the documents as one text, numbered if there are several."""
        if len(self.documents) == 1:
            return _join_title(self.documents[0])
        return "\n".join(
            f"Document [{number}](Title: {title}) {text}" if title else f"Document [{number}] {text}"
            for number, (title, text) in enumerate(self.documents, start=1)
        )

    @property
    def document_texts(self) -> list[str]:
        """Return each document with its title."""
        return [_join_title(document) for document in self.documents]

    def is_answered_by(self, text: str) -> bool:
        """Return True if a text contains an answer verbatim."""
        return any(answer in text for answer in self.answers)


def read_cases(path: Path, limit: int | None = None, seed: int = 0) -> list[Case]:
    """Read a file; with `limit`, a sample of that many cases. A larger limit extends the sample.

    Raises `EvaluationDataError` for a file that cannot be read, and for an invalid line, with its number.
    """
    cases = list(dict.fromkeys(_iter_cases(path)))
    if not cases:
        raise EvaluationDataError(f"{path}: no questions in it")
    if limit is None or limit >= len(cases):
        return cases
    ranks = {case: hashlib.sha256(f"{seed}:{case.name}".encode()).digest() for case in cases}
    chosen = set(sorted(cases, key=ranks.__getitem__)[:limit])
    return [case for case in cases if case in chosen]


def _iter_cases(path: Path) -> Iterator[Case]:
    data = path.name.removesuffix(".gz").removesuffix(".jsonl")
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - named in errors
                if line.strip():
                    yield from _parse_line(data, line)
    except EvaluationDataError as error:
        raise EvaluationDataError(f"{path}, line {number}: {error}") from None
    except (OSError, EOFError) as error:
        raise EvaluationDataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _parse_line(data: str, line: bytes) -> Iterator[Case]:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise EvaluationDataError(f"not JSON ({error})") from error
    if not is_object(record):
        raise EvaluationDataError("not a JSON object")
    documents = _parse_documents(record)
    questions: Any = record.get("questions", [record])
    if not is_array(questions) or not all(is_object(item) for item in questions):
        raise EvaluationDataError("`questions` must be a list of objects with `question` and `answer`")
    for item in questions:
        question = item.get("question")
        if not isinstance(question, str) or not question.strip():
            raise EvaluationDataError("`question` must be a text")
        answers = _parse_answers(item)
        content = json.dumps([question, documents, answers], ensure_ascii=True)
        name = hashlib.sha256(content.encode()).hexdigest()[:16]
        yield Case(data, name, question, documents, answers)


def _parse_documents(fields: Json) -> tuple[Document, ...]:
    for name in TEXT_FIELDS:
        if isinstance(text := fields.get(name), str) and text.strip():
            return (Document("", text),)
    for name in LIST_FIELDS:
        items = fields.get(name)
        if is_array(items) and items:
            return tuple(_parse_document(name, item) for item in items)
    raise EvaluationDataError(f"no text in `{'`, `'.join((*TEXT_FIELDS, *LIST_FIELDS))}`")


def _parse_document(name: str, item: Any) -> Document:
    if isinstance(item, str) and item.strip():
        return Document("", item)
    if is_object(item):
        text, title = item.get("text"), item.get("title") or ""
        if isinstance(text, str) and text.strip() and isinstance(title, str):
            return Document(" ".join(title.split()), text)
    raise EvaluationDataError(f"`{name}` must hold texts, or objects with `text` and perhaps `title`")


def _parse_answers(fields: Json) -> tuple[str, ...]:
    for name in ANSWER_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        answers = value if is_array(value) else [value]
        texts = tuple(answer for answer in answers if isinstance(answer, str) and answer.strip())
        if not texts or len(texts) != len(answers):
            raise EvaluationDataError(f"`{name}` must be a text, or a list of texts")
        return texts
    raise EvaluationDataError("no answer in `answer` or `answers`")


def _join_title(document: Document) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text
