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

from ...compression import markers, policy, tags
from ...compression.compressor import ModelUsage
from ...compression.engine import FAILURE_REASONS, CompressionJob, Engine, Outcome
from ...compression.policy import CompressionPlan, Decision, Rules
from ...compression.tokens import TokenCounter
from ...compression.transcript import SlotPath, TextSlot, Turn
from ..stores.contents import ContentStore, PassageTexts
from ..stores.ledger_row import Passage
from ..stores.originals import Originals, StoreFullError, compute_name
from .counting import MAX_INLINE_CHARS, RequestTokenCounter

DecisionOutcome = tuple[Decision, Outcome | None]
TagRemoval = tuple[int, int, str]
TAGS_KIND = "tags"  # the kind of what vanishes with the tags of a user's text
FALLBACK_SECONDS = 0.5  # seconds for what a model was too late for
MAX_INLINE_TURNS = 400  # messages that are planned on the event loop, new or not: some 4 ms


@dataclass(frozen=True, slots=True)
class CompressionOptions:
    """What a request wants of this conversation: who asks, how, within how many seconds, and how it can fetch.

    `fetches` is what a marker says of that, with `{}` where the original's name goes, or None.
    `mode` is one that the shortener has; with `keeps` the originals are stored, because their replacements will leave.
    `closed`: nothing will be sent if anything fails. `request` names the row in the ledger.
    """

    mode: str
    rules: Rules
    vocabulary: TokenCounter
    agentic: bool
    owner_id: str
    reference_format: str | None
    stores_originals: bool
    fail_closed: bool
    timeout: float
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class CompressionResult:
    """New texts by slot, what became of every passage, the seconds that compressors worked and what models spent.

    `rewritten`: something gets shorter which the last prompt of this conversation had longer. `late`: time ran out.
    """

    edits: Mapping[TextSlot, str]
    passages: Sequence[Passage]
    compressor_seconds: float
    model_cost: ModelUsage
    is_rewritten: bool = False
    is_late: bool = False

    @property
    def saved_tokens(self) -> int:
        """Return how many tokens fewer there are."""
        return sum(passage.before - passage.after for passage in self.passages)

    @property
    def skip_counts(self) -> Counter[str]:
        """Count the reasons why passages were left alone."""
        return Counter(passage.reason for passage in self.passages if passage.reason)

    @property
    def has_failed(self) -> bool:
        """Say whether a passage was left alone because something went wrong."""
        return any(passage.reason in FAILURE_REASONS for passage in self.passages)


class ConversationCompressor:
    """Shortens conversations with an engine a mode and one store of originals; there is always one to `extract`.

    With `contents` there is something to look at afterwards.
    """

    def __init__(
        self, engines: Mapping[str, Engine], originals: Originals, contents: ContentStore | None = None
    ) -> None:
        self._engines = engines
        self._originals = originals
        self._contents = contents
        self.token_counter = RequestTokenCounter()

    @property
    def available_modes(self) -> frozenset[str]:
        """Name the modes that can be had."""
        return frozenset(self._engines)

    async def compress(
        self, turns: Sequence[Turn], options: CompressionOptions, *, new_chars: int
    ) -> CompressionResult:
        """Plan and compress; `new` is how many characters nobody has counted before."""
        started = perf_counter()
        if new_chars > MAX_INLINE_CHARS or len(turns) > MAX_INLINE_TURNS:
            planned = await asyncio.to_thread(_plan_turns, turns, options)
        else:
            planned = _plan_turns(turns, options)
        decisions = planned.decisions
        chosen = [decision for decision in decisions if decision.reason is None]
        left = max(0.0, options.timeout - (perf_counter() - started))
        jobs = [_build_job(decision, options) for decision in chosen]
        outcomes = await self._engines[options.mode].compress(jobs, left, fail_closed=options.fail_closed)
        if options.mode != "extract":
            outcomes = await self._extract_failed(jobs, outcomes, options.fail_closed)
        made = iter(outcomes)
        results = [
            (decision, _render_folded(decision, options) if decision.reason else next(made)) for decision in decisions
        ]
        results = await self._store_originals(results, options)
        edits, passages = _build_edits(results, options.vocabulary)
        if self._contents is not None:
            self._contents.keep_texts(options.request_id, options.owner_id, _collect_contents(results, passages))
        late = any(outcome.reason == "late" and not outcome.from_cache for outcome in outcomes)
        return CompressionResult(edits, passages, *_sum_costs(outcomes), planned.prefix_changed, late)

    async def _extract_failed(
        self, jobs: Sequence[CompressionJob], outcomes: Sequence[Outcome], fail_closed: bool
    ) -> list[Outcome]:
        """Extract where the model failed or was late: that takes milliseconds, and is decided as lastingly."""
        lost = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.reason in FAILURE_REASONS]
        rescued = iter(
            await self._engines["extract"].compress(lost, FALLBACK_SECONDS, fail_closed=fail_closed) if lost else ()
        )
        return [next(rescued) if outcome.reason in FAILURE_REASONS else outcome for outcome in outcomes]

    async def _store_originals(
        self, results: list[DecisionOutcome], options: CompressionOptions
    ) -> list[DecisionOutcome]:
        """Store what is replaced; a passage whose original there is no room for stays as it is (law 2)."""
        replaced = [decision.passage.text for decision, outcome in results if outcome and outcome.text is not None]
        if replaced and options.stores_originals:
            try:
                await self._originals.put(options.owner_id, replaced)
            except StoreFullError as full:
                if options.reference_format is not None:  # else no marker promises anything
                    return [
                        (decision, _undo_unstored(decision, outcome, options, full)) for decision, outcome in results
                    ]
        return results


def _undo_unstored(
    decision: Decision, outcome: Outcome | None, options: CompressionOptions, store_full: StoreFullError
) -> Outcome | None:
    if (
        outcome is None
        or outcome.text is None
        or compute_name(options.owner_id, decision.passage.text) not in store_full.names
    ):
        return outcome
    return outcome._replace(text=None, tokens=decision.tokens, reason="store-full")


def _sum_costs(outcomes: Sequence[Outcome]) -> tuple[float, ModelUsage]:
    tokens = sum(outcome.usage.tokens for outcome in outcomes)
    gpu_seconds = sum(outcome.usage.gpu_seconds for outcome in outcomes)
    return sum(outcome.seconds for outcome in outcomes), ModelUsage(tokens, gpu_seconds)


def _plan_turns(turns: Sequence[Turn], options: CompressionOptions) -> CompressionPlan:
    return policy.plan_compression(turns, options.rules, options.vocabulary, has_tools=options.agentic)


def _build_job(decision: Decision, options: CompressionOptions) -> CompressionJob:
    passage = decision.passage
    return CompressionJob(
        passage.text, passage.question, decision.target, _format_reference(passage.text, options), options.vocabulary
    )


def _render_folded(decision: Decision, options: CompressionOptions) -> Outcome | None:
    """Return a passage without what was shown before, or what stays of it when it is old, if that is shorter."""
    if decision.replacement is None:
        return None
    text = markers.render(decision.replacement, _format_reference(decision.passage.text, options))
    tokens = options.vocabulary.count(text)
    return Outcome(text, tokens, "repeats") if tokens < decision.tokens else None


def _format_reference(text: str, options: CompressionOptions) -> str | None:
    return options.reference_format.format(compute_name(options.owner_id, text)) if options.reference_format else None


def _build_edits(
    results: Sequence[DecisionOutcome], vocabulary: TokenCounter
) -> tuple[dict[TextSlot, str], list[Passage]]:
    """Say what every changed string becomes, and what became of every passage in it."""
    edits: dict[TextSlot, str] = {}
    passages: list[Passage] = []
    changing = _find_changed_strings(results)
    for slot, group in groupby(results, key=lambda result: _select_changed_slot(result[0].passage.slot, changing)):
        together = list(group)
        if slot is None:
            passages += [_build_passage(decision, outcome) for decision, outcome in together]
            continue
        removals = changing[slot.path]
        text = _apply_changes(slot.text, together, removals)
        saved = vocabulary.count(slot.text) - vocabulary.count(text) if text != slot.text else 0
        if saved <= 0:  # law 3: where small pieces meet, tokens may fall apart that were one
            together = [(decision, outcome and _mark_no_gain(outcome)) for decision, outcome in together]
            text = _apply_changes(slot.text, together, removals)
            saved = vocabulary.count(slot.text) - vocabulary.count(text) if text != slot.text else 0
        if text != slot.text:
            edits[slot] = text
        passages += _balance_savings([_build_passage(decision, outcome) for decision, outcome in together], saved)
    return edits, passages


def _find_changed_strings(results: Sequence[DecisionOutcome]) -> dict[SlotPath, list[TagRemoval]]:
    """Return where strings change, and which tags vanish there."""
    spoken = {one.passage.slot.path: one.passage.slot.text for one, _ in results if one.passage.role == "user"}
    removals = {path: _find_tag_removals(text) for path, text in spoken.items()}
    shorter = [decision.passage.slot.path for decision, outcome in results if outcome and outcome.text is not None]
    tagged = [path for path, found in removals.items() if found]
    return {path: removals.get(path, []) for path in (*shorter, *tagged)}


def _select_changed_slot(slot: TextSlot, changing: Mapping[SlotPath, object]) -> TextSlot | None:
    return slot if slot.path in changing else None


def _collect_contents(results: Sequence[DecisionOutcome], passages: Sequence[Passage]) -> dict[int, PassageTexts]:
    """Return the texts of what was changed, by the place of the passage in the row, which leaves out what is short."""
    made = iter(results)
    paired = [(passage, (None, None) if passage.kind == TAGS_KIND else next(made)) for passage in passages]
    listed = [pair for pair in paired if pair[0].reason != "too-short"]
    return {
        at: PassageTexts(decision.passage.text, outcome.text, decision.passage.question)
        for at, (passage, (decision, outcome)) in enumerate(listed)
        if decision and outcome and outcome.text is not None and not passage.reason
    }


def _mark_no_gain(outcome: Outcome) -> Outcome:
    return outcome if outcome.text is None else outcome._replace(text=None, reason="no-gain")


def _balance_savings(records: list[Passage], saved: int) -> list[Passage]:
    """Make the passages of a string add up to what it saved as a whole: tokens merge where pieces meet, tags vanish."""
    rest = saved - sum(record.before - record.after for record in records)
    balanced: list[Passage] = []
    for record in records:
        share = 0 if record.reason else max(record.after - record.before, min(rest, record.after))
        balanced.append(record._replace(after=record.after - share))
        rest -= share
    return [*balanced, Passage(TAGS_KIND, "", rest, 0)] if rest > 0 else balanced


def _find_tag_removals(text: str) -> list[TagRemoval]:
    return [
        removal
        for tag in tags.find_tagged_spans(text)
        for removal in ((tag.outer[0], tag.inner[0], ""), (tag.inner[1], tag.outer[1], ""))
    ]


def _apply_changes(text: str, results: Sequence[DecisionOutcome], removals: Sequence[TagRemoval]) -> str:
    changes = [
        (decision.passage.start, decision.passage.end, outcome.text)
        for decision, outcome in results
        if outcome is not None and outcome.text is not None
    ]
    pieces: list[str] = []
    at = 0
    for start, end, new in sorted([*changes, *removals]):
        pieces += [text[at:start], new]
        at = end
    return "".join([*pieces, text[at:]])


def _build_passage(decision: Decision, outcome: Outcome | None) -> Passage:
    passage = decision.passage
    tool = passage.call.name if passage.call else ""
    if outcome is None:
        return Passage(passage.kind, tool, decision.tokens, decision.tokens, decision.reason or "")
    after = decision.tokens if outcome.text is None else outcome.tokens
    return Passage(passage.kind, tool, decision.tokens, after, outcome.reason or "")
