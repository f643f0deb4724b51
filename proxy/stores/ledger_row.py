"""One request as a row of the ledger: its columns, and the JSON texts in three of them. Pure.

`Row` is the only list of the columns. The tables, the statements, the export and the documentation are derived from
its fields, their types, their defaults and their descriptions; `ledger_columns` defines what they add up to.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, cast

import orjson

from .usage import as_mapping

# ok: the provider answered. cancelled: the client disconnected during the answer.
# served: the proxy answered without asking a model, or the provider only counted tokens.
# rejected: the proxy refused the request. failed: the upstream was not reached, or the proxy itself failed.
# upstream_error: the provider refused, broke off, or answered with an error, whatever the status.
Outcome = Literal["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
# ours: the proxy changed what it had forwarded before. theirs: the client changed it, or the provider dropped it.
# expired: the entry was older than its lifetime.
CacheMiss = Literal["", "ours", "theirs", "expired", "unknown"]
COUNT_TOKENS_PROTOCOL = "count_tokens"  # the provider counts tokens free of charge; no model receives them
GATEWAY_PROTOCOL = "compress"  # another gateway forwards the compressed request and pays for it
ADDED_KIND = "added"  # the kind of text that the proxy itself adds; only such a passage may grow
# Only these outcomes count as used tokens and savings; the others count as requests and failures.
COUNTED_OUTCOMES: tuple[Outcome, ...] = ("ok", "cancelled", "served")
_NUL_PATTERN = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # an escaped NUL in JSON, not behind an escaped backslash
_MIN_MERGED_CHARS = 1000  # of the passages of a row that are added up before the database does


class Passage(NamedTuple):
    """The tokens of one passage before and after compression; `reason` is the skip reason of an unchanged passage."""

    kind: str
    tool: str
    before: int
    after: int
    reason: str = ""


class Row(NamedTuple):
    """One request in the ledger; the fields are its columns, in order.

    Complete a row with `accounting.apply_bill` before it is written. None means "unknown". Prices are US dollars per
    token at the time of the request. `encode_labels` and `encode_passages` write the JSON texts.
    """

    id: Annotated[str, "Unique id of the request."]
    at: Annotated[float, "Arrival of the request, as Unix time in seconds."]
    protocol: Annotated[str, "API of the request, such as chat, responses or messages."] = ""
    path: Annotated[str, "Path of the endpoint."] = ""
    model: Annotated[str, "Model named in the request."] = ""
    mode_asked: Annotated[str, "Requested mode."] = ""
    mode_used: Annotated[str, "Mode that was applied."] = ""
    engine: Annotated[
        str, "Engine that was applied: extract, clara, pruner or none; in mode cache: exact or semantic."
    ] = ""
    streamed: Annotated[bool, "True if the client asked for a stream."] = False
    status: Annotated[int, "HTTP status of the answer."] = 0
    outcome: Annotated[Outcome, "ok, cancelled, served, rejected, upstream_error or failed."] = "ok"
    tokens_received: Annotated[int, "Context tokens that the client sent."] = 0
    tokens_sent: Annotated[int, "Context tokens that were forwarded."] = 0
    tokens_estimated: Annotated[bool, "True if a substitute vocabulary counted the tokens."] = False
    would_send: Annotated[int | None, "In mode observe: tokens that compression would have forwarded."] = None
    billed_input: Annotated[int | None, "Prompt tokens billed, cached ones included."] = None
    billed_output: Annotated[int | None, "Output tokens billed, reasoning included."] = None
    billed_reasoning: Annotated[int | None, "Reasoning tokens within the output."] = None
    billed_cache_read: Annotated[int | None, "Prompt tokens read from the provider's cache."] = None
    billed_cache_write: Annotated[int | None, "Prompt tokens written to the provider's cache."] = None
    compressor_seconds: Annotated[float, "Seconds spent on compression."] = 0.0
    compressor_tokens: Annotated[int, "Tokens that compression took."] = 0
    gpu_seconds: Annotated[float, "Seconds of an accelerator spent on compression."] = 0.0
    fetched_back_tokens: Annotated[int, "Tokens of original text fetched back."] = 0
    price_input: Annotated[float | None, "Price of an uncached prompt token."] = None
    price_output: Annotated[float | None, "Price of an output token."] = None
    price_cache_read: Annotated[float | None, "Price of a token read from the cache."] = None
    price_cache_write: Annotated[float | None, "Price of a token written to the cache."] = None
    cost: Annotated[float | None, "Cost of the request in dollars."] = None
    saved_tokens: Annotated[int, "tokens_received minus tokens_sent; may be negative."] = 0
    saved_cost: Annotated[float | None, "cost_without minus cost; may be negative."] = None
    latency_ms: Annotated[float, "Milliseconds from arrival to the end of the answer."] = 0.0
    overhead_ms: Annotated[float, "Milliseconds in the proxy before the request was forwarded."] = 0.0
    skipped: Annotated[str, "JSON object: number of unchanged passages by skip reason."] = "{}"
    passages: Annotated[
        str, "JSON list: kind, tool, tokens before and after, and skip reason of each passage that is not too short."
    ] = "[]"
    session: Annotated[str, "Label from the header x-clara-session or its setting."] = ""
    user: Annotated[str, "Label from the header x-clara-user or its setting."] = ""
    project: Annotated[str, "Label from the header x-clara-project, from the key, or from the setting."] = ""
    tags: Annotated[str, "JSON object: labels from the headers x-clara-tag-<name>."] = "{}"
    key: Annotated[str, "Name of the proxy key of the client."] = ""
    shadow_of: Annotated[str, "In a shadow check: id of the request whose answer it compares."] = ""
    agreement: Annotated[str, "JSON object: results of the shadow check."] = "{}"
    billed_cache_write_hour: Annotated[int | None, "Part of billed_cache_write that is kept for an hour."] = None
    price_cache_write_hour: Annotated[float | None, "Price of a cache write that is kept for an hour."] = None
    without_input: Annotated[int | None, "Prompt tokens without the proxy (the baseline)."] = None
    without_output: Annotated[int | None, "Output tokens without the proxy."] = None
    without_cache_read: Annotated[int | None, "Cache reads without the proxy."] = None
    without_cache_write: Annotated[int | None, "Cache writes without the proxy."] = None
    cost_without: Annotated[float | None, "Cost without the proxy in dollars."] = None
    billed_cache_write_12h: Annotated[int | None, "Part of billed_cache_write that is kept for 12 hours."] = None
    price_cache_write_12h: Annotated[float | None, "Price of a cache write that is kept for 12 hours."] = None
    service_tier: Annotated[str, "Service tier and region that the provider billed, such as priority or flex-eu."] = ""
    bill_parts: Annotated[
        str,
        "JSON list: parts of the bill with a price of their own, such as a compaction by the provider or web searches."
        " The billed tokens include theirs.",
    ] = "[]"
    unknown_usage: Annotated[str, "JSON object: fields of the usage that the proxy does not know."] = "{}"
    cleared_tokens: Annotated[int, "Tokens that the provider cleared from the prompt (context editing)."] = 0
    cache_miss: Annotated[
        CacheMiss,
        "Why the provider's cache held less than expected: ours, theirs, expired or unknown; empty if it did not.",
    ] = ""
    expand_tokens: Annotated[int, "Tokens for the way back: the expand tool, its calls and further rounds."] = 0
    expand_cost: Annotated[float | None, "Cost of the way back in dollars, within cost."] = None
    price_table: Annotated[str, "Name and version of the table that the prices are from."] = ""


def encode_passages(passages: Iterable[Passage]) -> str:
    """Return the JSON text of `Row.passages`; lone surrogates become question marks."""
    # A long conversation has hundreds of passages; `_asdict` takes three times as long.
    items = [
        {"kind": kind, "tool": tool, "before": before, "after": after, "reason": reason}
        for kind, tool, before, after, reason in passages
    ]
    return _encode_json(items) if items else "[]"


def encode_labels(labels: Mapping[str, str | int | float]) -> str:
    """Return the JSON text of `Row.skipped`, `Row.tags` or `Row.agreement`."""
    return _encode_json(dict(labels)) if labels else "{}"


def parse_json(text: str) -> object:
    """Parse JSON text; return None if it is invalid."""
    try:
        return cast("object", orjson.loads(text))
    except ValueError:
        return None


def parse_passages(text: str) -> list[Passage] | None:
    """Parse the text that `encode_passages` wrote; return None for anything else."""
    items = parse_json(text)
    if not isinstance(items, list):
        return None
    passages = [_parse_passage(as_mapping(item)) for item in cast("list[object]", items)]
    valid = [passage for passage in passages if passage is not None]
    return valid if len(valid) == len(passages) else None


def merge_passages(text: str) -> str:
    """Return the text of `Row.passages` with the passages of one tool and kind added up, for totals.

    A database takes several times as long for it. A short text, or one in another form, is returned as it is.
    """
    items = parse_json(text) if len(text) >= _MIN_MERGED_CHARS else None
    if not isinstance(items, list):
        return text
    sums: dict[tuple[str, str], list[int]] = {}
    try:
        for item in cast("list[dict[str, Any]]", items):
            total = sums.setdefault((item["kind"], item["tool"]), [0, 0])
            total[0] += item["before"]
            total[1] += item["after"]
    except (TypeError, KeyError):
        return text
    return encode_passages(Passage(kind, tool, before, after) for (kind, tool), (before, after) in sums.items())


def _parse_passage(fields: Mapping[str, object]) -> Passage | None:
    match dict(fields):
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


def sanitize_row(row: Row) -> Row:
    """Return the row in a form that every database accepts: valid text without NULs, and valid JSON."""
    values: dict[str, object] = row._asdict()
    values |= {name: _sanitize_text(value) for name, value in values.items() if isinstance(value, str)}
    for name, kind in (("skipped", dict), ("passages", list), ("tags", dict), ("agreement", dict)):
        values[name] = _sanitize_json(str(values[name]), kind)
    return Row._make(values.values())


def _sanitize_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _sanitize_json(text: str, kind: type) -> str:
    text = _NUL_PATTERN.sub(r"\1\\ufffd", text)
    try:
        return text if isinstance(orjson.loads(text), kind) else orjson.dumps(kind()).decode()
    except ValueError:
        return orjson.dumps(kind()).decode()
