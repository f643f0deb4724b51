"""Baselines for compression: the passages with the best BM25 score, and the beginning and the end of a text."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import log

from ...compression.compressor import CompressedPassage, Gap, Task
from ...compression.markers import render

_SENTENCE_BREAK = re.compile(r"(?<=[.!?]) ")
_PIECE = re.compile(r"\s*\S+")  # vocabularies join a word with the space before it
_MAX_ATTEMPTS = 6  # markers take tokens, too, so the first selection may exceed the target


def rank_by_bm25(task: Task) -> str:
    """Keep the lines with the best BM25 score over lower-case words; of equal ones, the earlier.

    A text of one line is split into sentences.
    """
    lines = task.text.split("\n") if "\n" in task.text else _SENTENCE_BREAK.split(task.text)
    question_words = set(re.findall(r"\w+", task.question.lower()))
    words = [Counter(word for word in re.findall(r"\w+", line.lower()) if word in question_words) for line in lines]
    document_frequencies = Counter(word for counts in words for word in counts)
    average = sum(map(len, lines)) / len(lines) or 1.0
    idf = {word: log(1 + (len(lines) - df + 0.5) / (df + 0.5)) for word, df in document_frequencies.items()}
    scores = [
        sum(
            idf[word] * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * len(line) / average))
            for word, frequency in counts.items()
        )
        for line, counts in zip(lines, words, strict=True)
    ]
    return keep_lines(task, lines, sorted(range(len(lines)), key=lambda index: -scores[index]))


def cut_middle(task: Task) -> str:
    """Keep the beginning and the end of a text, half of the target each, cut between words."""
    pieces = _PIECE.findall(task.text)
    if task.count(task.text) <= task.target:
        return task.text
    budget = task.target
    output = ""
    for _ in range(_MAX_ATTEMPTS):
        head = _fill_budget(pieces, budget / 2, task.count)
        tail = _fill_budget(pieces[:head:-1], budget / 2, task.count)
        gap = Gap(len(pieces) - head - tail, "words")
        parts = ("".join(pieces[:head]), gap, "".join(pieces[len(pieces) - tail :]))
        output = render(CompressedPassage(tuple(part for part in parts if part != ""), len(pieces), "words"), None)
        excess = task.count(output) - task.target
        if excess <= 0:
            break
        budget -= excess
    return output


def keep_lines(task: Task, lines: list[str], order: list[int]) -> str:
    """Keep lines in this order while they fit; if the markers exceed the target, retry with a smaller budget."""
    costs = [task.count(line) + 1 for line in lines]
    budget = task.target
    output = ""
    for _ in range(4):
        output = _select_within(budget, lines, costs, order)
        if task.count(output) <= task.target:
            break
        budget = int(budget * 0.95 * task.target / task.count(output))
    return output


BASELINES: dict[str, Callable[[Task], str]] = {"bm25": rank_by_bm25, "head-tail": cut_middle}


def _fill_budget(pieces: Sequence[str], budget: float, count: Callable[[str], int]) -> int:
    """Return the number of words at the beginning that fit into a budget of tokens."""
    used = 0
    for index, piece in enumerate(pieces):
        used += count(piece)
        if used > budget:
            return index
    return len(pieces)


def _select_within(budget: int, lines: list[str], costs: list[int], order: list[int]) -> str:
    kept: set[int] = set()
    for index in order:
        if costs[index] <= budget or not kept:
            budget -= costs[index]
            kept.add(index)
    parts: list[str | Gap] = []
    for index, line in enumerate(lines):
        if index in kept:
            parts.append(line)
        elif parts and isinstance(parts[-1], Gap):
            parts[-1] = Gap(parts[-1].left_out + 1, "lines")
        else:
            parts.append(Gap(1, "lines"))
    return render(CompressedPassage(tuple(parts), len(lines), "lines"), None)
