"""One request in figures: what came, what went up, what the provider billed for it, what that saved. Pure.

It neither counts tokens nor writes anything down. The invariant: `check(row)` finds nothing to object to in a row that
`settle` made. What a provider does not say stays None. What was saved in money is what the request would have cost
without us (`counterfactual`) less what it cost; a saving may be negative.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isclose
from typing import Literal, NamedTuple, cast

import orjson

from ...config.prices import Price
from .usage import Usage, cost, count, hour_share, mapping

__all__ = [
    "ADDED",
    "COUNTED",
    "COUNTING",
    "Outcome",
    "Passage",
    "Row",
    "Usage",
    "check",
    "passages_json",
    "settle",
    "shadowed",
    "skipped_json",
    "tags_json",
]

# ok: the provider answered. cancelled: the client left while it did. served: no model was asked, we answered or the
# provider only counted.
# rejected: refused here. upstream_error: the provider refused or broke off, or its answer is none or tells of an error,
# whatever its status. failed: it was not reached, or we broke.
Outcome = Literal["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
COUNTING = "count_tokens"  # the protocol of requests that the provider counts, for nothing: they send no model a token
ADDED = "added"  # the kind of what the proxy itself sends; only that grows
# Only these used tokens to some end; the others count as requests and failures, never as savings.
COUNTED: tuple[Outcome, ...] = ("ok", "cancelled", "served")


class Passage(NamedTuple):
    """One passage that was looked at, in tokens; `reason` says why it stayed as it was, and is empty if it did not."""

    kind: str
    tool: str
    before: int
    after: int
    reason: str = ""


class Row(NamedTuple):
    """One request in the ledger; the fields are its columns, in order. `at` is Unix time in seconds.

    Build it with what is known, then `settle` it. `tokens_estimated`: the vocabulary is a stand-in for the model's.
    `would_send`: what observing would have sent. `skipped`, `passages` and `tags` are JSON text, as `skipped_json`,
    `passages_json` and `tags_json` write it. Prices are US dollars per token as they were when the row was written.
    `key` names the proxy's own key that asked. A row with `shadow_of` is a request that the proxy sent on its own, to
    compare its answer with that other row's; `agreement` is what the comparison found, as JSON text. `without_*` is
    what the provider would have billed without us, `cost_without` its price, `saved_cost` that less `cost`.
    """

    id: str
    at: float
    protocol: str = ""
    path: str = ""
    model: str = ""
    mode_asked: str = ""
    mode_used: str = ""
    engine: str = ""
    streamed: bool = False
    status: int = 0
    outcome: Outcome = "ok"
    tokens_received: int = 0
    tokens_sent: int = 0
    tokens_estimated: bool = False
    would_send: int | None = None
    billed_input: int | None = None
    billed_output: int | None = None
    billed_reasoning: int | None = None
    billed_cache_read: int | None = None
    billed_cache_write: int | None = None
    compressor_seconds: float = 0.0
    compressor_tokens: int = 0
    gpu_seconds: float = 0.0
    fetched_back_tokens: int = 0
    price_input: float | None = None
    price_output: float | None = None
    price_cache_read: float | None = None
    price_cache_write: float | None = None
    cost: float | None = None
    saved_tokens: int = 0
    saved_cost: float | None = None
    latency_ms: float = 0.0
    overhead_ms: float = 0.0
    skipped: str = "{}"
    passages: str = "[]"
    session: str = ""
    user: str = ""
    project: str = ""
    tags: str = "{}"
    key: str = ""
    shadow_of: str = ""
    agreement: str = "{}"
    billed_cache_write_hour: int | None = None
    price_cache_write_hour: float | None = None
    without_input: int | None = None
    without_output: int | None = None
    without_cache_read: int | None = None
    without_cache_write: int | None = None
    cost_without: float | None = None


def settle(
    row: Row, usage: Usage | None, price: Price | None, without: Usage | None = None, *, longest: int | None = None
) -> Row:
    """Fill in what follows from the bill: billed tokens, prices, cost, savings. Without a bill these stay None.

    `without` is what would have been billed without us; a request that was sent as it came needs none. `longest` is the
    longest prompt in the bill, if there were several.
    """
    usage = usage or Usage()
    price = price or Price()
    rates = price.at(usage.input or 0 if longest is None else longest)
    here = row.outcome in {"served", "rejected"}
    paid = 0.0 if here else cost(usage, rates)
    without, cost_without = _without(row, usage, without, price, paid)
    return row._replace(
        billed_input=usage.input,
        billed_output=usage.output,
        billed_reasoning=usage.reasoning,
        billed_cache_read=usage.cache_read,
        billed_cache_write=usage.cache_write,
        billed_cache_write_hour=usage.cache_write_hour,
        price_input=rates.input,
        price_output=rates.output,
        price_cache_read=rates.cache_read,
        price_cache_write=rates.cache_write,
        price_cache_write_hour=rates.cache_write_hour,
        cost=paid,
        saved_tokens=row.tokens_received - row.tokens_sent,
        without_input=without.input,
        without_output=without.output,
        without_cache_read=without.cache_read,
        without_cache_write=without.cache_write,
        cost_without=cost_without,
        saved_cost=_less(cost_without, paid),
    )


def shadowed(row: Row, of: str, agreement: Mapping[str, float]) -> Row:
    """Return the row as one of a request of our own, asked to compare its answer with that of row `of`: all a loss."""
    return row._replace(
        shadow_of=of,
        agreement=_json(dict(agreement)),
        without_input=0,
        without_output=0,
        without_cache_read=None,
        without_cache_write=None,
        cost_without=0.0,
        saved_cost=_less(0.0, row.cost),
    )


def _without(
    row: Row, usage: Usage, without: Usage | None, price: Price, paid: float | None
) -> tuple[Usage, float | None]:
    """Return what would have been billed without us, and its price."""
    if row.shadow_of:  # without us nobody would have asked
        return Usage(0, 0), 0.0
    if row.outcome not in COUNTED or row.outcome == "served":
        return Usage(), None
    if without is None:
        return (Usage(), None) if row.tokens_received != row.tokens_sent else (usage, paid)
    if usage.cache_write_hour or without.cache_write_hour:
        without = replace(without, cache_write_hour=hour_share(usage, without.cache_write or 0))
    return without, cost(without, price.at(without.input or 0))


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def passages_json(passages: Iterable[Passage]) -> str:
    """Write passages down for `Row.passages`; characters that are not text (lone surrogates) become question marks."""
    return _json([passage._asdict() for passage in passages])


def skipped_json(reasons: Mapping[str, int]) -> str:
    """Write down for `Row.skipped` how often something was left alone, by reason."""
    return _json(dict(reasons))


def tags_json(tags: Mapping[str, str]) -> str:
    """Write tags down for `Row.tags`."""
    return _json(dict(tags))


def check(row: Row) -> list[str]:
    """Name everything in the row that does not add up; an empty list when all does."""
    return [complaint for complaint, wrong in (*_counts(row), *_money(row), *_texts(row)) if wrong]


def _counts(row: Row) -> Iterable[tuple[str, bool]]:
    never_negative = {
        name: value
        for name, value in row._asdict().items()
        if isinstance(value, int | float) and name not in {"saved_tokens", "saved_cost"}
    }
    for name, value in never_negative.items():
        yield f"{name} is negative", value < 0
    yield "saved_tokens is not received - sent", row.saved_tokens != row.tokens_received - row.tokens_sent
    unchanged = row.mode_used in {"off", "observe"} and row.outcome != "served"
    yield f"mode {row.mode_used} sent something else than it received", unchanged and row.saved_tokens != 0
    cached = (row.billed_cache_read or 0) + (row.billed_cache_write or 0)
    yield "more cached than billed input", cached > (row.billed_input or 0)
    cached = (row.without_cache_read or 0) + (row.without_cache_write or 0)
    yield "more cached than input without us", cached > (row.without_input or 0)
    yield "more reasoning than billed output", (row.billed_reasoning or 0) > (row.billed_output or 0)
    yield "overhead_ms exceeds latency_ms", row.overhead_ms > row.latency_ms


def _money(row: Row) -> Iterable[tuple[str, bool]]:
    usage, rates = _bill(row)
    here = row.outcome in {"served", "rejected"}
    yield "cost is not what tokens and prices make", not _close(row.cost, 0.0 if here else cost(usage, rates))
    yield "saved_cost is not cost_without - cost", not _close(row.saved_cost, _less(row.cost_without, row.cost))
    yield "cost_without is not what tokens and prices make", not _priced(row, usage, rates)
    came_to_nothing = row.outcome not in COUNTED and not row.shadow_of
    yield "money was saved by a request that came to nothing", came_to_nothing and row.saved_cost is not None
    unchanged = row.mode_used in {"off", "observe"} and not row.shadow_of
    yield f"mode {row.mode_used} saved money", unchanged and not _close(row.saved_cost or 0.0, 0.0)


def _priced(row: Row, usage: Usage, rates: Price) -> bool:
    """Say whether the tokens without us make their cost; of longer prompts the rates may be dearer than the row's."""
    if row.without_input is None:  # nothing was known, or it was estimated before these figures were kept
        return True
    write = row.without_cache_write
    without = Usage(row.without_input, row.without_output, None, row.without_cache_read, write)
    expected = cost(replace(without, cache_write_hour=hour_share(usage, write or 0)), rates)
    if _close(row.cost_without, expected):
        return True
    longer = row.without_input - (row.billed_input or 0)
    return row.cost_without is None or expected is None or longer * (row.cost_without - expected) > 0


def _texts(row: Row) -> Iterable[tuple[str, bool]]:
    skipped, tags, passages = _load(row.skipped), _load(row.tags), _passages(row.passages)
    counts = all((count(times) or 0) > 0 for times in mapping(skipped).values())
    labels = all(isinstance(label, str) for label in mapping(tags).values())
    yield "skipped is not a JSON object of counts", not (isinstance(skipped, dict) and counts)
    yield "tags is not a JSON object of texts", not (isinstance(tags, dict) and labels)
    yield "passages is not a JSON list of passages", passages is None
    passages = passages or []
    yield "a passage grew", any(passage.after > passage.before for passage in passages if passage.kind != ADDED)
    yield "a passage that was left alone changed", any(item.reason and item.after != item.before for item in passages)
    after = row.would_send if row.would_send is not None else row.tokens_sent
    shorter = sum(passage.before - passage.after for passage in passages)
    yield "passages do not add up to what was saved", bool(passages) and shorter != row.tokens_received - after


def _bill(row: Row) -> tuple[Usage, Price]:
    usage = Usage(
        row.billed_input,
        row.billed_output,
        row.billed_reasoning,
        row.billed_cache_read,
        row.billed_cache_write,
        row.billed_cache_write_hour,
    )
    rates = Price(row.price_input, row.price_output, row.price_cache_read, row.price_cache_write)
    return usage, replace(rates, cache_write_hour=row.price_cache_write_hour)


def _json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return orjson.dumps(_cleaned(value)).decode()


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {_cleaned(name): _cleaned(item) for name, item in items}
    return [_cleaned(item) for item in cast("list[object]", value)] if isinstance(value, list) else value


def _load(text: str) -> object:
    try:
        return cast("object", orjson.loads(text))
    except ValueError:
        return None


def _passages(text: str) -> list[Passage] | None:
    listed = _load(text)
    if not isinstance(listed, list):
        return None
    read = [_passage(mapping(item)) for item in cast("list[object]", listed)]
    whole = [passage for passage in read if passage is not None]
    return whole if len(whole) == len(read) else None


def _passage(said: Mapping[str, object]) -> Passage | None:
    match dict(said):
        case {"kind": str(kind), "tool": str(tool), "before": int(before), "after": int(after), "reason": str(reason)}:
            return Passage(kind, tool, before, after, reason) if min(before, after) >= 0 else None
        case _:
            return None


def _close(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
