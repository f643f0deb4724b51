"""Decides which passages are compressed, and to how many tokens. Every refusal has a skip reason.

Decisions are pure and keep the prefix invariant: each depends on the passage's message, on the messages before it, and
on the epochs that have ended (see `staleness`). How a passage is compressed is up to its compressor.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from . import dedup, documents, passages, registry, staleness
from .compressor import CompressedPassage
from .dedup import DedupStep
from .file_kinds import may_be_editable_file
from .file_reads import is_editable_read
from .passages import Passage, PassageOptions
from .staleness import MessageTokens
from .tokens import TokenCounter
from .transcript import Turn

DEFAULT_RATIO = 3.0  # if no ratio was asked for and the kind of content has no curve
MIN_MATERIAL_TOKENS = 300  # tokens of a user's material that always remain if no ratio was asked for
BUDGET_SHARE = 0.75  # of the tokens left in a budget: one message never uses all of them
DEDUPABLE_REASONS = frozenset({"file-read", "all-signal", "too-short"})  # not compressed, but may be a repeat
COMPRESSED_REASONS = frozenset({None, "old"})
PRUNABLE_REASONS = frozenset({None, "file-read", "all-signal"})  # outputs skipped for other reasons are never pruned
DEDUP_SIZE_SHARE = 1 / 3  # of `min_tokens`: repeats may be smaller, as nothing is lost with them
_EXPAND_CALL = re.compile(r"clara_expand|/v1/retrieve/[0-9a-f]{12}")


class SizeCurve(NamedTuple):
    """Target of a tool output: up to `full_tokens` all; above, `full_tokens * (tokens / full_tokens) ** exponent`."""

    full_tokens: int
    exponent: float


# Measured on recorded agents (`benchmarks/replay`): the first lines of an output are nearly all used later, the
# thousandth hardly ever is. Code is kept whole, as agents edit it and use lines all over it.
KEEP_ALL = None
REFORMATTED_KINDS = frozenset({"json"})  # a new layout saves tokens at any size, without leaving anything out
DEFAULT_CURVE = SizeCurve(275, 0.4)
SIZE_CURVES: dict[str, SizeCurve | None] = {
    "code": KEEP_ALL,
    "report": SizeCurve(160, 0.48),
    "listing": SizeCurve(90, 0.45),
    "search": SizeCurve(220, 0.35),
    "diff": SizeCurve(110, 0.9),
    "log": SizeCurve(275, 0.5),
    "prose": SizeCurve(275, 0.5),
    "documents": SizeCurve(330, 0.6),
    "json": SizeCurve(440, 0.7),
    "table": SizeCurve(660, 0.6),
    "html": SizeCurve(660, 0.6),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """A request's compression options: its headers over the settings. Sizes are in tokens.

    Without `ratio` and `budget`, the kind of content decides the size of a tool output. With `file_tools` None, file
    reads are compressed like other outputs. `epoch_price` is the cost of writing a token to the provider's cache, in
    tokens read from it; 0 disables pruning. Without `can_fetch`, neither the model nor its client can get omitted text
    back, and whatever shows files stays verbatim.
    """

    ratio: float | None
    min_tokens: int
    roles: frozenset[str]
    budget: int | None
    query: str | None
    protected_tools: frozenset[str]
    file_tools: frozenset[str] | None
    epoch_tokens: int
    epoch_price: float = 0.0
    can_fetch: bool = True

    @property
    def min_dedup_tokens(self) -> float:
        """Return the size of the smallest repeat that is removed; smaller passages never change."""
        return DEDUP_SIZE_SHARE * self.min_tokens


class Decision(NamedTuple):
    """A passage, its size in tokens, and either its skip reason or its target in tokens.

    A skipped passage may have a `replacement`: its text without repeated lines, or the first line of a stale output.
    `fills_target`: the request asked for this size, so all of it is spent.
    """

    passage: Passage
    tokens: int
    reason: str | None
    target: int = 0
    replacement: CompressedPassage | None = None
    fills_target: bool = True


class CompressionPlan(NamedTuple):
    """The decision on every passage, and the last epoch ends as numbers of messages: by size, and by staleness.

    `prefix_changed` is True if an epoch ended since the previous prompt, which held text that is now compressed.
    """

    decisions: list[Decision]
    epoch_ends: tuple[int, int]
    prefix_changed: bool


def plan_compression(
    turns: Sequence[Turn], rules: Rules, vocabulary: TokenCounter, *, has_tools: bool
) -> CompressionPlan:
    """Decide on every passage of a conversation."""
    counts = [0 if turn.is_compacted else sum([vocabulary.count(slot.text) for slot in turn.slots]) for turn in turns]
    options = PassageOptions(has_tools, lambda text: vocabulary.count(text) >= rules.min_tokens, rules.query)
    all_passages = list(passages.find_passages(turns, options))

    def decide_all(ended: int) -> list[Decision]:
        is_old = _mark_compressible_history(turns, ended)
        decisions = [
            _skip_compacted(passage, rules)
            if turns[passage.turn_index].is_compacted
            else _decide_passage(passage, rules, vocabulary, old=is_old[passage.turn_index])
            for passage in all_passages
        ]
        if rules.budget:
            decisions = list(_apply_budget(rules.budget, counts, decisions))
        return _apply_dedup(turns, decisions, rules)

    reply_starts = _find_reply_starts(turns)
    # What follows the last reply is new to the model: an epoch that ends there ends with the next reply.
    reply_ends = [0, 0, *(index + 1 for index, turn in enumerate(turns) if _ends_reply(turns, index, turn))]
    ended_before, ended = (staleness.window_limit(counts[:end], rules.epoch_tokens) for end in reply_ends[-2:])
    decisions = new = decide_all(0)
    if ended:
        decisions = decide_all(ended)
    pruned = 0
    if rules.epoch_price and any(_is_prunable(decision, rules) for decision in new):
        messages = _measure_messages(turns, counts, new, rules, vocabulary, reply_starts)
        pruned = staleness.last_prune(messages, rules.epoch_price)
        if pruned:
            decisions = _apply_pruning(turns, decisions, rules, messages, pruned)
    return CompressionPlan(decisions, (ended, pruned), ended > ended_before or 0 < pruned == max(reply_starts))


def compute_kind_target(kind: str, tokens: int) -> int | None:
    """Return the target in tokens of a tool output of this kind and size, None if it is kept whole."""
    curve = SIZE_CURVES.get(kind, DEFAULT_CURVE)
    if curve is None:
        return None
    if tokens <= curve.full_tokens:
        return tokens or None if kind in REFORMATTED_KINDS else None
    return max(1, int(curve.full_tokens * (tokens / curve.full_tokens) ** curve.exponent))


def _find_reply_starts(turns: Sequence[Turn]) -> set[int]:
    """Return the indices of messages that begin the model's own words: a request ended before each."""
    return {
        index
        for index, (before, turn) in enumerate(pairwise(turns), start=1)
        if turn.role == "assistant" != before.role
    }


def _ends_reply(turns: Sequence[Turn], index: int, turn: Turn) -> bool:
    return turn.role == "assistant" and (index + 1 == len(turns) or turns[index + 1].role != "assistant")


def _mark_compressible_history(turns: Sequence[Turn], ended: int) -> list[bool]:
    """Mark the messages of ended epochs, except the task and the instruction in force at their end."""
    users = [
        index
        for index, turn in enumerate(turns[:ended])
        if turn.role == "user" and not (index and passages.find_turn_outputs(turn, has_replied=True))
    ]
    protected = {users[0], users[-1]} if users else set[int]()
    return [index < ended and index not in protected for index in range(len(turns))]


def _skip_compacted(passage: Passage, rules: Rules) -> Decision:
    """Leave a passage that the provider does not read, and does not bill, as it is. It is not counted."""
    return Decision(passage, 0, "compacted" if len(passage.text) >= rules.min_tokens else "too-short")


def _decide_passage(passage: Passage, rules: Rules, vocabulary: TokenCounter, *, old: bool) -> Decision:
    length = passage.end - passage.start
    max_tokens = length if passage.slot.text.isascii() else 4 * length  # no text has more tokens than bytes
    is_short = max_tokens < rules.min_tokens and passage.tag_action is None
    tokens = 0 if is_short else vocabulary.count(passage.text)
    reason = _find_skip_reason(passage, tokens, rules, old=old)
    if reason:
        return Decision(passage, tokens, reason)
    target = _choose_target(passage, tokens, rules, old=old)
    fills_target = bool(rules.ratio or rules.budget or passage.tag_action is not None)
    if not target:
        return Decision(passage, tokens, "all-signal")
    return Decision(passage, tokens, None, target, fills_target=fills_target)


def _choose_target(passage: Passage, tokens: int, rules: Rules, *, old: bool) -> int | None:
    """Return the target in tokens, None if the passage is kept whole."""
    if rules.ratio or rules.budget or old or passage.tag_action is not None:
        return max(1, int(tokens / (rules.ratio or DEFAULT_RATIO)))
    if passage.role == "tool":
        return compute_kind_target(registry.classify_content(passage.text), tokens)
    return max(MIN_MATERIAL_TOKENS, int(tokens / DEFAULT_RATIO)) if tokens > MIN_MATERIAL_TOKENS else None


def _find_skip_reason(passage: Passage, tokens: int, rules: Rules, *, old: bool) -> str | None:
    if passage.tag_action is not None:
        return "kept-by-tag" if passage.tag_action == "keep" else None
    if tokens < rules.min_tokens:
        return "too-short"
    if passage.role not in rules.roles:
        return "role"
    if passage.role == "tool":
        reason = _find_tool_skip_reason(passage, rules, old=old)
    elif passage.kind == "text" and not old:
        return "live-instruction" if passage.role == "user" else "recent"
    else:
        reason = "file-read" if passage.kind == "code" and not old else None
    if reason is None and not rules.can_fetch and _shows_file(passage):
        return "file-read"
    return reason


def _shows_file(passage: Passage) -> bool:
    if passage.kind == "retrieved":
        return False
    return passage.kind in documents.FILE_KINDS or documents.shows_editable(passage.text)


def _find_tool_skip_reason(passage: Passage, rules: Rules, *, old: bool) -> str | None:
    call = passage.call
    if call is not None:
        if call.name in rules.protected_tools:
            return "protected-tool"
        if _EXPAND_CALL.search(call.name) or _EXPAND_CALL.search(call.arguments):
            return "expansion"
    if old or rules.file_tools is None:
        return None
    if call is not None:
        return "file-read" if is_editable_read(call, rules.file_tools, passage.text) else None
    # The provider holds the call, as in Anthropic's threads and with `previous_response_id`.
    is_whole_output = passage.end - passage.start == len(passage.slot.text)
    return "file-read" if is_whole_output and may_be_editable_file(passage.text) else None


def _apply_dedup(turns: Sequence[Turn], decisions: Sequence[Decision], rules: Rules) -> list[Decision]:
    """Replace outputs that repeat lines of texts forwarded unchanged; compressed passages are never referred to."""
    candidates = {
        (decision.passage.turn_index, decision.passage.slot.path): index
        for index, decision in enumerate(decisions)
        if _is_dedupable(decision, rules)
    }
    if not candidates:
        return list(decisions)
    last_turn = max(turn for turn, _ in candidates)  # conversations that differ only behind it share their memory
    compressed = {
        (decision.passage.turn_index, decision.passage.slot.path)
        for decision in decisions
        if decision.reason in COMPRESSED_REASONS
    }
    steps: list[DedupStep] = []
    step_decisions: list[int] = []
    for turn_index, turn in enumerate(turns[: last_turn + 1]):
        for slot in () if turn.is_compacted else turn.slots:
            if (turn_index, slot.path) in compressed:
                continue
            index = candidates.get((turn_index, slot.path), -1)
            is_file_read = index >= 0 and decisions[index].reason == "file-read"
            call = turn.call.arguments if turn.call else ""
            steps.append(DedupStep(slot.text, call, index >= 0, is_file_read, turn.role in ("user", "system")))
            step_decisions.append(index)
    deduped = list(decisions)
    for index, replacement in zip(step_decisions, dedup.dedupe_steps(steps), strict=True):
        if index >= 0 and replacement is not None:
            deduped[index] = deduped[index]._replace(replacement=replacement)
    return deduped


def _measure_messages(
    turns: Sequence[Turn],
    counts: Sequence[int],
    decisions: Sequence[Decision],
    rules: Rules,
    vocabulary: TokenCounter,
    reply_starts: set[int],
) -> list[MessageTokens]:
    """Return each message's tokens as forwarded while it is new, and those pruned when it is stale."""
    calls = [turn.call.arguments if turn.call and not turn.is_compacted else "" for turn in turns]
    tokens = [count + (vocabulary.count(call) if call else 0) for count, call in zip(counts, calls, strict=True)]
    prunable: Counter[int] = Counter()
    kinds: dict[int, str] = {}
    for decision in decisions:
        index, forwarded = decision.passage.turn_index, _estimate_forwarded_tokens(decision)
        tokens[index] -= decision.tokens - forwarded
        if _is_prunable(decision, rules) and forwarded > staleness.HEAD_TOKENS:
            prunable[index] += forwarded - staleness.HEAD_TOKENS
            is_read = decision.reason == "file-read"
            kinds[index] = "code" if is_read else registry.classify_content(decision.passage.text)
    read_indices = [decision.passage.turn_index for decision in decisions if decision.reason == "file-read"]
    staleness_index = staleness.StalenessIndex(tokens, {index: calls[index] for index in read_indices})
    return [
        MessageTokens(
            count,
            prunable[index],
            staleness_index.stale_after(index, kinds[index], calls[index]) if index in kinds else 0,
            index in reply_starts,
        )
        for index, count in enumerate(tokens)
    ]


def _is_prunable(decision: Decision, rules: Rules) -> bool:
    if decision.reason == "file-read" and not rules.can_fetch:
        return False
    return decision.passage.role == "tool" and decision.reason in PRUNABLE_REASONS


def _estimate_forwarded_tokens(decision: Decision) -> int:
    if decision.reason is None:
        return min(decision.target, decision.tokens)
    if decision.replacement is None:
        return decision.tokens
    characters = sum(len(part) for part in decision.replacement.parts if isinstance(part, str))
    return decision.tokens * characters // max(1, len(decision.passage.text))


def _apply_pruning(
    turns: Sequence[Turn], decisions: Sequence[Decision], rules: Rules, messages: Sequence[MessageTokens], pruned: int
) -> list[Decision]:
    """Prune stale outputs to their first line; outputs that repeated them are deduplicated again without them."""
    stale = {index for index, message in enumerate(messages) if message.prunable and message.stale_after <= pruned}
    remaining = [
        decision._replace(reason="old", replacement=staleness.keep_first_line(decision.passage.text))
        if decision.passage.turn_index in stale and _is_prunable(decision, rules)
        else decision._replace(replacement=None)
        for decision in decisions
    ]
    return _apply_dedup(turns, remaining, rules)


def _is_dedupable(decision: Decision, rules: Rules) -> bool:
    passage = decision.passage
    if passage.role != "tool" or decision.reason not in DEDUPABLE_REASONS or decision.tokens < rules.min_dedup_tokens:
        return False
    if decision.reason == "file-read" and not rules.can_fetch:
        return False
    if passage.end - passage.start < len(passage.slot.text):  # an output within a longer text
        return False
    return passage.role in rules.roles and _find_tool_skip_reason(passage, rules, old=True) is None


def _apply_budget(budget: int, counts: Sequence[int], decisions: Sequence[Decision]) -> Iterator[Decision]:
    """Lower the targets so that the conversation fits; each message gets a share of the tokens left at its place."""
    forwarded = next_turn = 0
    for turn, turn_decisions in groupby(decisions, key=lambda decision: decision.passage.turn_index):
        group = list(turn_decisions)
        forwarded += sum(counts[next_turn : turn + 1])
        next_turn = turn + 1
        compressible = sum(decision.tokens for decision in group if decision.reason is None)
        room = max(0.0, BUDGET_SHARE * (budget - (forwarded - compressible)))
        for decision in group:
            if decision.reason:
                yield decision
                continue
            target = max(1, min(decision.target, int(room * decision.tokens / max(1, compressible))))
            forwarded -= decision.tokens - target
            yield decision._replace(target=target)
