"""One request in figures: the columns of the ledger, and the passages and labels that it keeps as JSON text.

It does no sums and reads no bill; `accounting` does.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, cast

import orjson

from .usage import as_mapping

# ok: the provider answered. cancelled: the client left while it did. served: no model was asked, we answered or the
# provider only counted.
# rejected: refused here. upstream_error: the provider refused or broke off, or its answer is none or tells of an error,
# whatever its status. failed: it was not reached, or we broke.
Outcome = Literal["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
COUNT_TOKENS_PROTOCOL = (
    "count_tokens"  # the protocol of requests that the provider counts, for nothing: they send no model a token
)
ADDED_KIND = "added"  # the kind of what the proxy itself sends; only that grows
# Only these used tokens to some end; the others count as requests and failures, never as savings.
COUNTED_OUTCOMES: tuple[Outcome, ...] = ("ok", "cancelled", "served")


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
    `would_send`: what observing would have sent. `skipped`, `passages` and `tags` are JSON text, as `labels_json` and
    `passages_json` write it. Prices are US dollars per token as they were when the row was written.
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


def encode_passages(passages: Iterable[Passage]) -> str:
    """Write passages down for `Row.passages`; characters that are not text (lone surrogates) become question marks."""
    return _encode_json([passage._asdict() for passage in passages])


def encode_labels(labels: Mapping[str, str | int | float]) -> str:
    """Write down for `Row.skipped`, `Row.tags` or `Row.agreement` what is said by name."""
    return _encode_json(dict(labels))


def parse_json(text: str) -> object:
    """Read JSON text; None where it is none."""
    try:
        return cast("object", orjson.loads(text))
    except ValueError:
        return None


def parse_passages(text: str) -> list[Passage] | None:
    """Read what `passages_json` wrote; None for anything else."""
    listed = parse_json(text)
    if not isinstance(listed, list):
        return None
    read = [_parse_passage(as_mapping(item)) for item in cast("list[object]", listed)]
    whole = [passage for passage in read if passage is not None]
    return whole if len(whole) == len(read) else None


def _parse_passage(said: Mapping[str, object]) -> Passage | None:
    match dict(said):
        case {"kind": str(kind), "tool": str(tool), "before": int(before), "after": int(after), "reason": str(reason)}:
            return Passage(kind, tool, before, after, reason) if min(before, after) >= 0 else None
        case _:
            return None


def _encode_json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return orjson.dumps(_replace_surrogates(value)).decode()


def _replace_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {_replace_surrogates(name): _replace_surrogates(item) for name, item in items}
    return [_replace_surrogates(item) for item in cast("list[object]", value)] if isinstance(value, list) else value
