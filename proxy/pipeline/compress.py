"""Compresses one conversation: counts its texts, plans, runs the compressors, and returns the new strings.

This module knows no protocol. It takes turns, and returns the new text of each slot. Originals are stored before a
marker that names them leaves (invariant: redeemable).
"""

import asyncio
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from time import perf_counter
from types import MappingProxyType
from typing import NamedTuple

from ...compression import markers, planning, registry
from ...compression.compressor import NO_USAGE, ModelUsage
from ...compression.engine import FAILURE_REASONS, CompressionJob, Engine, Outcome
from ...compression.passages import Passage as TextPassage
from ...compression.planning import CompressionPlan, PlanPrefix
from ...compression.policy import Decision, Rules
from ...compression.tokens import TokenCounter, estimate_tokens
from ...compression.transcript import Turn
from ..protocols import offload
from ..stores.contents import ContentStore
from ..stores.originals import Originals, StoreFullError, StoreLateError, compute_name
from .edits import (
    EMPTY_COMPRESSED,
    CompressedPrefix,
    DecisionOutcome,
    add_counts,
    append_results,
    collect_contents,
    list_originals,
)
from .known_conversations import ConversationMemory

MIN_STORE_SECONDS = 0.25  # for storing originals after compressors have used up the deadline
FALLBACK_SECONDS = 0.5  # for extracting the passages that a model could not compress
MAX_INLINE_CHARS = 32_000  # new characters that are counted on the event loop
MAX_INLINE_TEXTS = 4000  # new texts that are counted on the event loop
WORK_PER_TEXT = 100  # bytes whose parsing takes as long as looking up a text
WORK_PER_CHAR, WORK_PER_TURN = 16, 1300  # of planning: 32,000 characters, or 400 turns, take some 4 ms
MAX_LATE_COUNTS = 2  # counts that go on after their request's deadline
MAX_TEXT_CHARS = 8_000_000  # a longer text fits into no model; regular expressions would hold the interpreter for long


class TokenCounts(NamedTuple):
    """The tokens of texts in no order, and the number of characters not counted before.

    `is_late` is True if time ran out, `is_too_long` if a text has more than `MAX_TEXT_CHARS`; it is late then, too.
    """

    tokens: list[int]
    new_chars: int
    is_late: bool
    is_too_long: bool = False


class CompressionOptions(NamedTuple):
    """How one request has its conversation compressed.

    `mode` is one of the compressor's modes. `timeout` is in seconds from `start_time` on, which `perf_counter` gives.
    `reference_format` is the text by which a marker refers to the original, with `{}` for the original's name; None if
    originals cannot be fetched back. `stores_originals` is False if no replacement will be sent, `fail_closed` True if
    nothing is sent after a failure. `request_id` names the ledger row.
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
    start_time: float
    request_id: str = ""

    @property
    def scope(self) -> tuple[Hashable, ...]:
        """Return the inputs of the outcomes beside the conversation and its owner."""
        names = (self.mode, self.vocabulary.name, self.reference_format)
        return (*names, self.rules, self.agentic, self.stores_originals, self.fail_closed)


class CompressionResult(NamedTuple):
    """The results for the whole conversation, the seconds that compressors took, and the cost of models.

    `is_rewritten` is True if text gets shorter that the previous prompt of this conversation held in full, `is_late` if
    time ran out. `fallback_counts` has the number of passages that were extracted because the model failed, by reason.
    """

    compressed: CompressedPrefix
    compressor_seconds: float
    model_cost: ModelUsage
    is_rewritten: bool = False
    is_late: bool = False
    fallback_counts: Mapping[str, int] = MappingProxyType({})
    checkpoint: CompressedPrefix | None = None

    @property
    def skip_counts(self) -> Mapping[str, int]:
        """Return how many passages were left unchanged, or extracted instead of given to a model, by reason."""
        return add_counts(self.compressed.skip_counts, self.fallback_counts)

    @property
    def engine(self) -> str:
        """Return the engine that made the new texts: the model's if it made one of them, else `extract`."""
        return self.compressed.model_engine or "extract"

    @property
    def has_failed(self) -> bool:
        """Return True if a passage was left unchanged because of a failure."""
        return not FAILURE_REASONS.isdisjoint(self.compressed.skip_counts)

    @property
    def is_final(self) -> bool:
        """Return True if later requests of the conversation may reuse these outcomes."""
        return not (self.has_failed or self.fallback_counts or "store-full" in self.skip_counts)


class ConversationCompressor:
    """Compresses conversations with one engine per mode, `extract` among them, and one store of originals.

    `available_modes` are those with an engine. With `contents` the texts of the passages are kept for the dashboard.
    `memory` holds results of earlier requests. `pruned_kinds` are as in `Rules`, for the mode `prune`.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        originals: Originals,
        contents: ContentStore | None = None,
        pruned_kinds: frozenset[str] = frozenset(),
    ) -> None:
        self._engines = engines
        self.available_modes = frozenset(engines)
        self.pruned_kinds = pruned_kinds
        self._originals = originals
        self._contents = contents
        self.memory = ConversationMemory()
        self._late_counts: set[asyncio.Future[list[int]]] = set()

    async def count_texts(self, vocabulary: TokenCounter, texts: Sequence[str], deadline: float) -> TokenCounts:
        """Count the tokens of texts within `deadline` seconds, and estimate those that take longer.

        Long new texts are counted in a thread. A late count goes on there, because its result is remembered; only
        `MAX_LATE_COUNTS` of them run, so that they take neither all threads nor, with their texts, all memory. A
        request with a text of more than `MAX_TEXT_CHARS` is late at once.
        """
        known_tokens, new_texts = await offload.run_for(WORK_PER_TEXT * len(texts), vocabulary.split_known, texts)
        new_chars = sum(map(len, new_texts))
        is_too_long = max(map(len, new_texts), default=0) > MAX_TEXT_CHARS
        if is_too_long:
            deadline = 0.0
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
        return TokenCounts(known_tokens + estimates, new_chars, is_late=True, is_too_long=is_too_long)

    async def compress(
        self,
        turns: Sequence[Turn],
        options: CompressionOptions,
        *,
        known: CompressedPrefix = EMPTY_COMPRESSED,
        checkpoint: int = 0,
    ) -> CompressionResult:
        """Plan and compress. `known` was computed for the first of these turns, with the same options.

        The result holds those of the first `checkpoint` turns, too.
        """
        work = _measure_work(turns[len(known.plan.turns) :])
        plan, head = await offload.run_for(work, _plan_turns, turns, options, known.plan, checkpoint)
        if not plan.known_count:
            known = EMPTY_COMPRESSED
        decisions = plan.decisions[plan.known_count :]
        jobs = _build_jobs(decisions, turns, options)
        outcomes: Sequence[Outcome] = ()
        is_late = False
        fallback_counts: Mapping[str, int] = {}
        if jobs:
            timeout = max(0.0, options.timeout - (perf_counter() - options.start_time))
            outcomes, fallback_counts, is_late = await self._run_compressors(jobs, options, timeout)
        remaining = iter(outcomes)
        results = [
            (decision, _render_replacement(decision, options) if decision.reason else next(remaining))
            for decision in decisions
        ]
        if refusal := await self._store_originals(known, results, options):
            pairs = (*known.results, *results)
            known, head = EMPTY_COMPRESSED, None
            results = [(decision, _undo_unstored(decision, outcome, options, refusal)) for decision, outcome in pairs]
        compressed, checkpoint_results = await offload.run_for(
            work, _append_in_steps, known, head, plan, results, options
        )
        if self._contents is not None:
            contents = collect_contents(compressed.results, compressed.passages)
            self._contents.keep_texts(options.request_id, options.owner_id, contents)
        return CompressionResult(
            compressed,
            *_sum_costs(outcomes),
            is_rewritten=plan.prefix_changed,
            is_late=is_late,
            fallback_counts=fallback_counts,
            checkpoint=checkpoint_results,
        )

    async def _run_compressors(
        self, jobs: Sequence[CompressionJob], options: CompressionOptions, timeout_s: float
    ) -> tuple[Sequence[Outcome], dict[str, int], bool]:
        """Return the outcomes, the `fallback_counts` of the result, and whether time ran out."""
        outcomes = await self._engines[options.mode].compress(jobs, timeout_s, fail_closed=options.fail_closed)
        final, fallback_counts = outcomes, dict[str, int]()
        if options.mode != "extract":
            final = await self._extract_failed(jobs, outcomes, options.fail_closed)
            pairs = zip(outcomes, final, strict=True)
            fallback_counts = Counter(model.reason for model, final in pairs if model.reason and not final.reason)
        is_late = any(outcome.reason == "late" and not outcome.from_cache for outcome in (*outcomes, *final))
        return final, fallback_counts, is_late

    async def _extract_failed(
        self, jobs: Sequence[CompressionJob], outcomes: Sequence[Outcome], fail_closed: bool
    ) -> list[Outcome]:
        """Extract the passages for which the model failed or was late. It takes milliseconds and is remembered."""
        is_extracted = [
            job.may_extract and outcome.reason in FAILURE_REASONS for job, outcome in zip(jobs, outcomes, strict=True)
        ]
        failed_jobs = [job for job, is_failed in zip(jobs, is_extracted, strict=True) if is_failed]
        if not failed_jobs:
            return list(outcomes)
        engine = self._engines["extract"]
        extracts = iter(await engine.compress(failed_jobs, FALLBACK_SECONDS, fail_closed=fail_closed))
        return [
            next(extracts) if is_failed else outcome for outcome, is_failed in zip(outcomes, is_extracted, strict=True)
        ]

    async def _store_originals(
        self,
        known: CompressedPrefix,
        results: Sequence[DecisionOutcome],
        options: CompressionOptions,
    ) -> StoreFullError | StoreLateError | None:
        """Store the originals of replaced passages, or extend their expiry.

        Return an error that names the passages that must stay, because they had no room or were not stored in time.
        """
        originals = {**known.originals, **list_originals(results, options.owner_id)}
        if originals and options.stores_originals:
            seconds = max(MIN_STORE_SECONDS, options.timeout - (perf_counter() - options.start_time))
            try:
                await self._originals.put(options.owner_id, list(originals.values()), seconds, list(originals))
            except (StoreFullError, StoreLateError) as error:
                if options.reference_format is not None:  # otherwise no marker names an original
                    return error
        return None

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
    if not outcomes:
        return 0.0, NO_USAGE
    tokens = sum(outcome.usage.tokens for outcome in outcomes)
    gpu_seconds = sum(outcome.usage.gpu_seconds for outcome in outcomes)
    return sum(outcome.seconds for outcome in outcomes), ModelUsage(tokens, gpu_seconds)


def _measure_work(turns: Sequence[Turn]) -> int:
    """Return the work of planning these turns, as bytes of equal parsing time."""
    chars = sum([len(slot.text) for turn in turns for slot in turn.slots])
    return WORK_PER_CHAR * chars + WORK_PER_TURN * len(turns)


def _plan_turns(
    turns: Sequence[Turn], options: CompressionOptions, known: PlanPrefix, checkpoint: int
) -> tuple[CompressionPlan, CompressionPlan | None]:
    """Return the plan of the turns, and that of the first `checkpoint` turns if it is a part of the former."""

    def plan_turns(turns: Sequence[Turn], known: PlanPrefix) -> CompressionPlan:
        rules, vocabulary = options.rules, options.vocabulary
        return planning.plan_compression(turns, rules, vocabulary, has_tools=options.agentic, known=known)

    if checkpoint <= len(known.turns) or options.rules.budget:
        return plan_turns(turns, known), None
    head = plan_turns(turns[:checkpoint], known)
    plan = plan_turns(turns, head.prefix)
    if plan.known_count < len(head.decisions):  # an epoch has ended behind the checkpoint
        return plan, None
    return plan._replace(known_count=head.known_count), head


def _append_in_steps(
    known: CompressedPrefix,
    head: CompressionPlan | None,
    plan: CompressionPlan,
    results: Sequence[DecisionOutcome],
    options: CompressionOptions,
) -> tuple[CompressedPrefix, CompressedPrefix | None]:
    """Return all of the conversation's results, and those up to the end of the plan `head`."""
    head_results = None
    if head is not None:
        count = len(head.decisions) - len(known.results)
        head_results = append_results(known, head, results[:count], options.vocabulary, options.owner_id)
        known, results = head_results, results[count:]
    return append_results(known, plan, results, options.vocabulary, options.owner_id), head_results


def _build_jobs(
    decisions: Sequence[Decision], turns: Sequence[Turn], options: CompressionOptions
) -> list[CompressionJob]:
    """Return the jobs of the passages that are to be compressed."""
    compressible = [decision for decision in decisions if decision.reason is None]
    if not compressible:
        return []
    answered = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    return [_build_job(decision, options, answered) for decision in compressible]


def _build_job(decision: Decision, options: CompressionOptions, answered: int) -> CompressionJob:
    """Return the job of a passage; `answered` is the index of the model's last answer."""
    passage = decision.passage
    return CompressionJob(
        passage.text,
        passage.question,
        decision.target,
        _format_reference(passage.text, options),
        options.vocabulary,
        decision.fills_target,
        is_unanswered=passage.turn_index > answered,
        may_extract=decision.fills_target or not _is_kept_whole(passage, options.rules),
    )


def _is_kept_whole(passage: TextPassage, rules: Rules) -> bool:
    """Return True if only a pruner may compress a passage: of a kind that is kept whole otherwise."""
    if passage.role != "tool" or not rules.pruned_kinds:
        return False
    return registry.classify_content(passage.text) in rules.pruned_kinds


def _render_replacement(decision: Decision, options: CompressionOptions) -> Outcome | None:
    """Return a deduplicated or pruned passage, or None if it has no fewer tokens."""
    if decision.replacement is None:
        return None
    text = markers.render(decision.replacement, _format_reference(decision.passage.text, options))
    tokens = options.vocabulary.count(text)
    return Outcome(text, tokens, "repeats") if tokens < decision.tokens else None


def _format_reference(text: str, options: CompressionOptions) -> str | None:
    return options.reference_format.format(compute_name(options.owner_id, text)) if options.reference_format else None
