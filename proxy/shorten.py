"""One conversation, shorter: plan, compress, and the edits that put the result in the place of the passages.

Knows no protocol: it takes turns and gives back, by slot, what each string shall say. Originals are stored before a
marker that names them can leave (law 2).
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter

from ..compression import policy, tags
from ..compression.engine import FAILURES, Engine, Job, Outcome
from ..compression.policy import Decision, Rules
from ..compression.tokens import Vocabulary
from ..compression.transcript import Slot, Turn
from .accounting import Passage
from .originals import Originals, name

Result = tuple[Decision, Outcome | None]
INLINE = 32_000  # characters that are planned on the event loop; what is more, and new, goes to a thread


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request wants of this conversation: who asks, how, within how many seconds, and whether it can fetch."""

    rules: Rules
    vocabulary: Vocabulary
    agentic: bool
    owner: str
    fetches: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Shortened:
    """New texts by slot, what became of every passage, and the seconds that compressors worked."""

    edits: Mapping[Slot, str]
    passages: Sequence[Passage]
    seconds: float

    @property
    def saved(self) -> int:
        """Return how many tokens fewer there are."""
        return sum(passage.before - passage.after for passage in self.passages)

    @property
    def skipped(self) -> Counter[str]:
        """Count the reasons why passages were left alone."""
        return Counter(passage.reason for passage in self.passages if passage.reason)

    @property
    def failed(self) -> bool:
        """Say whether a passage was left alone because something went wrong."""
        return any(passage.reason in FAILURES for passage in self.passages)


class Shortener:
    """Shortens conversations with one engine and one store of originals."""

    def __init__(self, engine: Engine, originals: Originals) -> None:
        self._engine = engine
        self._originals = originals

    async def shorten(self, turns: Sequence[Turn], wanted: Wanted, *, new: int) -> Shortened:
        """Plan and compress; `new` is how many characters nobody has counted before."""
        started = perf_counter()
        if new > INLINE:
            decisions = await asyncio.to_thread(_plan, turns, wanted)
        else:
            decisions = _plan(turns, wanted)
        chosen = [decision for decision in decisions if decision.reason is None]
        left = max(0.0, wanted.seconds - (perf_counter() - started))
        outcomes = await self._engine.compress([_job(decision, wanted) for decision in chosen], left)
        made = iter(outcomes)
        results = [(decision, None if decision.reason else next(made)) for decision in decisions]
        await self._store(results, wanted)
        edits, passages = _spliced(results, wanted.vocabulary)
        return Shortened(edits, passages, sum(outcome.seconds for outcome in outcomes))

    async def _store(self, results: Sequence[Result], wanted: Wanted) -> None:
        replaced = [decision.passage.text for decision, outcome in results if outcome and outcome.text is not None]
        if replaced:
            await self._originals.put(wanted.owner, replaced)


def _plan(turns: Sequence[Turn], wanted: Wanted) -> list[Decision]:
    return policy.plan(turns, wanted.rules, wanted.vocabulary, agentic=wanted.agentic)


def _job(decision: Decision, wanted: Wanted) -> Job:
    text = decision.passage.text
    fetch = f"GET /v1/retrieve/{name(wanted.owner, text)}" if wanted.fetches else None
    return Job(text, decision.passage.question, decision.target, fetch, wanted.vocabulary)


def _spliced(results: Sequence[Result], vocabulary: Vocabulary) -> tuple[dict[Slot, str], list[Passage]]:
    """Say what every changed string becomes, and what became of every passage in it."""
    edits: dict[Slot, str] = {}
    passages: list[Passage] = []
    for (slot, role), group in groupby(results, key=lambda result: (result[0].passage.slot, result[0].passage.role)):
        together = list(group)
        records = [_record(decision, outcome) for decision, outcome in together]
        changes = [
            (decision.passage.start, decision.passage.end, outcome.text)
            for decision, outcome in together
            if outcome is not None and outcome.text is not None
        ] + (_tag_removals(slot.text) if role == "user" else [])
        if changes:
            edits[slot] = _changed(slot.text, sorted(changes))
            records = _balanced(records, vocabulary.count(slot.text) - vocabulary.count(edits[slot]))
        passages += records
    return edits, passages


def _balanced(records: list[Passage], saved: int) -> list[Passage]:
    """Make the passages of a string add up to what it saved as a whole: tokens merge where pieces meet, tags vanish."""
    rest = saved - sum(record.before - record.after for record in records)
    changed = next((index for index, record in enumerate(records) if record.after < record.before), None)
    if changed is None:
        return [*records, Passage("tags", "", max(0, rest), 0)]
    record = records[changed]
    return [*records[:changed], record._replace(after=record.after - rest), *records[changed + 1 :]]


def _tag_removals(text: str) -> list[tuple[int, int, str]]:
    return [
        removal
        for tag in tags.find(text)
        for removal in ((tag.outer[0], tag.inner[0], ""), (tag.inner[1], tag.outer[1], ""))
    ]


def _changed(text: str, changes: Sequence[tuple[int, int, str]]) -> str:
    pieces: list[str] = []
    at = 0
    for start, end, new in changes:
        pieces += [text[at:start], new]
        at = end
    return "".join([*pieces, text[at:]])


def _record(decision: Decision, outcome: Outcome | None) -> Passage:
    passage = decision.passage
    tool = passage.call.name if passage.call else ""
    if outcome is None:
        return Passage(passage.kind, tool, decision.tokens, decision.tokens, decision.reason or "")
    after = decision.tokens if outcome.text is None else outcome.tokens
    return Passage(passage.kind, tool, decision.tokens, after, outcome.reason or "")
