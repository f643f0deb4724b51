"""Training records from tool outputs: the answer is the lines with names, paths or numbers that were used later.

Answers are verbatim. A record has `DOCUMENT_COUNT` windows of the output as its documents. Reads no files and calls no
model; `from_trajectories` and `from_ledger` decide which literals were used.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any

DOCUMENT_COUNT = 5  # as many as the released models were tuned with
WINDOW_CHARS = 700  # about 256 tokens, in code and logs too
MAX_ANSWER_LINES = 3
_LITERAL = re.compile(r"[A-Za-z0-9_][\w./:@#-]{3,}[\w/]")


def find_literals(text: str) -> frozenset[str]:
    """Return the names, paths, numbers and long words of a text."""
    return frozenset(_LITERAL.findall(text))


def find_answer_lines(output: str, used: AbstractSet[str]) -> list[str]:
    """Return the first `MAX_ANSWER_LINES` lines of an output that hold a used literal."""
    return [line.strip() for line in output.splitlines() if used & find_literals(line)][:MAX_ANSWER_LINES]


def add_earlier_windows(windows: list[str], earlier: Sequence[str]) -> list[str]:
    """Prepend the last windows of earlier outputs to an output with fewer than `DOCUMENT_COUNT` windows."""
    missing = DOCUMENT_COUNT - len(windows)
    return [*(earlier[-missing:] if missing > 0 else ()), *windows]


def make_record(lines: Sequence[str], windows: Sequence[str], question: str) -> dict[str, Any] | None:
    """Return a training record with these answer lines, or None if no window holds one or there are too few windows."""
    relevant = [index for index, window in enumerate(windows) if any(line in window for line in lines)]
    if not relevant or len(windows) < DOCUMENT_COUNT:
        return None
    start = max(0, min(relevant[0] - DOCUMENT_COUNT // 2, len(windows) - DOCUMENT_COUNT))
    positives = [index - start for index in relevant if start <= index < start + DOCUMENT_COUNT]
    documents = list(windows[start : start + DOCUMENT_COUNT])
    answer = "\n".join(line for line in lines if any(line in document for document in documents))
    return {"docs": documents, "question": question, "answer": answer, "pos_index": positives, "data_type": "qa"}


def split_windows(text: str) -> list[str]:
    """Split a text into windows of whole lines, at most `WINDOW_CHARS` characters each; longer lines are split."""
    pieces = [
        line[start : start + WINDOW_CHARS]
        for line in text.splitlines(keepends=True)
        for start in range(0, len(line), WINDOW_CHARS)
    ]
    ends, size = [0], 0
    for index, piece in enumerate(pieces):
        if size + len(piece) > WINDOW_CHARS:
            ends.append(index)
            size = 0
        size += len(piece)
    return ["".join(pieces[start:end]) for start, end in pairwise([*ends, len(pieces)]) if end > start]
