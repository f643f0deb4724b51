"""Decides which passages are compressed, and to how many tokens. Every refusal has a skip reason.

Decisions are pure and keep the prefix invariant: each depends on the passage's message, on the messages before it, and
on the epochs that have ended (see `staleness`). How a passage is compressed is up to its compressor.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from . import documents, registry
from .compressor import CompressedPassage
from .file_kinds import may_be_editable_file
from .file_reads import is_editable_read
from .passages import Passage
from .tokens import TokenCounter

DEFAULT_RATIO = 3.0  # if no ratio was asked for and the kind of content has no curve
MIN_MATERIAL_TOKENS = 300  # tokens of a user's material that always remain if no ratio was asked for
BUDGET_SHARE = 0.75  # of the tokens left in a budget: one message never uses all of them
DEDUPABLE_REASONS = frozenset({"file-read", "all-signal", "too-short"})  # not compressed, but may be a repeat
COMPRESSED_REASONS = frozenset({None, "old"})
PRUNABLE_REASONS = frozenset({None, "file-read", "all-signal"})  # outputs skipped for other reasons are never pruned
WHOLE_TOKENS = 400  # tool outputs up to this size stay whole if no ratio was asked for
MIN_KEPT_SHARE, MIN_KEPT_TOKENS = 0.6, 1000  # least target of a longer output: this share of its tokens, up to so many
DEDUP_SIZE_SHARE = 1 / 3  # of `min_tokens`: repeats may be smaller, as nothing is lost with them
_EXPAND_CALL = re.compile(r"clara_expand|/v1/retrieve/[0-9a-f]{12}")


class SizeCurve(NamedTuple):
    """Target of a long tool output: `full_tokens * (tokens / full_tokens) ** exponent`; up to `full_tokens` all."""

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
    back, and whatever shows files stays verbatim. Kinds of content in `pruned_kinds` are not kept whole:
    a pruner decides.
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
    pruned_kinds: frozenset[str] = frozenset()

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


def compute_kind_target(kind: str, tokens: int) -> int | None:
    """Return the target in tokens of a tool output of this kind and size, None if it is kept whole."""
    curve = SIZE_CURVES.get(kind, DEFAULT_CURVE)
    if curve is None:
        return None
    if tokens <= max(curve.full_tokens, WHOLE_TOKENS):
        return tokens or None if kind in REFORMATTED_KINDS else None
    target = int(curve.full_tokens * (tokens / curve.full_tokens) ** curve.exponent)
    return max(target, min(MIN_KEPT_TOKENS, int(MIN_KEPT_SHARE * tokens)))


def skip_compacted(passage: Passage, rules: Rules) -> Decision:
    """Leave a passage that the provider does not read, and does not bill, as it is. It is not counted."""
    return Decision(passage, 0, "compacted" if len(passage.text) >= rules.min_tokens else "too-short")


def decide_passage(passage: Passage, rules: Rules, vocabulary: TokenCounter, *, old: bool) -> Decision:
    """Decide on one passage; `old` is True for history whose epoch has ended."""
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
        kind = registry.classify_content(passage.text)
        if kind in rules.pruned_kinds:
            return max(1, int(tokens / DEFAULT_RATIO))
        return compute_kind_target(kind, tokens)
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


def is_dedupable(decision: Decision, rules: Rules) -> bool:
    """Return True if a passage that is not compressed may be replaced by its lines that were not shown before."""
    passage = decision.passage
    if passage.role != "tool" or decision.reason not in DEDUPABLE_REASONS or decision.tokens < rules.min_dedup_tokens:
        return False
    if decision.reason == "file-read" and not rules.can_fetch:
        return False
    if passage.end - passage.start < len(passage.slot.text):  # an output within a longer text
        return False
    return passage.role in rules.roles and _find_tool_skip_reason(passage, rules, old=True) is None


def apply_budget(budget: int, counts: Sequence[int], decisions: Sequence[Decision]) -> Iterator[Decision]:
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
