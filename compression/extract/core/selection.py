"""Selects units of a text within a budget and writes them as verbatim pieces with counted gaps.

A content type supplies the units, their scores and their parents. The budget is in characters; the tokens of the
outcome are counted afterwards to correct it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress, pairwise
from math import sqrt
from operator import itemgetter

from ...compressor import CompressedPassage, CountFunction, Gap, Task
from ...markers import render
from .base_weights import ExtractWeights
from .bm25 import Span
from .scoring import number_occurrences

MAX_EXACT_CHARACTERS = 12_000  # the tokens of a longer text are estimated from a sample
MIN_CHARACTERS = 2_400  # units of little worth fill the target up to this size
SAMPLE_SLICES = 16
SLICE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a text: spans in ascending order, not overlapping, each with a score.

    `sizes`: how many items (of the noun `unit`) a span counts for; a span of size 0 is kept only with others.
    `parents`: the index of the span to keep with it (a lower index, or -1). `partners`: another span to keep
    with it, which may have a partner of its own.
    `required`: spans to keep at any cost. `templates`: equal values mark look-alikes; a gap that contains only
    look-alikes of the piece before it is called similar. `matches`: the same for units that match the same words of the
    question; they are worth less the more there are, too. `groups`: the group of each span; a gap names the number of
    groups (of `group_noun`) that it contains whole.
    """

    text: str
    spans: Sequence[Span]
    scores: Sequence[float]
    unit: str
    weights: ExtractWeights
    sizes: Sequence[int] | None = None
    parents: Sequence[int] | None = None
    required: Sequence[int] = ()
    partners: Mapping[int, int] = field(default_factory=dict[int, int])
    templates: Sequence[Hashable] | None = None
    matches: Sequence[Hashable] | None = None
    groups: Sequence[object] | None = None
    group_noun: str = ""
    ranking: list[int] = field(default_factory=list[int], init=False)
    detached: list[int] = field(default_factory=list[int], init=False)

    def __post_init__(self) -> None:
        """Rank the units that count, and list those `detached` from the unit before by blanks not worth showing."""
        ends = chain((0,), map(itemgetter(1), self.spans))
        starts = map(itemgetter(0), self.spans)
        blanks = [start - end for start, end in zip(starts, ends, strict=False)]
        limit = self.weights.max_shown_blanks
        self.detached.extend([index for index, length in enumerate(blanks) if length > limit])
        sizes = self.sizes if self.sizes is not None else [1] * len(self.spans)
        scores = self.scores
        self.ranking.extend(sorted(filter(sizes.__getitem__, range(len(self.spans))), key=lambda index: -scores[index]))


def compress_units(task: Task, units: Units) -> CompressedPassage | None:
    """Select the best units that fit the target; return None if the outcome is not shorter than the text."""
    if not units.spans:
        return None
    task = replace(task, target=max(task.target, units.weights.min_target))
    if not task.fills_target and units.weights.min_score > 0:
        drop_worthless_units(units)
    outcomes: dict[bytes, CompressedPassage] = {}

    def build(budget: int) -> CompressedPassage:
        kept = choose_units(units, budget)
        outcome = outcomes.get(bytes(kept))  # required units may use up any budget
        if outcome is None:
            outcome = outcomes[bytes(kept)] = write_units(units, kept, task.skips)
        return outcome

    return fit_target(task, len(task.text), build, units.weights.good_enough_shares)


def drop_worthless_units(units: Units) -> None:
    """Remove, in place, units that are not worth their tokens from the ranking; the more look-alikes, the less worth.

    The ninth look-alike needs three times the score of the first. If less than `MIN_CHARACTERS` are worth their tokens,
    the best of the others fill them up.
    """
    min_score, scores, spans = units.weights.min_score, units.scores, units.spans
    look_alikes = units.matches or units.templates
    ranks = number_occurrences(look_alikes[index] if look_alikes is not None else index for index in units.ranking)
    is_worthy = [scores[index] >= min_score * sqrt(rank) for index, rank in zip(units.ranking, ranks, strict=True)]
    room = MIN_CHARACTERS - _sum_character_cost(units, list(compress(units.ranking, is_worthy)))
    for position, index in enumerate(units.ranking):
        if room <= 0:
            break
        if not is_worthy[position]:
            room -= spans[index][1] - spans[index][0] + 1
            is_worthy[position] = room >= 0
    units.ranking[:] = compress(units.ranking, is_worthy)


def fit_target(
    task: Task,
    characters: int,
    build: Callable[[int], CompressedPassage],
    good_enough_shares: Sequence[float],
) -> CompressedPassage | None:
    """Find the budget in characters with the outcome closest below the target; return None if nothing is saved.

    Each of `good_enough_shares` allows one attempt: it ends the search at an outcome of this share of the target.
    """
    total = estimate_token_count(task.text, task.count)
    budget = int(task.target * characters / max(1, total))
    best_rank: tuple[bool, int] | None = None
    best: CompressedPassage | None = None
    for share in good_enough_shares:
        outcome = build(budget)
        size = estimate_token_count(render(outcome, None), task.count)
        rank = (size <= task.target, size if size <= task.target else -size)
        if best_rank is None or rank > best_rank:
            best_rank, best = rank, outcome
        if share * task.target <= size <= task.target or size == 0:
            break
        budget = int(budget * min(2.0, max(0.3, 0.97 * task.target / size)))
    return best if best_rank is not None and (task.skips or abs(best_rank[1]) < total) else None


def estimate_token_count(text: str, count: CountFunction) -> int:
    """Count the tokens of a text; estimate those of a long text from evenly spaced slices."""
    if len(text) <= MAX_EXACT_CHARACTERS:
        return count(text)
    step = (len(text) - SLICE_CHARACTERS) // (SAMPLE_SLICES - 1)
    sampled = sum(count(text[start : start + SLICE_CHARACTERS]) for start in range(0, step * SAMPLE_SLICES, step))
    return sampled * len(text) // (SLICE_CHARACTERS * SAMPLE_SLICES)


def choose_units(units: Units, budget: int) -> bytearray:
    """Return a flag per unit: 1 for the required ones and for the best that fit, each with its companions."""
    kept = bytearray(len(units.spans) + 2)  # padded at both ends, so that every unit has neighbours
    spent = sum([_keep_with_companions(units, kept, index) for index in units.required if not kept[index + 1]])
    misses = 0
    has_companions = units.parents is not None or bool(units.partners)
    spans, marker_cost, max_misses = units.spans, units.weights.marker_cost, units.weights.max_misses
    for index in units.ranking:
        if kept[index + 1]:
            continue
        start, end = spans[index]
        cost = end - start + 1 + marker_cost * (1 - kept[index] - kept[index + 2])  # a filled gap saves its marker
        companions = _list_companions(units, kept, index) if has_companions else ()
        if companions:
            cost += _sum_character_cost(units, companions)
        if spent and spent + cost > budget:
            misses += 1
            if misses > max_misses:
                break
            continue
        kept[index + 1] = 1
        for companion in companions:
            kept[companion + 1] = 1
        spent += cost
    return kept[1:-1]


def _keep_with_companions(units: Units, kept: bytearray, index: int) -> int:
    companions = _list_companions(units, kept, index)
    kept[index + 1] = 1
    for companion in companions:
        kept[companion + 1] = 1
    return _sum_character_cost(units, (index, *companions))


def _list_companions(units: Units, kept: bytearray, index: int) -> Sequence[int]:
    """List the units to keep together with a unit: its partners, its ancestors, and their partners."""
    companions: list[int] = []
    while True:
        partner = units.partners.get(index) if units.partners else None
        while partner is not None and not kept[partner + 1] and partner not in companions:
            companions.append(partner)
            partner = units.partners.get(partner)
        index = units.parents[index] if units.parents is not None else -1
        if index < 0 or kept[index + 1]:
            return companions
        companions.append(index)


def _sum_character_cost(units: Units, indices: Sequence[int]) -> int:
    return sum([units.spans[index][1] - units.spans[index][0] + 1 for index in indices])


def write_units(units: Units, kept: bytearray, skips: Sequence[tuple[int, int]] = ()) -> CompressedPassage:
    """Write the kept units and the gaps between them; a gap no longer than its marker is filled instead.

    `skips` are the lines that the text lacks, as in `Task`; gaps count them, too.
    """
    parts: list[str | Gap] = []
    last_template: object = None
    spans, skip_offsets = units.spans, [offset for offset, _ in skips]
    written = 0  # skips
    for is_kept, start, end in _iter_runs(_fill_short_gaps(units, kept, skip_offsets)):
        if is_kept:
            after = bisect_right(skip_offsets, spans[end - 1][1] - 1)
            parts.extend(_iter_kept_text(units, start, end, skips[written:after]))
            last_template = units.templates[end - 1] if units.templates is not None else None
        else:
            after = bisect_right(skip_offsets, spans[end][0]) if end < len(spans) else len(skips)
            parts.append(_make_gap(units, start, end, last_template, skips[written:after]))
        written = after
    total = _count_units(units, 0, len(spans)) + sum([count for _, count in skips])
    return CompressedPassage(tuple(parts), total, units.unit)


def _fill_short_gaps(units: Units, kept: bytearray, skip_offsets: Sequence[int]) -> bytearray:
    filled = bytearray(kept)
    for is_kept, start, end in _iter_runs(kept):
        first, last = units.spans[start][0], units.spans[end - 1][1]
        if not is_kept and last - first < units.weights.marker_cost:
            position = bisect_left(skip_offsets, first)
            after = units.spans[end][0] if end < len(units.spans) else len(units.text)
            if position == len(skip_offsets) or skip_offsets[position] > after:
                filled[start:end] = b"\1" * (end - start)
    return filled


def _iter_runs(flags: bytearray) -> Iterator[tuple[bool, int, int]]:
    """Yield the runs of equal flags: the flag, the first index, the index after the last."""
    start = 0
    while start < len(flags):
        end = flags.find(0 if flags[start] else 1, start)
        end = len(flags) if end < 0 else end
        yield bool(flags[start]), start, end
        start = end


def _iter_kept_text(units: Units, start: int, end: int, skips: Sequence[tuple[int, int]]) -> Iterator[str | Gap]:
    """Yield the text of a run of kept units, cut at long stretches of blanks, and a gap for each of the skips."""
    cuts = units.detached[bisect_right(units.detached, start) : bisect_left(units.detached, end)]
    remaining = list(skips)
    for first, after in pairwise((start, *cuts, end)):
        begin, stop = units.spans[first][0], units.spans[after - 1][1]
        while remaining and remaining[0][0] < stop:
            offset, count = remaining.pop(0)
            if begin < offset:
                yield units.text[begin:offset]
            yield Gap(count, units.unit)
            begin = max(begin, offset)
        yield units.text[begin:stop]


def _make_gap(units: Units, start: int, end: int, last_template: object, skips: Sequence[tuple[int, int]] = ()) -> Gap:
    unit = units.unit
    templates = units.templates
    if skips:
        return Gap(_count_units(units, start, end) + sum([count for _, count in skips]), unit)
    if (
        last_template is not None
        and templates is not None
        and all(template == last_template for template in templates[start:end])
    ):
        unit = f"similar {unit}"
    elif units.groups is not None:
        before = units.groups[start - 1] if start else None
        after = units.groups[end] if end < len(units.groups) else None
        whole = set(units.groups[start:end]) - {before, after, None}
        unit = f"{unit} of {len(whole)} {units.group_noun}" if len(whole) > 1 else unit
    return Gap(_count_units(units, start, end), unit)


def _count_units(units: Units, start: int, end: int) -> int:
    return sum(units.sizes[start:end]) if units.sizes is not None else end - start
