"""Rows of the ledger as the dashboard's pages get them: JSON in plain numbers. Pure.

No text of a conversation is in it: labels, names and figures only.
"""

from typing import Any, cast

import orjson

from ..stores.ledger_row import Row
from . import recent_requests, waterfall

Json = dict[str, Any]
SUMMARY_COLUMNS = (  # what the list shows of a row
    *("id", "at", "model", "mode_used", "protocol", "streamed", "status", "outcome", "project", "shadow_of"),
    *(
        "tokens_received",
        "tokens_sent",
        "saved_tokens",
        "would_send",
        "billed_input",
        "cost",
        "saved_cost",
        "latency_ms",
    ),
    "overhead_ms",
)


def serialize_summary(row: Row) -> Json:
    """Return a row for the list."""
    values = row._asdict()
    skipped = recent_requests.load_skip_reasons(row)
    return {
        **{name: values[name] for name in SUMMARY_COLUMNS},
        "shortened": sum(1 for passage in recent_requests.load_passages(row) if passage["after"] < passage["before"]),
        "failed_open": sorted(recent_requests.FAIL_OPEN_REASONS & skipped.keys()),
    }


def serialize_row(row: Row) -> Json:
    """Return a row with all that is in it, its JSON texts read."""
    read = {"skipped": recent_requests.load_skip_reasons(row), "passages": recent_requests.load_passages(row)}
    read |= {name: _parse_object(getattr(row, name)) for name in ("tags", "agreement")}
    return {**row._asdict(), **read, "steps": waterfall.compute_row_steps(row)}


def _parse_object(text: str) -> Json:
    try:
        found: object = orjson.loads(text)
    except ValueError:
        return {}
    return cast("Json", found) if isinstance(found, dict) else {}
