"""Chooses units of a text under a budget and writes them down as verbatim pieces with counted gaps.

Knows nothing of any kind of content: a kind's file says where the units are, what they are worth, and what each belongs
under. The budget is in characters while choosing, and is corrected by counting the tokens of what came out.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from operator import itemgetter

from ...compressor import Condensed, Count, Gap, Task
from ...markers import render
from .bm25 import Span

MARKER = 26  # characters' worth of tokens that a gap's marker costs; between sentences it is a short one
SHORT = 10
NEAREST = (0.93, 0.9, 0.8, 0.0)  # share of the target that is good enough, round by round
BLANK = 8  # characters of blanks between two kept units that are still worth showing
MISSES = 200  # units that did not fit before the choosing ends
EXACT = 12_000  # characters up to which tokens are counted rather than sampled
SLICES = 16
SLICE = 500


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
    must: Sequence[int] = ()
    partners: Mapping[int, int] = field(default_factory=dict[int, int])
    kinds: Sequence[object] | None = None
    groups: Sequence[object] | None = None
    group: str = ""
    marker: int = MARKER
    order: list[int] = field(default_factory=list[int], init=False)
    apart: list[int] = field(default_factory=list[int], init=False)

    def __post_init__(self) -> None:
        """Rank the units once; what holds nothing that counts comes along with others only.

        `apart` are those with a stretch of blanks in front that is not worth showing.
        """
        ends = chain((0,), map(itemgetter(1), self.spans))
        starts = map(itemgetter(0), self.spans)
        self.apart.extend(
            [at for at, (start, end) in enumerate(zip(starts, ends, strict=False)) if start - end > BLANK]
        )
        worth = self.sizes if self.sizes is not None else [1] * len(self.spans)
        self.order.extend(sorted(filter(worth.__getitem__, range(len(self.spans))), key=lambda one: -self.scores[one]))


def shorten(task: Task, units: Units) -> Condensed | None:
    """Choose the best units that fit the target; None when that is no shorter than the text."""
    if not units.spans:
        return None
    made: dict[bytes, Condensed] = {}

    def build(budget: int) -> Condensed:
        kept = choose(units, budget)
        known = made.get(bytes(kept))  # what must be kept may be all there is room for, whatever the budget
        if known is None:
            known = made[bytes(kept)] = written(units, kept)
        return known

    return fit(task, len(task.text), build)


def fit(task: Task, characters: int, build: Callable[[int], Condensed]) -> Condensed | None:
    """Find the budget in characters whose outcome comes nearest below the target; None when nothing is gained."""
    total = tokens(task.text, task.count)
    budget = int(task.target * characters / max(1, total))
    best: tuple[bool, int] | None = None
    kept: Condensed | None = None
    for nearest in NEAREST:
        outcome = build(budget)
        size = tokens(render(outcome, None), task.count)
        rank = (size <= task.target, size if size <= task.target else -size)
        if best is None or rank > best:
            best, kept = rank, outcome
        if nearest * task.target <= size <= task.target or size == 0:
            break
        budget = int(budget * min(2.0, max(0.3, 0.97 * task.target / size)))
    return kept if best is not None and abs(best[1]) < total else None


def tokens(text: str, count: Count) -> int:
    """Count tokens; a long text's are estimated from slices taken all over it."""
    if len(text) <= EXACT:
        return count(text)
    step = (len(text) - SLICE) // (SLICES - 1)
    sampled = sum(count(text[at : at + SLICE]) for at in range(0, step * SLICES, step))
    return sampled * len(text) // (SLICE * SLICES)


def choose(units: Units, budget: int) -> bytearray:
    """Mark the units to keep: those that must be, then the best that fit, each with what it belongs under."""
    kept = bytearray(len(units.spans) + 2)  # one more at each end, so that every unit has neighbours
    spent = sum([_take(units, kept, index) for index in units.must if not kept[index + 1]])
    misses = 0
    alone = units.parents is None and not units.partners
    for index in units.order:
        if kept[index + 1]:
            continue
        start, end = units.spans[index]
        cost = end - start + 1 + units.marker * (1 - kept[index] - kept[index + 2])  # one less where it closes a gap
        along = () if alone else _along(units, kept, index)
        if along:
            cost += _cost(units, along)
        if spent and spent + cost > budget:
            misses += 1
            if misses > MISSES:
                break
            continue
        kept[index + 1] = 1
        for one in along:
            kept[one + 1] = 1
        spent += cost
    return kept[1:-1]


def _take(units: Units, kept: bytearray, index: int) -> int:
    along = _along(units, kept, index)
    kept[index + 1] = 1
    for one in along:
        kept[one + 1] = 1
    return _cost(units, (index, *along))


def _along(units: Units, kept: bytearray, index: int) -> Sequence[int]:
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


def _cost(units: Units, indices: Sequence[int]) -> int:
    return sum([units.spans[one][1] - units.spans[one][0] + 1 for one in indices])


def written(units: Units, kept: bytearray) -> Condensed:
    """Write the kept units down; a gap that is no longer than its marker is filled instead."""
    parts: list[str | Gap] = []
    shown: object = None
    for keep, start, end in _runs(_bridged(units, kept)):
        if keep:
            parts.extend(_pieces(units, start, end))
            shown = units.kinds[end - 1] if units.kinds is not None else None
        else:
            parts.append(_gap(units, start, end, shown))
    return Condensed(tuple(parts), _size(units, 0, len(units.spans)), units.unit)


def _bridged(units: Units, kept: bytearray) -> bytearray:
    bridged = bytearray(kept)
    for keep, start, end in _runs(kept):
        if not keep and units.spans[end - 1][1] - units.spans[start][0] < units.marker:  # a marker would be no shorter
            bridged[start:end] = b"\1" * (end - start)
    return bridged


def _runs(flags: bytearray) -> Iterator[tuple[bool, int, int]]:
    """List the runs of equal flags: the flag, first index, index after the last."""
    at = 0
    while at < len(flags):
        end = flags.find(0 if flags[at] else 1, at)
        end = len(flags) if end < 0 else end
        yield bool(flags[at]), at, end
        at = end


def _pieces(units: Units, start: int, end: int) -> Iterator[str]:
    """Cut a run of kept units where a stretch of blanks stands between two of them; the blanks go unmarked."""
    cuts = units.apart[bisect_right(units.apart, start) : bisect_left(units.apart, end)]
    for first, after in pairwise((start, *cuts, end)):
        yield units.text[units.spans[first][0] : units.spans[after - 1][1]]


def _gap(units: Units, start: int, end: int, shown: object) -> Gap:
    unit = units.unit
    if shown is not None and units.kinds is not None and all(kind == shown for kind in units.kinds[start:end]):
        unit = f"similar {unit}"
    elif units.groups is not None:
        whole = set(units.groups[start:end]) - {units.groups[start - 1] if start else None}
        whole -= {units.groups[end] if end < len(units.groups) else None, None}
        unit = f"{unit} of {len(whole)} {units.group}" if len(whole) > 1 else unit
    return Gap(_size(units, start, end), unit)


def _size(units: Units, start: int, end: int) -> int:
    return sum(units.sizes[start:end]) if units.sizes is not None else end - start
