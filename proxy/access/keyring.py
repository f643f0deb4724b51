"""The keys as a running proxy knows them: in memory, looked up at every request, followed as the table changes.

It knows no HTTP (`gate` does). The invariant: a key that was revoked or made anywhere holds here within `EVERY`
seconds; while the database cannot be read, what was read last holds. Keys are compared as hashes, in constant time.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime

from ..stores import key_usage
from ..stores.api_keys import ApiKey, KeyStore, hash_key, parse_key_id
from ..stores.ledger import Ledger
from ..stores.ledger_dialect import SECONDS_PER_DAY
from .limits import KeyLimits

REFRESH_SECONDS = 2.0  # seconds between two looks at whether the keys have changed
USAGE_REFRESH_SECONDS = 5.0  # seconds between two looks at what budgets have gone to elsewhere
_DUMMY_HASH = hash_key("")
log = logging.getLogger(__name__)


class InvalidKeyError(Exception):
    """A key that lets nobody in; the message says why, and never repeats it."""


class Keyring:
    """All keys, and their `limits`. `start` it inside a running event loop, with a ledger that has been started."""

    def __init__(
        self,
        key_store: KeyStore,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.time,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self.limits = KeyLimits()
        self._key_store = key_store
        self._ledger = ledger
        self._clock = clock
        self._refresh_seconds = refresh_seconds
        self._keys_by_id: Mapping[str, ApiKey] = {}
        self._table_version = -1
        self._last_usage_refresh = 0.0
        self._is_failing = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.requires_key = False

    async def start(self) -> None:
        """Read the keys; raises the database's errors, as nobody knows then whom to let in."""
        await self._key_store.start()
        await self._refresh_keys()
        self._ledger.observers.append(self.limits.record_row)
        await self._refresh_usage()
        self._task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Follow the table no more; what is being read is read to its end."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    def find_key(self, presented_key: str) -> ApiKey:
        """Return the key that somebody shows.

        Raises:
            WrongKeyError: it is not known, or does not hold any more.
        """
        key = self._keys_by_id.get(parse_key_id(presented_key))
        right = hmac.compare_digest(hash_key(presented_key), _DUMMY_HASH if key is None else key.hash)
        if key is None or not right:
            raise InvalidKeyError("this is no key of this proxy's")
        if key.revoked is not None:
            raise InvalidKeyError(f"the key {key.name} was revoked")
        if key.expires is not None and key.expires <= self._clock():
            expired = datetime.fromtimestamp(key.expires, UTC).isoformat(" ", "seconds")
            raise InvalidKeyError(f"the key {key.name} expired on {expired}")
        return key

    async def _refresh_keys(self) -> None:
        change = await self._key_store.read_version()
        if change == self._table_version:
            return
        self._keys_by_id = {key.id: key for key in await self._key_store.list_keys()}
        # One that has expired keeps the door shut: time alone must not open it.
        self.requires_key = any(key.revoked is None for key in self._keys_by_id.values())
        self._table_version = change

    async def _refresh_usage(self) -> None:
        """Learn what was used of budgets by other processes, and by this one before it was started."""
        self._last_usage_refresh = time.monotonic()
        if not any(key.has_budget and key.revoked is None for key in self._keys_by_id.values()):
            return
        day = int(self._clock() // SECONDS_PER_DAY)
        before = self.limits.get_own_usage(day)
        await self._ledger.flush()
        self.limits.merge_stored_usage(await key_usage.read_stored_usage(self._ledger, day), before, day)

    async def _poll(self) -> None:
        while not await self._wait_for_stop():
            try:
                await self._refresh_keys()
                if time.monotonic() - self._last_usage_refresh >= USAGE_REFRESH_SECONDS:
                    await self._refresh_usage()
            except self._ledger.dialect.error_types as error:
                if not self._is_failing:
                    log.error("the keys cannot be read; those known so far hold: %s", type(error).__name__)
                self._is_failing = True
            else:
                self._is_failing = False

    async def _wait_for_stop(self) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._refresh_seconds)
        return self._stopping.is_set()
