"""Reads recorded requests back for training: the passages that `CLARA_KEEP_CONTENT` kept, request by request.

It makes no training lines and renews no text's expiry. What has expired, was erased, or is encrypted with a key that is
not given is not there; no passages of two requests are ever put together here.
"""

from pathlib import Path
from typing import NamedTuple

from ...config.settings import Settings
from ..reports.savings import locate_ledger
from ..stores.contents import ContentStore, PassageTexts
from ..stores.ledger import Ledger
from ..stores.originals import Originals, OriginalsError


class Recorded(NamedTuple):
    """Kept passages by request, newest first; how many requests were looked at, and could not be read, and why not."""

    requests: list[list[PassageTexts]]
    looked_at: int
    unreadable: int
    why: str


async def read(chosen: Settings, since: float) -> Recorded:
    """Read what was kept of requests from `since` (Unix seconds) on, in the order of their passages.

    Raises ValueError when there is no ledger, OriginalsError when there are no originals or they cannot be reached.
    """
    names = await _names(chosen, since)
    where = chosen.originals_url or chosen.data_dir.expanduser() / "originals.sqlite3"
    if isinstance(where, Path) and not where.exists():
        raise OriginalsError(f"there are no originals in {where.parent}, so nothing was kept")
    originals = Originals(where, chosen.originals_ttl, encryption_keys=chosen.originals_key)
    await originals.start()
    try:
        return await _texts(ContentStore(originals), names)
    finally:
        await originals.stop()


async def _names(chosen: Settings, since: float) -> list[str]:
    """Name the requests that changed something and were not the proxy's own, newest first."""
    async with Ledger(locate_ledger(chosen.data_dir.expanduser(), chosen.ledger_url)) as ledger:
        rows = [row.id async for row in ledger.iter_rows(since) if row.passages != "[]" and not row.shadow_of]
    return rows[::-1]


async def _texts(contents: ContentStore, names: list[str]) -> Recorded:
    requests: list[list[PassageTexts]] = []
    unreadable, why = 0, ""
    for name in names:
        try:
            found = [await contents.read_texts(name, place) for place in sorted(await contents.list_positions(name))]
        except OriginalsError as error:  # with another key, or damaged: the others can be had nevertheless
            unreadable, why = unreadable + 1, str(error)
            continue
        if there := [texts for texts in found if texts is not None]:
            requests.append(there)
    return Recorded(requests, len(names), unreadable, why)
