"""What `CLARA_KEEP_CONTENT` keeps: of each passage that was changed, its text as it came, as it was sent, and what for.

For whoever runs the proxy and looks at its dashboard, or trains on what passed; by default there is none of this, and
nothing is kept. It has no store of its own: texts lie among the originals, as the client's own, so that they share
their room, their expiry, their encryption and their erasure, and a passage that ten requests carried is kept once.
The invariant: a request never waits for this and never fails by it; what cannot be kept is not there to be looked at.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import orjson

from .originals import Originals, OriginalsError, StoreFullError

INDEX_OWNER = "requests"  # the owner of the lists of what a request's passages are called: no client's hash reads so
MAX_PASSAGE_CHARS = 2**20  # characters of a passage that is kept
MAX_PENDING_CHARS = 2**25  # characters that wait to be stored; what comes on top is not kept
log = logging.getLogger(__name__)


class PassageTexts(NamedTuple):
    """A passage as it came, and as it was sent (or would have been, where the proxy only observes).

    `question` is what it was wanted for, where that was kept too: words that stood before it, and the call.
    """

    before: str
    after: str
    question: str = ""


class ContentStore:
    """Keeps the texts of passages by request and by the place of the passage in the row's list."""

    def __init__(self, originals: Originals) -> None:
        self._originals = originals
        self._pending_chars = 0  # characters
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self.dropped_requests = 0  # requests whose texts were not kept

    def keep_texts(self, request: str, owner: str, texts: Mapping[int, PassageTexts]) -> None:
        """Keep the texts of a request, by place; to be called on the event loop. Never waits and never raises."""
        texts = {at: one for at, one in texts.items() if max(map(len, one)) <= MAX_PASSAGE_CHARS}
        size = sum(len(text) for one in texts.values() for text in one)
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
        """Say which passages of a request something is kept of. Raises OriginalsError."""
        return frozenset((await self._read_index(request))[1])

    async def read_texts(self, request: str, at: int) -> PassageTexts | None:
        """Return one passage of a request; None when it was not kept, or is not any more. Raises OriginalsError."""
        owner, names = await self._read_index(request)
        if at not in names:
            return None
        before, after, *question = [await self._originals.get(owner, name) for name in names[at]]
        return None if before is None or after is None else PassageTexts(before, after, "".join(filter(None, question)))

    async def stop(self) -> None:
        """Finish what is being stored."""
        await asyncio.gather(*self._tasks)

    async def _store_texts(self, request: str, owner: str, texts: Mapping[int, PassageTexts], size: int) -> None:
        try:
            async with self._lock:  # one after another: nobody waits for it, and requests need the store, too
                kept = {at: one if one.question else one[:2] for at, one in texts.items()}
                names = iter(await self._originals.put(owner, [text for one in kept.values() for text in one]))
                told = {"owner": owner, "names": {str(at): [next(names) for _ in one] for at, one in kept.items()}}
                await self._originals.store_note(INDEX_OWNER, request, orjson.dumps(told))
        except StoreFullError:
            self.dropped_requests += 1
        except OriginalsError as error:
            self.dropped_requests += 1
            log.warning("the texts of a request are not kept: %s", error)
        finally:
            self._pending_chars -= size

    async def _read_index(self, request: str) -> tuple[str, dict[int, tuple[str, ...]]]:
        found = (await self._originals.read_notes(INDEX_OWNER, [request])).get(request)
        with suppress(ValueError, KeyError, TypeError):  # kept by a later version, say
            told = orjson.loads(found or b"{}")
            return str(told["owner"]), {int(at): tuple(map(str, own[:3])) for at, own in told["names"].items()}
        return "", {}
