"""Means of an evaluation by data file and method, with bootstrap intervals of 95 %."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .methods import FULL_TEXT
from .records import Record

RESAMPLES = 2000
_BLOCK = 100  # resamples at once; all together would take much memory for many questions
_SEED = 2026


class Interval(NamedTuple):
    """A mean and its bootstrap interval of 95 %; `n` values."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One method at one ratio on one data file; sizes in tokens, shares from 0 to 1, seconds a question.

    `kept` is the share of texts with a verbatim answer, of those answered by the original. The differences to the full
    text are paired. `reasons` count texts left unchanged, `compressors` the writers of the texts.
    """

    data: str
    method: str
    model: str
    ratio: float
    reader: str
    questions: int
    tokens: float
    share: float
    kept: Interval | None
    em: Interval | None
    f1: Interval | None
    f1_difference: Interval | None
    compress_seconds: float
    reader_seconds: float
    errors: int
    reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    compressors: Mapping[str, int] = field(default_factory=dict[str, int])


def summarise(records: Iterable[Record]) -> list[SummaryRow]:
    """Return one row for each data file, method, model and ratio, in the order of the records."""
    groups: dict[tuple[str, str, str, float], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.data, record.method, record.model, record.ratio].append(record)
    full: dict[tuple[str, str], float] = {
        (record.data, record.case): record.f1
        for group in groups.values()
        for record in group
        if record.method == FULL_TEXT and record.f1 is not None
    }
    return [_summarise_group(group, full) for group in groups.values()]


def _summarise_group(group: Sequence[Record], full: Mapping[tuple[str, str], float]) -> SummaryRow:
    first = group[0]
    differences = [
        record.f1 - full[record.data, record.case]
        for record in group
        if record.f1 is not None and (record.data, record.case) in full and record.method != FULL_TEXT
    ]
    tokens_before = sum(record.tokens_before for record in group)
    return SummaryRow(
        first.data,
        first.method,
        first.model,
        first.ratio,
        first.reader,
        len(group),
        sum(record.tokens for record in group) / len(group),
        sum(record.tokens for record in group) / max(1, tokens_before),
        bootstrap_mean([float(record.kept) for record in group if record.kept is not None]),
        bootstrap_mean([record.em for record in group if record.em is not None]),
        bootstrap_mean([record.f1 for record in group if record.f1 is not None]),
        bootstrap_mean(differences),
        sum(record.compress_seconds for record in group) / len(group),
        sum(record.reader_seconds for record in group) / len(group),
        sum(bool(record.error) for record in group),
        dict(Counter(record.reason for record in group if record.reason)),
        dict(Counter(record.compressor for record in group)),
    )


def bootstrap_mean(values: Sequence[float]) -> Interval | None:
    """Return the mean and its percentile interval over `RESAMPLES` resamples; None without values."""
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(_SEED)
    draws = (generator.integers(0, len(array), (_BLOCK, len(array))) for _ in range(RESAMPLES // _BLOCK))
    means = np.concatenate([array[block].mean(axis=1) for block in draws])
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(array.mean()), float(low), float(high), len(values))
