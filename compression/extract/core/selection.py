"""Chooses units of a text under a budget and writes them down as verbatim pieces with counted gaps.

Knows nothing of any kind of content: a kind's file says where the units are, what they are worth, and what each belongs
under. The budget is in characters while choosing, and is corrected by counting the tokens of what came out.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from operator import itemgetter

from ...compressor import CompressedPassage, CountFunction, Gap, Task
from ...markers import render
from .bm25 import Span

MARKER_COST = 26  # characters' worth of tokens that a gap's marker costs; between sentences it is a short one
SHORT_MARKER_COST = 10
GOOD_ENOUGH_SHARES = (0.93, 0.9, 0.8, 0.0)  # share of the target that is good enough, round by round
MAX_SHOWN_BLANKS = 8  # characters of blanks between two kept units that are still worth showing
MAX_MISSES = 200  # units that did not fit before the choosing ends
MAX_EXACT_CHARACTERS = 12_000  # characters up to which tokens are counted rather than sampled
SAMPLE_SLICES = 16
SLICE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Units:
    """A text cut up: ascending spans apart from one another, and for each what it is worth.

    `sizes` says how many of the counted things (`unit`) a span holds; what holds none only comes along with others.
    `parents` names the span it belongs under (a lower index, or -1), which comes along when it is chosen; `partners`,
    another one that does. `must` spans are kept whatever they cost. Spans of one `kinds` value look alike, and a gap of
    nothing but look-alikes of the piece before it says so; a gap says how many whole `groups` it swallowed. `marker` is
    what a gap's marker costs, in characters.
    """

    text: str
    spans: Sequence[Span]
    scores: Sequence[float]
    unit: str
    sizes: Sequence[int] | None = None
    parents: Sequence[int] | None = None
    required: Sequence[int] = ()
    partners: Mapping[int, int] = field(default_factory=dict[int, int])
    templates: Sequence[object] | None = None
    groups: Sequence[object] | None = None
    group_noun: str = ""
    marker_cost: int = MARKER_COST
    ranking: list[int] = field(default_factory=list[int], init=False)
    detached: list[int] = field(default_factory=list[int], init=False)

    def __post_init__(self) -> None:
        """Rank the units once; what holds nothing that counts comes along with others only.

        `apart` are those with a stretch of blanks in front that is not worth showing.
        """
        ends = chain((0,), map(itemgetter(1), self.spans))
        starts = map(itemgetter(0), self.spans)
        self.detached.extend(
            [at for at, (start, end) in enumerate(zip(starts, ends, strict=False)) if start - end > MAX_SHOWN_BLANKS]
        )
        worth = self.sizes if self.sizes is not None else [1] * len(self.spans)
        self.ranking.extend(
            sorted(filter(worth.__getitem__, range(len(self.spans))), key=lambda one: -self.scores[one])
        )


def compress_units(task: Task, units: Units) -> CompressedPassage | None:
    """Choose the best units that fit the target; None when that is no shorter than the text."""
    if not units.spans:
        return None
    made: dict[bytes, CompressedPassage] = {}

    def build(budget: int) -> CompressedPassage:
        kept = choose_units(units, budget)
        known = made.get(bytes(kept))  # what must be kept may be all there is room for, whatever the budget
        if known is None:
            known = made[bytes(kept)] = write_units(units, kept)
        return known

    return fit_target(task, len(task.text), build)


def fit_target(task: Task, characters: int, build: Callable[[int], CompressedPassage]) -> CompressedPassage | None:
    """Find the budget in characters whose outcome comes nearest below the target; None when nothing is gained."""
    total = estimate_token_count(task.text, task.count)
    budget = int(task.target * characters / max(1, total))
    best: tuple[bool, int] | None = None
    kept: CompressedPassage | None = None
    for nearest in GOOD_ENOUGH_SHARES:
        outcome = build(budget)
        size = estimate_token_count(render(outcome, None), task.count)
        rank = (size <= task.target, size if size <= task.target else -size)
        if best is None or rank > best:
            best, kept = rank, outcome
        if nearest * task.target <= size <= task.target or size == 0:
            break
        budget = int(budget * min(2.0, max(0.3, 0.97 * task.target / size)))
    return kept if best is not None and abs(best[1]) < total else None


def estimate_token_count(text: str, count: CountFunction) -> int:
    """Count tokens; a long text's are estimated from slices taken all over it."""
    if len(text) <= MAX_EXACT_CHARACTERS:
        return count(text)
    step = (len(text) - SLICE_CHARACTERS) // (SAMPLE_SLICES - 1)
    sampled = sum(count(text[at : at + SLICE_CHARACTERS]) for at in range(0, step * SAMPLE_SLICES, step))
    return sampled * len(text) // (SLICE_CHARACTERS * SAMPLE_SLICES)


def choose_units(units: Units, budget: int) -> bytearray:
    """Mark the units to keep: those that must be, then the best that fit, each with what it belongs under."""
    kept = bytearray(len(units.spans) + 2)  # one more at each end, so that every unit has neighbours
    spent = sum([_keep_with_companions(units, kept, index) for index in units.required if not kept[index + 1]])
    misses = 0
    alone = units.parents is None and not units.partners
    for index in units.ranking:
        if kept[index + 1]:
            continue
        start, end = units.spans[index]
        cost = (
            end - start + 1 + units.marker_cost * (1 - kept[index] - kept[index + 2])
        )  # one less where it closes a gap
        along = () if alone else _list_companions(units, kept, index)
        if along:
            cost += _sum_character_cost(units, along)
        if spent and spent + cost > budget:
            misses += 1
            if misses > MAX_MISSES:
                break
            continue
        kept[index + 1] = 1
        for one in along:
            kept[one + 1] = 1
        spent += cost
    return kept[1:-1]


def _keep_with_companions(units: Units, kept: bytearray, index: int) -> int:
    along = _list_companions(units, kept, index)
    kept[index + 1] = 1
    for one in along:
        kept[one + 1] = 1
    return _sum_character_cost(units, (index, *along))


def _list_companions(units: Units, kept: bytearray, index: int) -> Sequence[int]:
    """List what comes along with a unit: its partner, what it belongs under, and their partners."""
    along: list[int] = []
    while True:
        partner = units.partners.get(index) if units.partners else None
        if partner is not None and not kept[partner + 1]:
            along.append(partner)
        index = units.parents[index] if units.parents is not None else -1
        if index < 0 or kept[index + 1]:
            return along
        along.append(index)


def _sum_character_cost(units: Units, indices: Sequence[int]) -> int:
    return sum([units.spans[one][1] - units.spans[one][0] + 1 for one in indices])


def write_units(units: Units, kept: bytearray) -> CompressedPassage:
    """Write the kept units down; a gap that is no longer than its marker is filled instead."""
    parts: list[str | Gap] = []
    shown: object = None
    for keep, start, end in _iter_runs(_fill_short_gaps(units, kept)):
        if keep:
            parts.extend(_iter_kept_text(units, start, end))
            shown = units.templates[end - 1] if units.templates is not None else None
        else:
            parts.append(_make_gap(units, start, end, shown))
    return CompressedPassage(tuple(parts), _count_units(units, 0, len(units.spans)), units.unit)


def _fill_short_gaps(units: Units, kept: bytearray) -> bytearray:
    bridged = bytearray(kept)
    for keep, start, end in _iter_runs(kept):
        if (
            not keep and units.spans[end - 1][1] - units.spans[start][0] < units.marker_cost
        ):  # a marker would be no shorter
            bridged[start:end] = b"\1" * (end - start)
    return bridged


def _iter_runs(flags: bytearray) -> Iterator[tuple[bool, int, int]]:
    """List the runs of equal flags: the flag, first index, index after the last."""
    at = 0
    while at < len(flags):
        end = flags.find(0 if flags[at] else 1, at)
        end = len(flags) if end < 0 else end
        yield bool(flags[at]), at, end
        at = end


def _iter_kept_text(units: Units, start: int, end: int) -> Iterator[str]:
    """Cut a run of kept units where a stretch of blanks stands between two of them; the blanks go unmarked."""
    cuts = units.detached[bisect_right(units.detached, start) : bisect_left(units.detached, end)]
    for first, after in pairwise((start, *cuts, end)):
        yield units.text[units.spans[first][0] : units.spans[after - 1][1]]


def _make_gap(units: Units, start: int, end: int, shown: object) -> Gap:
    unit = units.unit
    if shown is not None and units.templates is not None and all(kind == shown for kind in units.templates[start:end]):
        unit = f"similar {unit}"
    elif units.groups is not None:
        whole = set(units.groups[start:end]) - {units.groups[start - 1] if start else None}
        whole -= {units.groups[end] if end < len(units.groups) else None, None}
        unit = f"{unit} of {len(whole)} {units.group_noun}" if len(whole) > 1 else unit
    return Gap(_count_units(units, start, end), unit)


def _count_units(units: Units, start: int, end: int) -> int:
    return sum(units.sizes[start:end]) if units.sizes is not None else end - start
