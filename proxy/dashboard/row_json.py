"""Serializes ledger rows for the dashboard and `clara-proxy show`. Pure; holds no text of a conversation."""

from typing import Any, cast

import orjson

from ..stores.ledger_row import Row
from ..stores.reply_bill import parse_parts
from . import recent_requests, waterfall

Json = dict[str, Any]
SUMMARY_COLUMNS = (
    *("id", "at", "model", "mode_used", "protocol", "streamed", "status", "outcome", "project", "shadow_of"),
    *("tokens_received", "tokens_sent", "saved_tokens", "would_send", "billed_input", "cost", "saved_cost"),
    *("latency_ms", "overhead_ms"),
)


def serialize_summary(row: Row) -> Json:
    """Return a row for the request list: `SUMMARY_COLUMNS` and the fail-open reasons."""
    values = row._asdict()
    skip_reasons = recent_requests.load_skip_reasons(row)
    return {
        **{name: values[name] for name in SUMMARY_COLUMNS},
        "failed_open": sorted(recent_requests.FAIL_OPEN_REASONS & skip_reasons.keys()),
    }


def serialize_row(row: Row) -> Json:
    """Return all columns of a row, the JSON columns parsed, and its `steps` from received to billed."""
    parsed = {"skipped": recent_requests.load_skip_reasons(row), "passages": recent_requests.load_passages(row)}
    parsed |= {name: _parse_object(getattr(row, name)) for name in ("tags", "agreement", "unknown_usage")}
    parsed["bill_parts"] = [{"name": part.name, "cost": part.cost} for part in parse_parts(row.bill_parts) or []]
    return {**row._asdict(), **parsed, "steps": waterfall.compute_row_steps(row)}


def _parse_object(text: str) -> Json:
    try:
        value: object = orjson.loads(text)
    except ValueError:
        return {}
    return cast("Json", value) if isinstance(value, dict) else {}
