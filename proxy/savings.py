"""What the ledger says, read from its file and written down: behind `clara-proxy report`, `wrap` and the demo."""

import time
from pathlib import Path

from . import report
from .ledger import Ledger
from .services import ledger_url


async def told(folder: Path, since: str, by: str, fmt: str) -> str:
    """Return the totals of a data directory's ledger as a report.

    Raises:
        ValueError: a span of time, a grouping or a format that does not exist, or a directory without a ledger.
    """
    if not (folder / "ledger.sqlite3").exists():
        raise ValueError(f"there is no ledger in {folder}; has the proxy been run with this data directory?")
    start = report.since(since, time.time())
    ledger = Ledger(ledger_url(folder))
    await ledger.start()
    try:
        groups = await ledger.totals(by, start)
        whole = await ledger.totals("all", start)
    finally:
        await ledger.stop()
    return report.render(groups, fmt, whole[0] if whole else None)
