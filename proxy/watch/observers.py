"""Who hears of every ledger row as it is written: metrics always, the log and OpenTelemetry where they are wanted.

A hearer is called on the event loop, within the request, so it takes microseconds and never raises. What one costs is
in `benchmarks/README.md`. None of them keeps content, for a row holds none.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ...compression.clara.async_engine import LocalClara
from ...config.settings import Settings
from ..stores.ledger import Ledger
from .metrics import Metrics
from .request_log import RequestLogger


@asynccontextmanager
async def attach_observers(settings: Settings, ledger: Ledger, clara: LocalClara | None) -> AsyncGenerator[Metrics]:
    """Let them hear from here on; leaving the block sends what is still unsent, which may take seconds."""
    metrics = Metrics(ledger, clara)
    ledger.observers.append(metrics.record_row)
    # People read the log for what went wrong, machines for everything.
    journal = RequestLogger(logging.INFO if settings.log_format == "json" else logging.DEBUG)
    if journal.is_enabled:
        ledger.observers.append(journal.record_row)
    if not settings.otel:
        yield metrics
        return
    from . import telemetry  # noqa: PLC0415 - an extra

    told = telemetry.create_telemetry()
    ledger.observers.append(told.record_row)
    try:
        yield metrics
    finally:
        await asyncio.to_thread(told.close)
