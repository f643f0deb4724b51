"""Compresses one conversation: counts its texts, plans, runs the compressors, and returns the new strings.

This module knows no protocol. It takes turns, and returns the new text of each slot. Originals are stored before a
marker that names them leaves (invariant: redeemable).
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter
from typing import NamedTuple

from ...compression import markers, planning, tags
from ...compression.compressor import ModelUsage
from ...compression.engine import FAILURE_REASONS, CompressionJob, Engine, Outcome
from ...compression.planning import CompressionPlan
from ...compression.policy import Decision, Rules
from ...compression.tokens import TokenCounter, estimate_tokens
from ...compression.transcript import SlotPath, TextSlot, Turn
from ..protocols import offload
from ..stores.contents import ContentStore, PassageTexts
from ..stores.ledger_row import Passage
from ..stores.originals import Originals, StoreFullError, StoreLateError, compute_name

DecisionOutcome = tuple[Decision, Outcome | None]
TagRemoval = tuple[int, int, str]
TAGS_KIND = "tags"  # the kind of the savings by removed tags in a user's text
MIN_STORE_SECONDS = 0.25  # for storing originals after compressors have used up the deadline
FALLBACK_SECONDS = 0.5  # for extracting the passages that a model could not compress
MAX_INLINE_CHARS = 32_000  # new characters that are counted, and planned, on the event loop
MAX_INLINE_TEXTS = 4000  # new texts that are counted on the event loop
WORK_PER_TEXT = 100  # bytes whose parsing takes as long as looking up a text
MAX_INLINE_TURNS = 400  # turns that are planned on the event loop, which takes some 4 ms
MAX_LATE_COUNTS = 2  # counts that go on after their request's deadline


class TokenCounts(NamedTuple):
    """The tokens of texts in no order, the number of characters not counted before, and whether time ran out."""

    tokens: list[int]
    new_chars: int
    is_late: bool


@dataclass(frozen=True, slots=True)
class CompressionOptions:
    """How one request has its conversation compressed.

    `mode` is one of the compressor's modes; `timeout` is in seconds. `reference_format` is the text by which a marker
    refers to the original, with `{}` for the original's name; None if originals cannot be fetched back.
    `stores_originals` is False if no replacement will be sent, `fail_closed` True if nothing is sent after a failure.
    `request_id` names the ledger row.
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
    """New texts by slot, the outcome of every passage, the seconds that compressors took, and the cost of models.

    `is_rewritten` is True if text gets shorter that the previous prompt of this conversation held in full, `is_late` if
    time ran out.
    """

    edits: Mapping[TextSlot, str]
    passages: Sequence[Passage]
    compressor_seconds: float
    model_cost: ModelUsage
    is_rewritten: bool = False
    is_late: bool = False

    @property
    def saved_tokens(self) -> int:
        """Return the number of tokens saved."""
        return sum(passage.before - passage.after for passage in self.passages)

    @property
    def skip_counts(self) -> Counter[str]:
        """Return how many passages were left unchanged, by reason."""
        return Counter(passage.reason for passage in self.passages if passage.reason)

    @property
    def has_failed(self) -> bool:
        """Return True if a passage was left unchanged because of a failure."""
        return any(passage.reason in FAILURE_REASONS for passage in self.passages)


class ConversationCompressor:
    """Compresses conversations with one engine per mode, `extract` among them, and one store of originals.

    With `contents` the texts of the passages are kept for the dashboard.
    """

    def __init__(
        self, engines: Mapping[str, Engine], originals: Originals, contents: ContentStore | None = None
    ) -> None:
        self._engines = engines
        self._originals = originals
        self._contents = contents
        self._late_counts: set[asyncio.Future[list[int]]] = set()

    @property
    def available_modes(self) -> frozenset[str]:
        """Return the modes that have an engine."""
        return frozenset(self._engines)

    async def count_texts(self, vocabulary: TokenCounter, texts: Sequence[str], deadline: float) -> TokenCounts:
        """Count the tokens of texts within `deadline` seconds, and estimate those that take longer.

        Long new texts are counted in a thread. A late count goes on there, because its result is remembered; only
        `MAX_LATE_COUNTS` of them run, so that they take neither all threads nor, with their texts, all memory.
        """
        known_tokens, new_texts = await offload.run_for(WORK_PER_TEXT * len(texts), vocabulary.split_known, texts)
        new_chars = sum(map(len, new_texts))
        is_short = new_chars <= MAX_INLINE_CHARS and len(new_texts) <= MAX_INLINE_TEXTS
        if is_short and vocabulary.is_loaded:
            return TokenCounts(known_tokens + _count_tokens(vocabulary, new_texts), new_chars, is_late=False)
        if len(self._late_counts) < MAX_LATE_COUNTS and (deadline or is_short):
            count = asyncio.ensure_future(asyncio.to_thread(_count_tokens, vocabulary, new_texts))
            count.add_done_callback(self._discard_late_count)
            try:
                await asyncio.wait([count], timeout=deadline)
            finally:  # the count is late, or its client has disconnected
                if not count.done():
                    self._late_counts.add(count)
            if count.done():
                return TokenCounts(known_tokens + count.result(), new_chars, is_late=False)
        estimates = await offload.run_for(new_chars, _estimate_tokens, new_texts)
        return TokenCounts(known_tokens + estimates, new_chars, is_late=True)

    async def compress(
        self, turns: Sequence[Turn], options: CompressionOptions, *, new_chars: int
    ) -> CompressionResult:
        """Plan and compress. `new_chars` is the number of characters that no request has had counted before."""
        start_time = perf_counter()
        if new_chars > MAX_INLINE_CHARS or len(turns) > MAX_INLINE_TURNS:
            plan = await asyncio.to_thread(_plan_turns, turns, options)
        else:
            plan = _plan_turns(turns, options)
        jobs = [_build_job(decision, options) for decision in plan.decisions if decision.reason is None]
        timeout = max(0.0, options.timeout - (perf_counter() - start_time))
        outcomes = await self._engines[options.mode].compress(jobs, timeout, fail_closed=options.fail_closed)
        if options.mode != "extract":
            outcomes = await self._extract_failed(jobs, outcomes, options.fail_closed)
        remaining = iter(outcomes)
        results = [
            (decision, _render_replacement(decision, options) if decision.reason else next(remaining))
            for decision in plan.decisions
        ]
        remaining_seconds = options.timeout - (perf_counter() - start_time)
        results = await self._store_originals(results, options, max(MIN_STORE_SECONDS, remaining_seconds))
        edits, passages = _build_edits(results, options.vocabulary)
        if self._contents is not None:
            self._contents.keep_texts(options.request_id, options.owner_id, _collect_contents(results, passages))
        is_late = any(outcome.reason == "late" and not outcome.from_cache for outcome in outcomes)
        return CompressionResult(edits, passages, *_sum_costs(outcomes), plan.prefix_changed, is_late)

    async def _extract_failed(
        self, jobs: Sequence[CompressionJob], outcomes: Sequence[Outcome], fail_closed: bool
    ) -> list[Outcome]:
        """Extract the passages for which the model failed or was late. It takes milliseconds and is remembered."""
        failed_jobs = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.reason in FAILURE_REASONS]
        if not failed_jobs:
            return list(outcomes)
        engine = self._engines["extract"]
        extracts = iter(await engine.compress(failed_jobs, FALLBACK_SECONDS, fail_closed=fail_closed))
        return [next(extracts) if outcome.reason in FAILURE_REASONS else outcome for outcome in outcomes]

    async def _store_originals(
        self, results: list[DecisionOutcome], options: CompressionOptions, seconds: float
    ) -> list[DecisionOutcome]:
        """Store the originals of replaced passages. A passage that is not stored in time, or has no room, stays."""
        originals = [decision.passage.text for decision, outcome in results if outcome and outcome.text is not None]
        if originals and options.stores_originals:
            try:
                await self._originals.put(options.owner_id, originals, seconds)
            except (StoreFullError, StoreLateError) as error:
                if options.reference_format is not None:  # otherwise no marker names an original
                    return [
                        (decision, _undo_unstored(decision, outcome, options, error)) for decision, outcome in results
                    ]
        return results

    def _discard_late_count(self, count: asyncio.Future[list[int]]) -> None:
        self._late_counts.discard(count)
        if not count.cancelled():
            count.exception()  # retrieved, so that asyncio does not log it if nobody awaits the count


def _count_tokens(vocabulary: TokenCounter, texts: Sequence[str]) -> list[int]:
    return [vocabulary.count(text) for text in texts]


def _estimate_tokens(texts: Sequence[str]) -> list[int]:
    return list(map(estimate_tokens, texts))


def _undo_unstored(
    decision: Decision,
    outcome: Outcome | None,
    options: CompressionOptions,
    error: StoreFullError | StoreLateError,
) -> Outcome | None:
    if outcome is None or outcome.text is None:
        return outcome
    if compute_name(options.owner_id, decision.passage.text) not in error.names:
        return outcome
    reason = "late" if isinstance(error, StoreLateError) else "store-full"
    return outcome._replace(text=None, tokens=decision.tokens, reason=reason)


def _sum_costs(outcomes: Sequence[Outcome]) -> tuple[float, ModelUsage]:
    tokens = sum(outcome.usage.tokens for outcome in outcomes)
    gpu_seconds = sum(outcome.usage.gpu_seconds for outcome in outcomes)
    return sum(outcome.seconds for outcome in outcomes), ModelUsage(tokens, gpu_seconds)


def _plan_turns(turns: Sequence[Turn], options: CompressionOptions) -> CompressionPlan:
    return planning.plan_compression(turns, options.rules, options.vocabulary, has_tools=options.agentic)


def _build_job(decision: Decision, options: CompressionOptions) -> CompressionJob:
    passage = decision.passage
    return CompressionJob(
        passage.text,
        passage.question,
        decision.target,
        _format_reference(passage.text, options),
        options.vocabulary,
        decision.fills_target,
    )


def _render_replacement(decision: Decision, options: CompressionOptions) -> Outcome | None:
    """Return a deduplicated or pruned passage, or None if it has no fewer tokens."""
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
    """Return the new text of every changed string, and the outcome of every passage."""
    edits: dict[TextSlot, str] = {}
    passages: list[Passage] = []
    removals_by_path = _find_changed_strings(results)
    for slot, group in groupby(
        results, key=lambda result: _select_changed_slot(result[0].passage.slot, removals_by_path)
    ):
        slot_results = list(group)
        if slot is None:
            passages += [_build_passage(decision, outcome) for decision, outcome in slot_results]
            continue
        removals = removals_by_path[slot.path]
        text = _apply_changes(slot.text, slot_results, removals)
        saved = vocabulary.count(slot.text) - vocabulary.count(text) if text != slot.text else 0
        if saved <= 0:  # never worse: joined pieces may have more tokens than the sum of theirs
            slot_results = [(decision, outcome and _mark_no_gain(outcome)) for decision, outcome in slot_results]
            text = _apply_changes(slot.text, slot_results, removals)
            saved = vocabulary.count(slot.text) - vocabulary.count(text) if text != slot.text else 0
        if text != slot.text:
            edits[slot] = text
        passages += _balance_savings([_build_passage(decision, outcome) for decision, outcome in slot_results], saved)
    return edits, passages


def _find_changed_strings(results: Sequence[DecisionOutcome]) -> dict[SlotPath, list[TagRemoval]]:
    """Return the paths of the strings that change, with the tags that are removed from each."""
    slots = [decision.passage.slot for decision, _ in results if decision.passage.role == "user"]
    removals = {slot.path: _find_tag_removals(slot.text) for slot in slots}
    compressed = [decision.passage.slot.path for decision, outcome in results if outcome and outcome.text is not None]
    tagged = [path for path, spans in removals.items() if spans]
    return {path: removals.get(path, []) for path in (*compressed, *tagged)}


def _select_changed_slot(slot: TextSlot, changes: Mapping[SlotPath, object]) -> TextSlot | None:
    return slot if slot.path in changes else None


def _collect_contents(results: Sequence[DecisionOutcome], passages: Sequence[Passage]) -> dict[int, PassageTexts]:
    """Return the texts of changed passages by their index in the ledger row, which omits short passages."""
    remaining = iter(results)
    pairs = [(passage, (None, None) if passage.kind == TAGS_KIND else next(remaining)) for passage in passages]
    recorded = [pair for pair in pairs if pair[0].reason != "too-short"]
    return {
        index: PassageTexts(decision.passage.text, outcome.text, decision.passage.question)
        for index, (passage, (decision, outcome)) in enumerate(recorded)
        if decision and outcome and outcome.text is not None and not passage.reason
    }


def _mark_no_gain(outcome: Outcome) -> Outcome:
    return outcome if outcome.text is None else outcome._replace(text=None, reason="no-gain")


def _balance_savings(passages: list[Passage], saved: int) -> list[Passage]:
    """Make the savings of a string's passages add up to its own: tokens merge where pieces meet, tags disappear."""
    rest = saved - sum(passage.before - passage.after for passage in passages)
    balanced: list[Passage] = []
    for passage in passages:
        share = 0 if passage.reason else max(passage.after - passage.before, min(rest, passage.after))
        balanced.append(passage._replace(after=passage.after - share))
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
    position = 0
    for start, end, replacement in sorted([*changes, *removals]):
        pieces += [text[position:start], replacement]
        position = end
    return "".join([*pieces, text[position:]])


def _build_passage(decision: Decision, outcome: Outcome | None) -> Passage:
    passage = decision.passage
    tool = passage.call.name if passage.call else ""
    if outcome is None:
        return Passage(passage.kind, tool, decision.tokens, decision.tokens, decision.reason or "")
    after = decision.tokens if outcome.text is None else outcome.tokens
    return Passage(passage.kind, tool, decision.tokens, after, outcome.reason or "")
