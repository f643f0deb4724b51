"""Plans the compression of a conversation: finds passages, decides on them, removes repeats and prunes stale outputs.

A conversation comes again and again, longer each time. A plan returns a `PlanPrefix`, and the plan of a longer
conversation with the same first turns continues from it: only new turns are searched, decided on and counted.
The prefix invariant makes this exact: a plan is the same with and without it. A `PlanPrefix` is never modified, so
branches of a conversation and threads may share it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from . import dedup, passages, policy, registry, staleness
from .dedup import DedupStep
from .passages import NO_QUESTION, Passage, PassageOptions, Question
from .policy import COMPRESSED_REASONS, PRUNABLE_REASONS, Decision, Rules
from .staleness import NEVER, MessageTokens, StalenessIndex
from .tokens import TokenCounter
from .transcript import Turn


class _Decisions(NamedTuple):
    """The decisions on all passages, with repeats removed, and the texts among which repeats were looked for.

    `steps` are the texts of the first `step_turns` turns; no later turn may repeat one of them.
    """

    decisions: list[Decision]
    steps: list[DedupStep]
    step_turns: int


_NOTHING = _Decisions([], [], 0)  # never modified, like every other


class PlanPrefix(NamedTuple):
    """The results of planning for the turns of a conversation.

    `counts` are the tokens of each turn, `fresh` the decisions while every turn was new, `final` those after the ends
    of epochs. `messages` are the turns as forwarded while new, as far as measured; `fading` are the outputs
    among them before they become stale, with their kinds of content.
    """

    turns: Sequence[Turn]
    counts: list[int]
    question: Question
    fresh: _Decisions
    final: _Decisions
    epoch_ends: tuple[int, int]
    messages: list[MessageTokens]
    fading: dict[int, str]


EMPTY_PREFIX = PlanPrefix((), [], NO_QUESTION, _NOTHING, _NOTHING, (0, 0), [], {})


class CompressionPlan(NamedTuple):
    """The decision on every passage, and the last epoch ends as numbers of messages: by size, and by staleness.

    `prefix_changed` is True if an epoch ended since the previous prompt, which held text that is now compressed. The
    first `known_count` decisions come from the earlier plan. `prefix` serves the next plan.
    """

    decisions: list[Decision]
    epoch_ends: tuple[int, int]
    prefix_changed: bool
    known_count: int
    prefix: PlanPrefix


def plan_compression(
    turns: Sequence[Turn],
    rules: Rules,
    vocabulary: TokenCounter,
    *,
    has_tools: bool,
    known: PlanPrefix = EMPTY_PREFIX,
) -> CompressionPlan:
    """Decide on every passage of a conversation.

    `known` is the prefix of an earlier plan with the same options, whose turns are the first of these.
    """
    if rules.budget:
        known = EMPTY_PREFIX  # a target depends on what is left of the budget
    first = len(known.turns)
    counts = known.counts + _count_turns(turns[first:], vocabulary)

    def is_long(text: str) -> bool:
        return vocabulary.count(text) >= rules.min_tokens

    options = PassageOptions(has_tools, is_long, rules.query)
    new_passages, question = passages.find_passages(turns, options, first, known.question)
    new = [_decide(passage, turns, rules, vocabulary, old=False) for passage in new_passages]
    if rules.budget:
        new = list(policy.apply_budget(rules.budget, counts, new))
    fresh = _extend(known.fresh, turns, new, rules)
    ended_before, ended = [
        staleness.window_limit(counts[:end], rules.epoch_tokens) if end else 0 for end in _find_last_reply_ends(turns)
    ]
    pruned, messages, fading = 0, known.messages, known.fading
    outputs = [decision for decision in new if decision.passage.role == "tool"]
    if rules.epoch_price and (messages or (outputs and any(_is_prunable(decision, rules) for decision in outputs))):
        messages, fading = _measure_messages(turns, counts, fresh.decisions, rules, vocabulary, known)
        pruned = staleness.last_prune(messages, rules.epoch_price)
    epoch_ends, known_count, final = (ended, pruned), 0, fresh
    if epoch_ends == known.epoch_ends:
        known_count = len(known.final.decisions)
        if known.final is not known.fresh:
            final = _extend(known.final, turns, new, rules)
    prefix = PlanPrefix(turns, counts, question, fresh, final, epoch_ends, messages, fading)
    if epoch_ends != known.epoch_ends:
        prefix = prefix._replace(final=_decide_after_epochs(prefix, rules, vocabulary, epoch_ends))
    prefix_changed = ended > ended_before or 0 < pruned == _find_last_reply_start(turns)
    return CompressionPlan(prefix.final.decisions, epoch_ends, prefix_changed, known_count, prefix)


def _count_turns(turns: Sequence[Turn], vocabulary: TokenCounter) -> list[int]:
    count = vocabulary.count
    return [0 if turn.is_compacted else sum([count(slot.text) for slot in turn.slots]) for turn in turns]


def _decide(passage: Passage, turns: Sequence[Turn], rules: Rules, vocabulary: TokenCounter, *, old: bool) -> Decision:
    if turns[passage.turn_index].is_compacted:
        return policy.skip_compacted(passage, rules)
    return policy.decide_passage(passage, rules, vocabulary, old=old)


def _decide_after_epochs(
    plan: PlanPrefix, rules: Rules, vocabulary: TokenCounter, epoch_ends: tuple[int, int]
) -> _Decisions:
    """Return the decisions after the last ends of epochs, computed for all passages."""
    ended, pruned = epoch_ends
    decided = plan.fresh
    if ended:
        is_old = _mark_compressible_history(plan.turns, ended)
        decisions = [
            _decide(decision.passage, plan.turns, rules, vocabulary, old=is_old[decision.passage.turn_index])
            for decision in plan.fresh.decisions
        ]
        if rules.budget:
            decisions = list(policy.apply_budget(rules.budget, plan.counts, decisions))
        decided = _extend(_NOTHING, plan.turns, decisions, rules)
    if pruned:
        decided = _extend(_NOTHING, plan.turns, _prune(decided.decisions, rules, plan.messages, pruned), rules)
    return decided


def _is_reply_start(turns: Sequence[Turn], index: int) -> bool:
    """Return True for a message that begins the model's own words: a request ended before it."""
    return index > 0 and turns[index].role == "assistant" != turns[index - 1].role


def _find_last_reply_start(turns: Sequence[Turn]) -> int:
    return next((index for index in range(len(turns) - 1, 0, -1) if _is_reply_start(turns, index)), 0)


def _find_last_reply_ends(turns: Sequence[Turn]) -> tuple[int, int]:
    """Return the numbers of messages at the ends of the last two replies, 0 for a reply that does not exist.

    What follows the last reply is new to the model: an epoch that ends there ends with the next reply.
    """
    ends: list[int] = []
    for index in range(len(turns) - 1, -1, -1):
        if turns[index].role == "assistant" and (index + 1 == len(turns) or turns[index + 1].role != "assistant"):
            ends.append(index + 1)
            if len(ends) == 2:
                break
    last, before = (*ends, 0, 0)[:2]
    return before, last


def _mark_compressible_history(turns: Sequence[Turn], ended: int) -> list[bool]:
    """Mark the messages of ended epochs, except the task and the instruction in force at their end."""
    users = [
        index
        for index, turn in enumerate(turns[:ended])
        if turn.role == "user" and not (index and passages.find_turn_outputs(turn, has_replied=True))
    ]
    protected = {users[0], users[-1]} if users else set[int]()
    return [index < ended and index not in protected for index in range(len(turns))]


def _extend(known: _Decisions, turns: Sequence[Turn], new: Sequence[Decision], rules: Rules) -> _Decisions:
    """Append decisions, and remove from outputs the lines of texts forwarded unchanged.

    Compressed passages are never referred to.
    """
    decisions = [*known.decisions, *new]
    candidates = {
        (decision.passage.turn_index, decision.passage.slot.path): index
        for index, decision in enumerate(new, start=len(known.decisions))
        if decision.passage.role == "tool" and policy.is_dedupable(decision, rules)
    }
    if not candidates:
        return _Decisions(decisions, known.steps, known.step_turns)
    last_turn = max(turn for turn, _ in candidates)  # conversations that differ only behind it share their memory
    compressed = _list_compressed_slots(decisions, known.step_turns)
    steps, step_decisions = list(known.steps), [-1] * len(known.steps)
    for turn_index in range(known.step_turns, last_turn + 1):
        turn = turns[turn_index]
        for slot in () if turn.is_compacted else turn.slots:
            if (turn_index, slot.path) in compressed:
                continue
            index = candidates.get((turn_index, slot.path), -1)
            is_file_read = index >= 0 and decisions[index].reason == "file-read"
            is_user_text = turn.role in ("user", "system")
            steps.append(DedupStep(slot.text, _get_call(turn), index >= 0, is_file_read, is_user_text))
            step_decisions.append(index)
    for index, replacement in zip(step_decisions, dedup.dedupe_steps(steps), strict=True):
        if index >= 0 and replacement is not None:
            decisions[index] = decisions[index]._replace(replacement=replacement)
    return _Decisions(decisions, steps, last_turn + 1)


def _list_compressed_slots(decisions: Sequence[Decision], first_turn: int) -> set[tuple[int, object]]:
    """Return the strings of turns from `first_turn` on that hold a compressed passage."""
    compressed = set[tuple[int, object]]()
    for decision in reversed(decisions):
        if decision.passage.turn_index < first_turn:
            break
        if decision.reason in COMPRESSED_REASONS:
            compressed.add((decision.passage.turn_index, decision.passage.slot.path))
    return compressed


def _measure_messages(
    turns: Sequence[Turn],
    counts: Sequence[int],
    decisions: Sequence[Decision],
    rules: Rules,
    vocabulary: TokenCounter,
    known: PlanPrefix,
) -> tuple[list[MessageTokens], dict[int, str]]:
    """Return each message's tokens as forwarded while it is new, and those pruned when it is stale.

    The messages with a kind of content are those that may still become stale.
    """
    first = len(known.messages)
    tokens = [message.tokens for message in known.messages]
    tokens += [count + _count_call(turn, vocabulary) for turn, count in zip(turns[first:], counts[first:], strict=True)]
    prunable: Counter[int] = Counter()
    fading = dict(known.fading)
    for decision in reversed(decisions):
        index = decision.passage.turn_index
        if index < first:
            break
        forwarded = _estimate_forwarded_tokens(decision)
        tokens[index] -= decision.tokens - forwarded
        if _is_prunable(decision, rules) and forwarded > staleness.HEAD_TOKENS:
            prunable[index] += forwarded - staleness.HEAD_TOKENS
            is_read = decision.reason == "file-read"
            fading.setdefault(index, "code" if is_read else registry.classify_content(decision.passage.text))
    messages = known.messages + [
        MessageTokens(tokens[index], prunable[index], NEVER if index in fading else 0, _is_reply_start(turns, index))
        for index in range(first, len(turns))
    ]
    reads = {
        decision.passage.turn_index: _get_call(turns[decision.passage.turn_index])
        for decision in decisions
        if decision.reason == "file-read"
    }
    staleness_index = StalenessIndex(tokens, reads)
    for index, kind in list(fading.items()):
        stale_after = staleness_index.stale_after(index, kind, _get_call(turns[index]))
        if stale_after < NEVER:
            messages[index] = messages[index]._replace(stale_after=stale_after)
            del fading[index]
    return messages, fading


def _get_call(turn: Turn) -> str:
    return turn.call.arguments if turn.call else ""


def _count_call(turn: Turn, vocabulary: TokenCounter) -> int:
    call = "" if turn.is_compacted else _get_call(turn)
    return vocabulary.count(call) if call else 0


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


def _prune(
    decisions: Sequence[Decision], rules: Rules, messages: Sequence[MessageTokens], pruned: int
) -> list[Decision]:
    """Prune stale outputs to their first line; outputs that repeated them have to be searched again without them."""
    stale = {index for index, message in enumerate(messages) if message.prunable and message.stale_after <= pruned}
    return [
        decision._replace(reason="old", replacement=staleness.keep_first_line(decision.passage.text))
        if decision.passage.turn_index in stale and _is_prunable(decision, rules)
        else decision._replace(replacement=None)
        for decision in decisions
    ]
