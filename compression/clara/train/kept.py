"""Training lines from passages that the proxy kept: how each came, and what it was wanted for.

Knows no store; calls no model. There are no chats here, only the passages that were changed, each with its question:
the words before it and, for a tool's output, what the model said as it called and the call. So what a model made of a
passage shows in the questions of later ones, and nowhere else. Answers are verbatim. How a passage was shortened is no
answer: that says what was chosen for the question, not what was used.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from . import trajectories
from .trajectories import LINES, answer, filled, literals, windows

_NAME = re.compile(r"[^a-zA-Z]|(?<=.)[A-Z]")  # what a plain word does not have
_ASKED, _CALLED = 400, 200  # characters of a question: of its beginning, and of its end


class Kept(NamedTuple):
    """One passage as it came, and what it was wanted for ("" where that was not kept)."""

    before: str
    question: str


def records(requests: Iterable[Sequence[Kept]]) -> Iterator[dict[str, Any]]:
    """Yield training records of requests, newest first, each a conversation's passages in their order.

    The answer are the lines with names of which later words or calls were made. A conversation that grows carries its
    passages again: each gives one record, from the newest request that says what became of it.
    """
    found: dict[Kept, dict[str, Any]] = {}
    for passages in requests:
        for passage, made in zip(passages, _made(passages), strict=True):
            if made is not None:
                found.setdefault(passage, made)
    yield from found.values()


def restatements(requests: Iterable[Sequence[Kept]]) -> Iterator[dict[str, Any]]:
    """Yield a record for every window of every passage, each once: its memory has to hold it, word for word."""
    pieces = (piece for passages in requests for passage in passages for piece in windows(passage.before))
    for piece in dict.fromkeys(piece for piece in pieces if piece.strip()):
        yield {"docs": [piece], "question": "", "answers": [piece], "data_type": "paraphrase"}


def _made(passages: Sequence[Kept]) -> Iterator[dict[str, Any] | None]:
    wanted = [literals(passage.question) for passage in passages]
    known: set[str] = set()
    earlier: list[str] = []
    for place, passage in enumerate(passages):
        known |= wanted[place]
        own = windows(passage.before)
        used = (_names(passage.before) & frozenset[str]().union(*wanted[place + 1 :])) - known
        question = _shortened(passage.question.strip())
        yield trajectories.record(answer(passage.before, used), filled(own, earlier), question) if question else None
        known |= literals(passage.before)
        earlier = [*earlier, *own][-trajectories.DOCUMENTS :]


def _names(text: str) -> frozenset[str]:
    """Return the literals that point somewhere: plain words, and what stands in more lines than an answer, do not."""
    counts = Counter(literal for line in text.splitlines() for literal in literals(line))
    return frozenset(literal for literal, count in counts.items() if count <= LINES and _NAME.search(literal))


def _shortened(question: str) -> str:
    if len(question) <= _ASKED + _CALLED:
        return question
    return f"{question[:_ASKED].strip()}\n{question[-_CALLED:].strip()}"
