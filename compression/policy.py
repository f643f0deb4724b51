"""Decides *whether* a passage is shortened and how small it should get. Every "no" has a reason.

Pure, and true to law 1: a decision depends on the passage's message, on what comes before it, and on which epochs have
ended. *How* a passage is shortened is the compressor's business.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from . import epochs, passages
from .passages import Finding, Passage
from .reads import reads_file
from .tokens import Vocabulary
from .transcript import Turn

BUDGET_SHARE = 0.75  # of what is left of a budget: one passage never takes it all
LONGEST_ERROR = 1500  # tokens; a longer output with an error in it is shortened around the error
_ERROR = re.compile(
    r"Traceback \(most recent call last\)|^[ \t]*[\w.]*(?:Error|Exception)\b|^(?:error|fatal|panic)\b", re.MULTILINE
)
_EXPANSION = re.compile(r"clara_expand|/v1/retrieve/[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request wants of compression: its headers over the settings. Sizes are in tokens."""

    ratio: float
    min_tokens: int
    roles: frozenset[str]
    budget: int | None
    query: str | None
    protected_tools: frozenset[str]
    file_tools: frozenset[str]
    epoch_tokens: int


class Decision(NamedTuple):
    """A passage, its size in tokens, and either the reason to leave it alone or the size it should get."""

    passage: Passage
    tokens: int
    reason: str | None
    target: int = 0


def plan(turns: Sequence[Turn], rules: Rules, vocabulary: Vocabulary, *, agentic: bool) -> list[Decision]:
    """Decide on every passage of a conversation."""
    sizes = [sum(vocabulary.count(slot.text) for slot in turn.slots) for turn in turns]
    ended = epochs.boundary(sizes, rules.epoch_tokens)
    old = _shortenable_history(turns, ended)
    how = Finding(agentic, lambda text: vocabulary.count(text) >= rules.min_tokens, rules.query)
    decisions = [_decide(passage, rules, vocabulary, old=old[passage.turn]) for passage in passages.find(turns, how)]
    return list(_within(rules.budget, sizes, decisions) if rules.budget else decisions)


def _shortenable_history(turns: Sequence[Turn], ended: int) -> list[bool]:
    """Say which messages belong to an ended epoch, but for the task and for the instruction in force at its end."""
    users = [index for index, turn in enumerate(turns[:ended]) if turn.role == "user"]
    spared = {users[0], users[-1]} if users else set[int]()
    return [index < ended and index not in spared for index in range(len(turns))]


def _decide(passage: Passage, rules: Rules, vocabulary: Vocabulary, *, old: bool) -> Decision:
    length = passage.end - passage.start
    most = length if passage.slot.text.isascii() else 4 * length  # no text has more tokens than bytes
    tokens = 0 if most < rules.min_tokens and passage.wish is None else vocabulary.count(passage.text)
    reason = _objection(passage, tokens, rules, old=old)
    return Decision(passage, tokens, reason, 0 if reason else max(1, int(tokens / rules.ratio)))


def _objection(passage: Passage, tokens: int, rules: Rules, *, old: bool) -> str | None:
    if passage.wish is not None:
        return "kept-by-tag" if passage.wish == "keep" else None
    if tokens < rules.min_tokens:
        return "too-short"
    if passage.role not in rules.roles:
        return "role"
    if passage.role == "tool":
        return _objection_to_tool(passage, tokens, rules, old=old)
    if passage.kind == "text" and not old:
        return "live-instruction" if passage.role == "user" else "recent"
    return "file-read" if passage.kind == "code" and not old else None


def _objection_to_tool(passage: Passage, tokens: int, rules: Rules, *, old: bool) -> str | None:
    call = passage.call
    if call is not None:
        if call.name in rules.protected_tools:
            return "protected-tool"
        if _EXPANSION.search(call.name) or _EXPANSION.search(call.arguments):
            return "expansion"
        if not old and reads_file(call, rules.file_tools):
            return "file-read"
    return "error-output" if tokens <= LONGEST_ERROR and _ERROR.search(passage.text) else None


def _within(budget: int, sizes: Sequence[int], decisions: Sequence[Decision]) -> Iterator[Decision]:
    """Lower the targets so that the conversation fits; a message gets a share of what is left where it stands."""
    sent = reached = 0
    for turn, group in groupby(decisions, key=lambda decision: decision.passage.turn):
        together = list(group)
        sent += sum(sizes[reached : turn + 1])
        reached = turn + 1
        open_tokens = sum(decision.tokens for decision in together if decision.reason is None)
        room = max(0.0, BUDGET_SHARE * (budget - (sent - open_tokens)))
        for decision in together:
            target = max(1, min(decision.target, int(room * decision.tokens / max(1, open_tokens))))
            kept = decision if decision.reason else decision._replace(target=target)
            sent -= 0 if decision.reason else decision.tokens - target
            yield kept
