"""The texts of changed passages, before and after compression, if `CLARA_KEEP_CONTENT` is set.

The dashboard shows them, and training uses them; by default nothing is kept. The texts are stored as originals of the
client, so that they share their limits, expiry, encryption and deletion, and a repeated passage is stored once. The
invariant: a request never waits for this and never fails because of it; texts that cannot be stored are dropped.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import orjson

from .originals import Originals, OriginalsError, StoreFullError

INDEX_OWNER = "requests"  # owner of the lists of passage names; no client has this owner id
MAX_PASSAGE_CHARS = 2**20  # longer passages are not kept
MAX_PENDING_CHARS = 2**25  # waiting to be stored; further texts are dropped
log = logging.getLogger(__name__)


class PassageTexts(NamedTuple):
    """A passage as received and as forwarded (in mode observe: as it would have been forwarded).

    `question` is the user text and the tool call before it, if they were kept.
    """

    before: str
    after: str
    question: str = ""


class ContentStore:
    """Keeps the texts of passages by request id and by position in `Row.passages`."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals
        self._pending_chars = 0  # characters
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self.dropped_requests = 0

    def keep_texts(self, request: str, owner: str, texts: Mapping[int, PassageTexts]) -> None:
        """Keep the texts of a request, by position. Call it on the event loop; it never waits and never raises."""
        texts = {
            position: passage for position, passage in texts.items() if max(map(len, passage)) <= MAX_PASSAGE_CHARS
        }
        size = sum(len(text) for passage in texts.values() for text in passage)
        if not texts:
            return
        if self._pending_chars + size > MAX_PENDING_CHARS:
            self.dropped_requests += 1
            return
        self._pending_chars += size
        task = asyncio.create_task(self._store_texts(request, owner, texts, size))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def list_positions(self, request: str) -> frozenset[int]:
        """Return the positions of the passages that are kept. Raises OriginalsError."""
        return frozenset((await self._read_index(request))[1])

    async def read_texts(self, request: str, position: int) -> PassageTexts | None:
        """Return one passage of a request; None if it was not kept or has expired. Raises OriginalsError."""
        owner, names = await self._read_index(request)
        if position not in names:
            return None
        before, after, *question = [await self._originals.get(owner, name) for name in names[position]]
        return None if before is None or after is None else PassageTexts(before, after, "".join(filter(None, question)))

    async def stop(self) -> None:
        """Finish pending writes."""
        await asyncio.gather(*self._tasks)

    async def _store_texts(self, request: str, owner: str, texts: Mapping[int, PassageTexts], size: int) -> None:
        try:
            async with self._lock:  # one at a time, because requests need the store more urgently
                passages = {position: item if item.question else item[:2] for position, item in texts.items()}
                stored = iter(await self._originals.put(owner, [text for item in passages.values() for text in item]))
                names = {str(position): [next(stored) for _ in item] for position, item in passages.items()}
                index = orjson.dumps({"owner": owner, "names": names})
                await self._originals.store_note(INDEX_OWNER, request, index)
        except StoreFullError:
            self.dropped_requests += 1
        except OriginalsError as error:
            self.dropped_requests += 1
            log.warning("the texts of a request could not be kept: %s", error)
        finally:
            self._pending_chars -= size

    async def _read_index(self, request: str) -> tuple[str, dict[int, tuple[str, ...]]]:
        note = (await self._originals.read_notes(INDEX_OWNER, [request])).get(request)
        with suppress(ValueError, KeyError, TypeError):  # no note, or one of a later version
            index = orjson.loads(note or b"{}")
            return str(index["owner"]), {int(key): tuple(map(str, names[:3])) for key, names in index["names"].items()}
        return "", {}
