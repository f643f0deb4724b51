"""One request in figures: what came, what went up, what the provider billed for it, what that saved. Pure.

It neither counts tokens nor writes anything down. The invariant: `check(row)` finds nothing to object to in a row that
`settle` made. What a provider does not say stays None; a saving may be negative.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Literal, NamedTuple, cast

import orjson

from ...config.prices import Price

# ok: the provider answered. cancelled: the client left while it did. served: no model was asked, we answered or the
# provider only counted.
# rejected: refused here. upstream_error: the provider refused or broke off. failed: it was not reached, or we broke.
Outcome = Literal["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
COUNTING = "count_tokens"  # the protocol of requests that the provider counts, for nothing: they send no model a token
ADDED = "added"  # the kind of what the proxy itself sends; only that grows
# Only these used tokens to some end; the others count as requests and failures, never as savings.
COUNTED: tuple[Outcome, ...] = ("ok", "cancelled", "served")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider bills them: `input` with cached ones in it, `output` with reasoning in it."""

    input: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None


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
    compare its answer with that other row's; `agreement` is what the comparison found, as JSON text.
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


def read_usage(*parts: object) -> Usage | None:
    """Read a `usage` object of OpenAI's (either API) or of Anthropic's; None when it says nothing that makes sense.

    Several parts are one usage told in instalments, as Anthropic streams it: the last word on each field holds.
    """
    said: dict[str, object] = {}
    for part in parts:
        said |= {key: value for key, value in _mapping(part).items() if value is not None}
    inside = _mapping(said.get("prompt_tokens_details") or said.get("input_tokens_details"))
    beside = _mapping(said.get("completion_tokens_details") or said.get("output_tokens_details"))
    cache_read = _first(inside.get("cached_tokens"), said, "cache_read_input_tokens", "prompt_cache_hit_tokens")
    cache_write = _first(inside.get("cache_write_tokens"), said, "cache_creation_input_tokens")
    prompt = _first(None, said, "prompt_tokens", "input_tokens")
    if prompt is not None and "prompt_tokens" not in said and not inside:
        prompt += (cache_read or 0) + (cache_write or 0)  # Anthropic counts them beside `input_tokens`, not in it
    if (cache_read or 0) + (cache_write or 0) > (prompt or 0):
        cache_read = cache_write = None
    reasoning = _count(beside.get("reasoning_tokens"))
    output = _output(said, prompt, reasoning)
    if (reasoning or 0) > (output or 0):
        reasoning = None
    usage = Usage(prompt, output, reasoning, cache_read, cache_write)
    return None if prompt is None and output is None else usage


def cost(usage: Usage, rates: Price) -> float | None:
    """Price a usage in dollars; None when a count or a rate that is needed is not known.

    `rates` are the ones for a prompt of this length (`Price.at`). Prompt tokens that the provider does not call cached
    cost the full rate.
    """
    if usage.input is None or usage.output is None:
        return None
    cache_read, cache_write = usage.cache_read or 0, usage.cache_write or 0
    terms = (
        (usage.input - cache_read - cache_write, rates.input),
        (cache_read, rates.cache_read),
        (cache_write, rates.cache_write),
        (usage.output, rates.output),
    )
    return _sum(terms)


def saved_cost(saved: int, usage: Usage, rates: Price) -> float | None:
    """Price `saved` tokens in dollars, at what the provider's cache rules would have charged for them at the least.

    Where the bill says how much of the prompt was cached, the saved tokens are taken to have been cached in the same
    proportion: that share at the rate for cache reads, the rest at the plain rate (never at the dearer one for cache
    writes). Where it does not, all saved tokens cost what a cache read costs, if there is such a rate. Tokens that we
    added (`saved` below nought) then cost the plain rate. None without a bill or without a rate that is needed.
    """
    if usage.input is None:
        return None
    if usage.cache_read is not None:
        cached = saved * usage.cache_read / usage.input if usage.input else 0.0
    else:
        cached = float(saved) if saved > 0 and rates.cache_read is not None else 0.0
    return _sum(((saved - cached, rates.input), (cached, rates.cache_read)))


def settle(row: Row, usage: Usage | None, price: Price | None) -> Row:
    """Fill in what follows from the bill: billed tokens, prices, cost, savings. Without a bill these stay None."""
    saved = row.tokens_received - row.tokens_sent
    if usage is None:
        usage = Usage()
    rates = price.at(usage.input or 0) if price is not None else Price()
    here = row.outcome in {"served", "rejected"}
    return row._replace(
        billed_input=usage.input,
        billed_output=usage.output,
        billed_reasoning=usage.reasoning,
        billed_cache_read=usage.cache_read,
        billed_cache_write=usage.cache_write,
        price_input=rates.input,
        price_output=rates.output,
        price_cache_read=rates.cache_read,
        price_cache_write=rates.cache_write,
        cost=0.0 if here else cost(usage, rates),
        saved_tokens=saved,
        saved_cost=saved_cost(saved, usage, rates) if row.outcome in COUNTED else None,
    )


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
    yield "more reasoning than billed output", (row.billed_reasoning or 0) > (row.billed_output or 0)
    yield "overhead_ms exceeds latency_ms", row.overhead_ms > row.latency_ms


def _money(row: Row) -> Iterable[tuple[str, bool]]:
    settled = settle(row, *_bill(row))
    yield "cost is not what tokens and prices make", not _close(row.cost, settled.cost)
    yield "saved_cost is not what tokens and prices make", not _close(row.saved_cost, settled.saved_cost)


def _texts(row: Row) -> Iterable[tuple[str, bool]]:
    skipped, tags, passages = _load(row.skipped), _load(row.tags), _passages(row.passages)
    counts = all((_count(count) or 0) > 0 for count in _mapping(skipped).values())
    labels = all(isinstance(label, str) for label in _mapping(tags).values())
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
        row.billed_input, row.billed_output, row.billed_reasoning, row.billed_cache_read, row.billed_cache_write
    )
    return usage, Price(row.price_input, row.price_output, row.price_cache_read, row.price_cache_write)


def _output(said: Mapping[str, object], prompt: int | None, reasoning: int | None) -> int | None:
    output = _first(None, said, "completion_tokens", "output_tokens")
    total = _count(said.get("total_tokens"))
    rest = total - prompt if total is not None and prompt is not None else None
    # Embeddings have no output to tell; some providers count reasoning beside their output, which the total gives away.
    if rest is not None and rest >= 0 and (output is None or (reasoning and rest == output + reasoning)):
        return rest
    return output


def _sum(terms: Iterable[tuple[float, float | None]]) -> float | None:
    total = 0.0
    for tokens, rate in terms:
        if not tokens:
            continue
        if rate is None:
            return None
        total += tokens * rate
    return total


def _first(first: object, said: Mapping[str, object], *names: str) -> int | None:
    counts = (_count(value) for value in (first, *(said.get(name) for name in names)))
    return next((count for count in counts if count is not None), None)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 2**53 and value == int(value) else None


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


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
    read = [_passage(_mapping(item)) for item in cast("list[object]", listed)]
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
