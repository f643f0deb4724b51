"""The API keys of a running proxy, held in memory and refreshed when the table changes.

A key that any process creates or revokes takes effect here within `REFRESH_SECONDS`. While the database cannot be read,
the keys read last stay valid. Keys are compared as hashes, in constant time.
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

REFRESH_SECONDS = 2.0  # interval of checks for changed keys
USAGE_REFRESH_SECONDS = 2.0  # interval of recording what the keys have used
_DUMMY_HASH = hash_key("")
log = logging.getLogger(__name__)


class InvalidKeyError(Exception):
    """A key is not valid; the message gives the reason and never repeats the key."""


class Keyring:
    """All keys and their `limits`. Start it inside a running event loop, after its ledger."""

    def __init__(
        self,
        key_store: KeyStore,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.time,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self.limits = KeyLimits(ledger)
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
        """Read the keys and start refreshing them; raises the database's errors."""
        await self._key_store.start()
        await self._refresh_keys()
        await self.limits.start()
        await self._seed_usage()
        self._task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Stop refreshing the keys, and record what their requests have used; a running read is completed."""
        self._stopping.set()
        if self._task is not None:
            await self._task
            try:
                await self.limits.stop()
            except self._ledger.dialect.error_types as error:
                log.error("cannot record the usage of the API keys: %s", type(error).__name__)

    def find_key(self, presented_key: str) -> ApiKey:
        """Return the stored key for a presented one.

        Raises:
            InvalidKeyError: the key is unknown, revoked or expired.
        """
        key = self._keys_by_id.get(parse_key_id(presented_key))
        is_match = hmac.compare_digest(hash_key(presented_key), _DUMMY_HASH if key is None else key.hash)
        if key is None or not is_match:
            raise InvalidKeyError("the API key is unknown to this proxy")
        if key.revoked is not None:
            raise InvalidKeyError(f"the key {key.name!r} was revoked")
        if key.expires is not None and key.expires <= self._clock():
            expired = datetime.fromtimestamp(key.expires, UTC).isoformat(" ", "seconds")
            raise InvalidKeyError(f"the key {key.name!r} expired on {expired}")
        return key

    async def _refresh_keys(self) -> None:
        version = await self._key_store.read_version()
        if version == self._table_version:
            return
        self._keys_by_id = {key.id: key for key in await self._key_store.list_keys()}
        # An expired key still counts: its expiry must not open the proxy to requests without a key.
        self.requires_key = any(key.revoked is None for key in self._keys_by_id.values())
        self._table_version = version

    async def _seed_usage(self) -> None:
        """Read what today's requests have used according to the ledger, for keys without any recorded usage."""
        names = {key.name for key in self._keys_by_id.values() if key.has_budget and key.revoked is None}
        if names:
            day = int(self.limits.clock.now() // SECONDS_PER_DAY)
            usage = await key_usage.read_stored_usage(self._ledger, day)
            await self.limits.seed_usage({name: used for name, used in usage.items() if name in names})

    async def _poll(self) -> None:
        while not await self._wait_for_stop():
            try:
                await self._refresh_keys()
                if time.monotonic() - self._last_usage_refresh >= USAGE_REFRESH_SECONDS:
                    self._last_usage_refresh = time.monotonic()
                    await self.limits.refresh()
            except self._ledger.dialect.error_types as error:
                if not self._is_failing:
                    log.error("cannot read the API keys; the keys read last stay valid: %s", type(error).__name__)
                self._is_failing = True
            else:
                self._is_failing = False

    async def _wait_for_stop(self) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._refresh_seconds)
        return self._stopping.is_set()
