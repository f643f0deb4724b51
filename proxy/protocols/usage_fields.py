"""The billing fields of replies: the usage in the events of a stream and in several rounds, and facts beside it.

A usage stays in the provider's format here; `stores/usage` and `stores/reply_bill` read it.
"""

from collections.abc import Sequence
from typing import Any

from ..stores.reply_bill import ReplyFacts
from ..stores.usage import parse_count
from .json_types import Json, is_array, is_object, parse_object

_FACT_FIELDS = frozenset({"context_management", "diagnostics", "prompt_cache_diagnostics", "service_tier", "output"})


def sum_usages(usages: Sequence[Json]) -> Json | None:
    """Return the sum of usages, field by field. Lists are joined; for a field without numbers the last value counts."""
    total: Json = {}
    for usage in usages:
        for name, value in usage.items():
            total[name] = _add_values(total.get(name), value)
    return total or None


def merge_usages(first: Json, second: Json) -> Json:
    """Return the usage of a stream after one more event. Counts are cumulative, so the highest value is the last.

    Some servers repeat a usage with zeros or nulls in the events after the one that holds it.
    """
    merged = dict(first)
    for name, value in second.items():
        previous = merged.get(name)
        if value is None:
            continue
        if is_object(previous) and is_object(value):
            merged[name] = merge_usages(previous, value)
        elif _is_number(previous) and _is_number(value):
            merged[name] = max(previous, value)
        elif not (is_array(value) and not value and previous):
            merged[name] = value
    return merged


def read_facts(event: Json, facts: ReplyFacts) -> ReplyFacts:
    """Return the facts of a reply after one more event of a stream, or of a whole reply."""
    for holder in (event.get("message"), event.get("response"), event):
        if not is_object(holder) or _FACT_FIELDS.isdisjoint(holder):
            continue
        cleared, uses = _read_cleared(holder.get("context_management"))
        reason = _read_miss_reason(holder)
        tier = holder.get("service_tier")
        facts = ReplyFacts(
            service_tier=tier if isinstance(tier, str) else facts.service_tier,
            cleared_tokens=max(facts.cleared_tokens, cleared),
            cleared_tool_uses=facts.cleared_tool_uses if uses is None else uses,
            web_searches=facts.web_searches + _count_searches(holder.get("output")),
            cache_miss_reason=reason or facts.cache_miss_reason,
        )
    return facts


def read_body_facts(body: bytes) -> ReplyFacts:
    """Return the facts of a whole reply, streamed or not."""
    facts = ReplyFacts()
    if (message := parse_object(body)) is not None:
        return read_facts(message, facts)
    for line in body.splitlines():
        if line.startswith(b"data:") and b'"usage"' in line:
            facts = read_facts(parse_object(line[5:]) or {}, facts)
    return facts


def _read_cleared(management: object) -> tuple[int, int | None]:
    """Return the tokens that Anthropic removed from the prompt, and how many tool results they belong to."""
    edits = management.get("applied_edits") if is_object(management) else None
    tokens, uses = 0, None
    for edit in edits if is_array(edits) else ():
        if is_object(edit):
            tokens += parse_count(edit.get("cleared_input_tokens")) or 0
            cleared = parse_count(edit.get("cleared_tool_uses"))
            uses = uses if cleared is None else (uses or 0) + cleared
    return tokens, uses


def _read_miss_reason(holder: Json) -> str:
    """Return why the provider's cache did not hold the prompt (Anthropic, and OpenAI's Responses API)."""
    for name in ("diagnostics", "prompt_cache_diagnostics"):
        diagnostics = holder.get(name)
        reason: Any = diagnostics if is_object(diagnostics) else None
        for key in ("cache_miss_reason", "cache_miss", "reason", "type"):
            if is_object(reason) and key in reason:
                reason = reason[key]
        if isinstance(reason, str) and "hit" not in reason:
            return reason[:60]
    return ""


def _count_searches(output: object) -> int:
    """Return the number of web searches among the items of a response: OpenAI's usage does not count them."""
    items = [item for item in output if is_object(item)] if is_array(output) else []
    actions = [item.get("action") for item in items if item.get("type") == "web_search_call"]
    return sum(not is_object(action) or action.get("type") in (None, "search") for action in actions)


def _add_values(first: object, second: object) -> object:
    if is_object(second):
        return sum_usages([first if is_object(first) else {}, second]) or {}
    if is_array(first) and is_array(second):
        return [*first, *second]
    if isinstance(first, bool) or isinstance(second, bool):
        return second
    if isinstance(first, int | float) and isinstance(second, int | float):
        return first + second
    return first if second is None else second


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
