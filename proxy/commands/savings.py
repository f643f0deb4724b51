"""What the ledger of a data directory says: behind `clara-proxy report`, `wrap` and the demonstration."""

from pathlib import Path

from ..services import ledger_url
from ..stores import report


async def told(folder: Path, since: str, by: str, fmt: str, url: str | None = None) -> str:
    """Return the totals since then as a report; `url` says where the ledger is if not in the folder.

    Raises:
        ValueError: a span of time, a grouping or a format that does not exist, or a directory without a ledger.
    """
    return await report.run(ledger_in(folder, url), since, by, fmt)


def ledger_in(folder: Path, url: str | None = None) -> str:
    """Return where the ledger is. Raises ValueError when it is in the folder and not there."""
    if url is None and not (folder / "ledger.sqlite3").exists():
        raise ValueError(f"there is no ledger in {folder}; has the proxy been run with this data directory?")
    return ledger_url(folder, url)
