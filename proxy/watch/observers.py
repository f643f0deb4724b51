"""Attaches the observers of ledger rows: metrics always, the request log and OpenTelemetry if they are enabled.

The ledger calls each observer on the event loop as it builds a row, so an observer takes microseconds and never raises;
`benchmarks/README.md` has the measured costs. Rows hold no content, so observers export none.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ...compression.clara.async_engine import ClaraBackend
from ...config.settings import Settings
from ..stores.ledger import Ledger
from .metrics import Metrics
from .request_log import RequestLogger


@asynccontextmanager
async def attach_observers(settings: Settings, ledger: Ledger, clara: ClaraBackend | None) -> AsyncGenerator[Metrics]:
    """Attach the observers to the ledger; leaving the block exports pending telemetry, which may take seconds."""
    metrics = Metrics(ledger, clara)
    ledger.observers.append(metrics.record_row)
    # JSON logs are read by machines and hold every request; text logs are read by people and hold failures only.
    request_logger = RequestLogger(logging.INFO if settings.log_format == "json" else logging.DEBUG)
    if request_logger.is_enabled:
        ledger.observers.append(request_logger.record_row)
    if not settings.otel:
        yield metrics
        return
    from .telemetry import create_telemetry  # noqa: PLC0415 - an extra

    telemetry = create_telemetry()
    ledger.observers.append(telemetry.record_row)
    try:
        yield metrics
    finally:
        await asyncio.to_thread(telemetry.close)
