"""The outcomes of a conversation's passages, and the new text of every changed string."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ...compression import tags
from ...compression.engine import Outcome
from ...compression.models.model_compression import MODEL_ENGINES
from ...compression.planning import EMPTY_PREFIX, CompressionPlan, PlanPrefix
from ...compression.policy import Decision
from ...compression.tokens import TokenCounter
from ...compression.transcript import SlotPath, TextSlot
from ..stores.contents import PassageTexts
from ..stores.ledger_row import Passage
from ..stores.originals import compute_name

DecisionOutcome = tuple[Decision, Outcome | None]
TagRemoval = tuple[int, int, str]
TAGS_KIND = "tags"  # the kind of the savings by removed tags in a user's text


class CompressedPrefix(NamedTuple):
    """The results of compression for the messages of a conversation, for the next request.

    `edits` are the new texts by slot, `passages` the outcomes, and `originals` the replaced texts by name. It is never
    modified.
    """

    plan: PlanPrefix
    results: list[DecisionOutcome]
    edits: Mapping[TextSlot, str]
    passages: list[Passage]
    originals: Mapping[str, str]
    saved_tokens: int
    skip_counts: Mapping[str, int]
    model_engine: str


EMPTY_COMPRESSED = CompressedPrefix(EMPTY_PREFIX, [], {}, [], {}, 0, {}, model_engine="")


def append_results(
    known: CompressedPrefix,
    plan: CompressionPlan,
    results: Sequence[DecisionOutcome],
    vocabulary: TokenCounter,
    owner_id: str,
) -> CompressedPrefix:
    """Return all of the conversation's results: those that are known, and `results` of the passages behind them."""
    edits, passages = build_edits(results, vocabulary)
    return CompressedPrefix(
        plan.prefix,
        [*known.results, *results],
        {**known.edits, **edits},
        known.passages + passages,
        {**known.originals, **list_originals(results, owner_id)},
        known.saved_tokens + sum([passage.before - passage.after for passage in passages]),
        add_counts(known.skip_counts, _count_reasons(passages, results)),
        known.model_engine or next(filter(None, [_find_model_engine(outcome) for _, outcome in results]), ""),
    )


def list_originals(results: Sequence[DecisionOutcome], owner_id: str) -> dict[str, str]:
    """Return the texts of replaced passages by the names of the stored originals."""
    texts = [decision.passage.text for decision, outcome in results if outcome and outcome.text is not None]
    return {compute_name(owner_id, text): text for text in texts} if texts else {}


def _find_model_engine(outcome: Outcome | None) -> str:
    return MODEL_ENGINES.get(outcome.compressor, "") if outcome is not None and outcome.text else ""


def _count_reasons(passages: Sequence[Passage], results: Sequence[DecisionOutcome]) -> dict[str, int]:
    counts: dict[str, int] = {}
    reasons = [passage.reason for passage in passages]
    reasons += [outcome.fallback for _, outcome in results if outcome and outcome.text]
    for reason in reasons:
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
    return counts


def add_counts(first: Mapping[str, int], second: Mapping[str, int]) -> Mapping[str, int]:
    """Return the sum of two mappings of counts."""
    if not first or not second:
        return first or second
    return Counter(first) + Counter(second)


def build_edits(
    results: Sequence[DecisionOutcome], vocabulary: TokenCounter
) -> tuple[dict[TextSlot, str], list[Passage]]:
    """Return the new text of every changed string, and the outcome of every passage."""
    edits: dict[TextSlot, str] = {}
    passages: list[Passage] = []
    removals_by_path = _find_changed_strings(results)
    if not removals_by_path:
        return edits, [_build_passage(decision, outcome) for decision, outcome in results]
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
    changes: dict[SlotPath, list[TagRemoval]] = {}
    for decision, outcome in results:
        slot = decision.passage.slot
        if changes.get(slot.path):
            continue
        removals: list[TagRemoval] = []
        if decision.passage.role == "user" and "<clara:" in slot.text:
            removals = _find_tag_removals(slot.text)
        if removals or (outcome and outcome.text is not None):
            changes[slot.path] = removals
    return changes


def _select_changed_slot(slot: TextSlot, changes: Mapping[SlotPath, object]) -> TextSlot | None:
    return slot if slot.path in changes else None


def collect_contents(results: Sequence[DecisionOutcome], passages: Sequence[Passage]) -> dict[int, PassageTexts]:
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
