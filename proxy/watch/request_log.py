"""The log's line a request: figures of its ledger row, none of its content, and no label that a client chose.

What the upstream or we ourselves failed at is a warning, wherever warnings are read, so that an operator sees it who
never looks at the ledger. What a client did wrong is not: it has been told. Who asked, and for what project, stands in
the ledger: the line's `id` is the row's, and the client's `x-clara-request-id`. The invariant: of a row only `FIGURES`
are told, of which the path and the model are the only ones that a client words, cut short.
"""

import logging

from ...config import log_setup
from ..stores.ledger_row import Row

LOGGED_COLUMNS = (
    *("id", "protocol", "path", "model", "mode_used", "engine", "streamed", "status", "outcome"),
    *("tokens_received", "tokens_sent", "saved_tokens", "billed_input", "billed_output", "billed_cache_read"),
    *("cost", "saved_cost", "latency_ms", "overhead_ms", "fetched_back_tokens", "key", "shadow_of"),
)
_MAX_CHARS = 200  # characters
log = logging.getLogger(__name__)


class RequestLogger:
    """Hears rows and logs them at `level`, and failures as warnings."""

    def __init__(self, level: int) -> None:
        self._level = level
        self._logs_every_row = log.isEnabledFor(level)

    @property
    def is_enabled(self) -> bool:
        """Say whether anybody reads what it would write."""
        return self._logs_every_row or log.isEnabledFor(logging.WARNING)

    def record_row(self, row: Row) -> None:
        """Write a line, if it is one that somebody reads."""
        failed = is_failure(row)
        if failed or self._logs_every_row:
            # Made by hand, because to look for the place of the call takes longer than all the rest.
            level = max(self._level, logging.WARNING) if failed else self._level
            made = log.makeRecord(
                log.name, level, "", 0, "request", (), None, extra=log_setup.log_fields(build_log_fields(row))
            )
            log.handle(made)


def is_failure(row: Row) -> bool:
    """Say whether a request failed for a reason that is not its client's: a broken stream has the status 200."""
    return row.outcome == "failed" or (row.outcome == "upstream_error" and not 400 <= row.status < 500)


def build_log_fields(row: Row) -> dict[str, object]:
    """Return what a line tells of a row; figures that are not known are left out."""
    known = ((name, getattr(row, name)) for name in LOGGED_COLUMNS)
    return {name: _shorten_value(value) for name, value in known if value is not None and value != ""}


def _shorten_value(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)
    return value[:_MAX_CHARS] if isinstance(value, str) else value
