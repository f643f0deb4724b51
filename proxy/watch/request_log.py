"""Logs one line per request, made of its ledger row: figures only, no content, and no label that a client chose.

A failure of the upstream or of the proxy is a warning, so operators see it without the ledger. A client's mistake is
not: the response reports it. The `id` of a line is the id of the ledger row and the client's
`x-clara-request-id`. Invariant: a line holds only `LOGGED_COLUMNS`; clients word only the path and the model of these,
and both are cut to `_MAX_CHARS`.
"""

import logging

from ...config import log_setup
from ..stores.ledger_row import Row

LOGGED_COLUMNS = (
    *("id", "protocol", "path", "model", "mode_used", "engine", "streamed", "status", "outcome"),
    *("tokens_received", "tokens_sent", "saved_tokens", "billed_input", "billed_output", "billed_cache_read"),
    *("cost", "saved_cost", "latency_ms", "overhead_ms", "fetched_back_tokens", "key", "shadow_of"),
)
_MAX_CHARS = 200
log = logging.getLogger(__name__)


class RequestLogger:
    """Logs ledger rows at `level`, and failures as warnings."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._logs_every_row = log.isEnabledFor(level)

    @property
    def is_enabled(self) -> bool:
        """Return True if the log level lets at least warnings through."""
        return self._logs_every_row or log.isEnabledFor(logging.WARNING)

    def record_row(self, row: Row) -> None:
        """Log a row, if the log level lets it through."""
        failed = is_failure(row)
        if failed or self._logs_every_row:
            # `log.log` would look up its caller, which takes longer than everything else here.
            level = max(self._level, logging.WARNING) if failed else self._level
            fields = log_setup.log_fields(build_log_fields(row))
            log.handle(log.makeRecord(log.name, level, "", 0, "request", (), None, extra=fields))


def is_failure(row: Row) -> bool:
    """Return True if the upstream or the proxy failed; a stream that broke off counts, although its status is 200."""
    return row.outcome == "failed" or (row.outcome == "upstream_error" and not 400 <= row.status < 500)


def build_log_fields(row: Row) -> dict[str, object]:
    """Return the fields of a row's log line; unknown and empty values are omitted."""
    values = ((name, getattr(row, name)) for name in LOGGED_COLUMNS)
    return {name: _shorten_value(name, value) for name, value in values if value is not None and value != ""}


def _shorten_value(name: str, value: object) -> object:
    if isinstance(value, float):
        return round(value, 1 if name.endswith("_ms") else 6)
    return value[:_MAX_CHARS] if isinstance(value, str) else value
