"""Decides *whether* a passage is shortened and how small it should get. Every "no" has a reason.

Pure, and true to law 1: a decision depends on the passage's message, on what comes before it, and on which epochs have
ended: by size, when a window fills up, and by age, when what is old has cost what writing anew what follows would.
*How* a passage is shortened is the compressor's business.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from . import ages, dedup, passages, sizes, staleness
from .compressor import CompressedPassage
from .dedup import DedupStep
from .file_reads import is_file_read
from .passages import Passage, PassageOptions
from .staleness import MessageTokens
from .tokens import TokenCounter
from .transcript import Turn

DEFAULT_RATIO = 3.0  # where none was asked for and the kind of content does not say
MIN_MATERIAL_TOKENS = 300  # tokens of a user's material that stay whatever its length, where no ratio was asked for
BUDGET_SHARE = 0.75  # of what is left of a budget: one passage never takes it all
DEDUPABLE_REASONS = frozenset(
    {"file-read", "all-signal", "too-short"}
)  # what stays for its worth may still be a repeat
COMPRESSED_REASONS = frozenset({None, "old"})
PRUNABLE_REASONS = frozenset({None, "file-read", "all-signal"})  # what is not here stays however old it gets
DEDUP_SIZE_SHARE = 1 / 3  # of the least size of a passage, for a repeat: nothing is lost with it
_EXPAND_CALL = re.compile(r"clara_expand|/v1/retrieve/[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request wants of compression: its headers over the settings. Sizes are in tokens.

    Without a `ratio` and a `budget` the output of a tool gets the size that its kind deserves. Where `file_tools` is
    None, files that were read may be shortened like anything else. `epoch_price` is what it costs to write a token
    anew, in tokens read from the provider's cache; at 0 old outputs stay.
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


class Decision(NamedTuple):
    """A passage, its size in tokens, and either the reason to leave it alone or the size it should get.

    What is left alone may still be `folded`: without the lines that the conversation has shown before.
    """

    passage: Passage
    tokens: int
    reason: str | None
    target: int = 0
    replacement: CompressedPassage | None = None


class CompressionPlan(NamedTuple):
    """What becomes of every passage, and when epochs ended last: how many messages there were, by size and by age.

    `rewritten` says that one has ended since the prompt before this one, which had something whole that is shorter now.
    """

    decisions: list[Decision]
    epoch_ends: tuple[int, int]
    prefix_changed: bool


def plan_compression(
    turns: Sequence[Turn], rules: Rules, vocabulary: TokenCounter, *, has_tools: bool
) -> CompressionPlan:
    """Decide on every passage of a conversation."""
    counts = [sum([vocabulary.count(slot.text) for slot in turn.slots]) for turn in turns]
    how = PassageOptions(has_tools, lambda text: vocabulary.count(text) >= rules.min_tokens, rules.query)
    found = list(passages.find_passages(turns, how))

    def decided(ended: int) -> list[Decision]:
        old = _mark_compressible_history(turns, ended)
        made = [_decide_passage(passage, rules, vocabulary, old=old[passage.turn_index]) for passage in found]
        within = list(_apply_budget(rules.budget, counts, made) if rules.budget else made)
        return _apply_dedup(turns, within, rules)

    said = _find_reply_starts(turns)
    last = max(said, default=0)
    ended, before = (staleness.window_limit(some, rules.epoch_tokens) for some in (counts, counts[:last]))
    decisions = new = decided(0)
    if ended:
        decisions = decided(ended)
    ages_at_all = rules.epoch_price and any(map(_is_prunable, new))
    weights = _measure_messages(turns, counts, new, vocabulary, said) if ages_at_all else []
    gone = staleness.last_prune(weights, rules.epoch_price)
    if gone:
        decisions = _apply_pruning(turns, decisions, rules, weights, gone)
    return CompressionPlan(decisions, (ended, gone), ended > before or 0 < gone == last)


def _find_reply_starts(turns: Sequence[Turn]) -> set[int]:
    """Return the messages with which the model's own words begin: a request ended before each."""
    return {
        index
        for index, (before, turn) in enumerate(pairwise(turns), start=1)
        if turn.role == "assistant" != before.role
    }


def _mark_compressible_history(turns: Sequence[Turn], ended: int) -> list[bool]:
    """Say which messages belong to an ended epoch, but for the task and for the instruction in force at its end."""
    users = [index for index, turn in enumerate(turns[:ended]) if turn.role == "user"]
    spared = {users[0], users[-1]} if users else set[int]()
    return [index < ended and index not in spared for index in range(len(turns))]


def _decide_passage(passage: Passage, rules: Rules, vocabulary: TokenCounter, *, old: bool) -> Decision:
    length = passage.end - passage.start
    most = length if passage.slot.text.isascii() else 4 * length  # no text has more tokens than bytes
    tokens = 0 if most < rules.min_tokens and passage.tag_action is None else vocabulary.count(passage.text)
    reason = _find_skip_reason(passage, tokens, rules, old=old)
    if reason:
        return Decision(passage, tokens, reason)
    target = _choose_target(passage, tokens, rules, old=old)
    return Decision(passage, tokens, None, target) if target else Decision(passage, tokens, "all-signal")


def _choose_target(passage: Passage, tokens: int, rules: Rules, *, old: bool) -> int | None:
    """Return the size that a passage should get, None when it is worth its tokens."""
    if rules.ratio or rules.budget or old or passage.tag_action is not None:
        return max(1, int(tokens / (rules.ratio or DEFAULT_RATIO)))
    if passage.role == "tool":
        return sizes.compute_kind_target(sizes.classify_content(passage.text), tokens)
    return max(MIN_MATERIAL_TOKENS, int(tokens / DEFAULT_RATIO)) if tokens > MIN_MATERIAL_TOKENS else None


def _find_skip_reason(passage: Passage, tokens: int, rules: Rules, *, old: bool) -> str | None:
    if passage.tag_action is not None:
        return "kept-by-tag" if passage.tag_action == "keep" else None
    if tokens < rules.min_tokens:
        return "too-short"
    if passage.role not in rules.roles:
        return "role"
    if passage.role == "tool":
        return _find_tool_skip_reason(passage, rules, old=old)
    if passage.kind == "text" and not old:
        return "live-instruction" if passage.role == "user" else "recent"
    return "file-read" if passage.kind == "code" and not old else None


def _find_tool_skip_reason(passage: Passage, rules: Rules, *, old: bool) -> str | None:
    call = passage.call
    if call is not None:
        if call.name in rules.protected_tools:
            return "protected-tool"
        if _EXPAND_CALL.search(call.name) or _EXPAND_CALL.search(call.arguments):
            return "expansion"
        if not old and rules.file_tools is not None and is_file_read(call, rules.file_tools):
            return "file-read"
    return None


def _apply_dedup(turns: Sequence[Turn], decisions: Sequence[Decision], rules: Rules) -> list[Decision]:
    """Fold what outputs repeat of texts that are forwarded as they stand; what is shortened is not pointed to."""
    foldable = {
        (one.passage.turn_index, one.passage.slot.path): at
        for at, one in enumerate(decisions)
        if _is_dedupable(one, rules)
    }
    if not foldable:
        return list(decisions)
    last = max(turn for turn, _ in foldable)  # so that conversations that part after it are walked only once
    shortened = {
        (one.passage.turn_index, one.passage.slot.path) for one in decisions if one.reason in COMPRESSED_REASONS
    }
    steps: list[DedupStep] = []
    places: list[int] = []
    for index, turn in enumerate(turns[: last + 1]):
        for slot in turn.slots:
            if (index, slot.path) in shortened:
                continue
            at = foldable.get((index, slot.path), -1)
            steps.append(DedupStep(slot.text, turn.call.arguments if turn.call else "", at >= 0))
            places.append(at)
    made = list(decisions)
    for at, folded in zip(places, dedup.dedupe_steps(steps), strict=True):
        if at >= 0 and folded is not None:
            made[at] = made[at]._replace(replacement=folded)
    return made


def _measure_messages(
    turns: Sequence[Turn],
    counts: Sequence[int],
    decisions: Sequence[Decision],
    vocabulary: TokenCounter,
    said: set[int],
) -> list[MessageTokens]:
    """Say of every message how many tokens are forwarded while it is new, and what of it goes when it is old."""
    calls = [turn.call.arguments if turn.call else "" for turn in turns]
    tokens = [count + (vocabulary.count(call) if call else 0) for count, call in zip(counts, calls, strict=True)]
    spare: Counter[int] = Counter()
    kinds: dict[int, str] = {}
    for one in decisions:
        at, sent = one.passage.turn_index, _estimate_forwarded_tokens(one)
        tokens[at] -= one.tokens - sent
        if _is_prunable(one) and sent > ages.HEAD_TOKENS:
            spare[at] += sent - ages.HEAD_TOKENS
            kinds[at] = "code" if one.reason == "file-read" else sizes.classify_content(one.passage.text)
    reads = {one.passage.turn_index: calls[one.passage.turn_index] for one in decisions if one.reason == "file-read"}
    when = ages.StalenessIndex(tokens, reads)
    return [
        MessageTokens(weight, spare[at], when.stale_after(at, kinds[at], calls[at]), at in said)
        if at in kinds
        else MessageTokens(weight, 0, 0, at in said)
        for at, weight in enumerate(tokens)
    ]


def _is_prunable(decision: Decision) -> bool:
    return decision.passage.role == "tool" and decision.reason in PRUNABLE_REASONS


def _estimate_forwarded_tokens(decision: Decision) -> int:
    """Return about how many tokens of a passage are forwarded."""
    if decision.reason is None:
        return min(decision.target, decision.tokens)
    if decision.replacement is None:
        return decision.tokens
    kept = sum(len(part) for part in decision.replacement.parts if isinstance(part, str))
    return decision.tokens * kept // max(1, len(decision.passage.text))


def _apply_pruning(
    turns: Sequence[Turn], decisions: Sequence[Decision], rules: Rules, weights: Sequence[MessageTokens], gone: int
) -> list[Decision]:
    """Leave of what is old the first line; what repeated it stands for itself again."""
    old = {at for at, one in enumerate(weights) if one.prunable and one.stale_after <= gone}
    made = [
        one._replace(reason="old", replacement=ages.keep_first_line(one.passage.text))
        if one.passage.turn_index in old and _is_prunable(one)
        else (one if one.replacement is None else one._replace(replacement=None))
        for one in decisions
    ]
    return _apply_dedup(turns, made, rules)


def _is_dedupable(decision: Decision, rules: Rules) -> bool:
    passage = decision.passage
    if (
        passage.role != "tool"
        or decision.reason not in DEDUPABLE_REASONS
        or decision.tokens < DEDUP_SIZE_SHARE * rules.min_tokens
    ):
        return False
    return passage.role in rules.roles and _find_tool_skip_reason(passage, rules, old=True) is None


def _apply_budget(budget: int, counts: Sequence[int], decisions: Sequence[Decision]) -> Iterator[Decision]:
    """Lower the targets so that the conversation fits; a message gets a share of what is left where it stands."""
    sent = reached = 0
    for turn, group in groupby(decisions, key=lambda decision: decision.passage.turn_index):
        together = list(group)
        sent += sum(counts[reached : turn + 1])
        reached = turn + 1
        open_tokens = sum(decision.tokens for decision in together if decision.reason is None)
        room = max(0.0, BUDGET_SHARE * (budget - (sent - open_tokens)))
        for decision in together:
            target = max(1, min(decision.target, int(room * decision.tokens / max(1, open_tokens))))
            kept = decision if decision.reason else decision._replace(target=target)
            sent -= 0 if decision.reason else decision.tokens - target
            yield kept
