"""Training records from passages that the proxy kept: the original text of each and its question.

A passage's question is the user text before it and, for a tool output, the text and the arguments of the call. The full
chat is not stored, so the use of a passage shows only in the questions of later passages. The compressed text of a
passage is never an answer: it records a selection, not a use.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from .example_records import (
    DOCUMENT_COUNT,
    MAX_ANSWER_LINES,
    add_earlier_windows,
    find_answer_lines,
    find_literals,
    make_record,
    split_windows,
)

_NOT_PLAIN_WORD = re.compile(r"[^a-zA-Z]|(?<=.)[A-Z]")
_QUESTION_HEAD_CHARS, _QUESTION_TAIL_CHARS = 400, 200


class KeptPassage(NamedTuple):
    """The original text of one passage and its question ("" if the question was not kept)."""

    text: str
    question: str


def usage_records(requests: Iterable[Sequence[KeptPassage]]) -> Iterator[dict[str, Any]]:
    """Yield training records from requests, newest first; each request lists its passages in conversation order.

    The answer is the lines with names that occur in later questions of the same request. A growing conversation repeats
    its passages; each passage gives at most one record, from the newest request that uses it.
    """
    records: dict[KeptPassage, dict[str, Any]] = {}
    for passages in requests:
        for passage, record in zip(passages, _request_records(passages), strict=True):
            if record is not None:
                records.setdefault(passage, record)
    yield from records.values()


def restatement_records(requests: Iterable[Sequence[KeptPassage]]) -> Iterator[dict[str, Any]]:
    """Yield one paraphrase record for every distinct window of every passage; its target is the window itself."""
    windows = (window for passages in requests for passage in passages for window in split_windows(passage.text))
    for window in dict.fromkeys(window for window in windows if window.strip()):
        yield {"docs": [window], "question": "", "answers": [window], "data_type": "paraphrase"}


def _request_records(passages: Sequence[KeptPassage]) -> Iterator[dict[str, Any] | None]:
    """Yield a record or None for each passage of one request."""
    question_literals = [find_literals(passage.question) for passage in passages]
    seen: set[str] = set()
    earlier: list[str] = []
    for index, passage in enumerate(passages):
        seen |= question_literals[index]
        windows = split_windows(passage.text)
        used = (_rare_names(passage.text) & frozenset[str]().union(*question_literals[index + 1 :])) - seen
        question = _shorten_question(passage.question.strip())
        lines = find_answer_lines(passage.text, used)
        yield make_record(lines, add_earlier_windows(windows, earlier), question) if question else None
        seen |= find_literals(passage.text)
        earlier = [*earlier, *windows][-DOCUMENT_COUNT:]


def _rare_names(text: str) -> frozenset[str]:
    """Return the literals that are not plain words and occur in at most `MAX_ANSWER_LINES` lines."""
    counts = Counter(literal for line in text.splitlines() for literal in find_literals(line))
    return frozenset(
        literal for literal, count in counts.items() if count <= MAX_ANSWER_LINES and _NOT_PLAIN_WORD.search(literal)
    )


def _shorten_question(question: str) -> str:
    if len(question) <= _QUESTION_HEAD_CHARS + _QUESTION_TAIL_CHARS:
        return question
    return f"{question[:_QUESTION_HEAD_CHARS].strip()}\n{question[-_QUESTION_TAIL_CHARS:].strip()}"
