"""Reads the passages of recorded requests that `CLARA_KEEP_CONTENT` kept, for training.

Reading does not renew any expiry. Expired, erased and undecryptable passages are omitted.
"""

from pathlib import Path
from typing import NamedTuple

from ...config.settings import Settings
from ..reports.ledger_report import locate_ledger
from ..stores.contents import ContentStore, PassageTexts
from ..stores.ledger import Ledger
from ..stores.originals import Originals, OriginalsError


class RecordedPassages(NamedTuple):
    """Kept passages by request, newest request first.

    `total` counts all requests of the period, `unreadable` those with an error, and `error` is the last message.
    """

    requests: list[list[PassageTexts]]
    total: int
    unreadable: int
    error: str


async def read_recorded_passages(settings: Settings, since: float) -> RecordedPassages:
    """Read the kept passages of requests from `since` (Unix seconds) on, in passage order.

    Raises ValueError if there is no ledger, OriginalsError if there is no store of originals or it is unreachable.
    """
    request_ids = await _compressed_requests(settings, since)
    location = settings.originals_url or settings.data_dir.expanduser() / "originals.sqlite3"
    if isinstance(location, Path) and not location.exists():
        raise OriginalsError(f"{location.parent} contains no originals, so no content was kept")
    originals = Originals(location, settings.originals_ttl, encryption_keys=settings.originals_key)
    await originals.start()
    try:
        return await _read_texts(ContentStore(originals), request_ids)
    finally:
        await originals.stop()


async def _compressed_requests(settings: Settings, since: float) -> list[str]:
    """Return the ids of the clients' requests with compressed passages, newest first."""
    async with Ledger(locate_ledger(settings.data_dir.expanduser(), settings.ledger_url)) as ledger:
        rows = [row.id async for row in ledger.iter_rows(since) if row.passages != "[]" and not row.shadow_of]
    return rows[::-1]


async def _read_texts(contents: ContentStore, request_ids: list[str]) -> RecordedPassages:
    requests: list[list[PassageTexts]] = []
    unreadable, message = 0, ""
    for request_id in request_ids:
        try:
            positions = sorted(await contents.list_positions(request_id))
            texts = [await contents.read_texts(request_id, position) for position in positions]
        except OriginalsError as error:  # damaged, or encrypted with another key; other requests may be readable
            unreadable, message = unreadable + 1, str(error)
            continue
        if available := [text for text in texts if text is not None]:
            requests.append(available)
    return RecordedPassages(requests, len(request_ids), unreadable, message)
