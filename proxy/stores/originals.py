"""The original passages: their owner can fetch each of them back until it expires.

A passage belongs to its owner, an opaque text derived from the client's key. The invariant: once `put` has returned,
`get` returns the same text to the same owner until the expiry, also after a crash and a restart. A stored passage is
never evicted before it expires: if there is no space left for a new one, `put` raises StoreFullError. The operator may
delete passages earlier (`delete_all`), also from another process; a later `put` stores them again.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ...config.extras import describe_install
from .encryption import Encryption
from .excerpt import cut_excerpt
from .originals_sql import PostgresStore
from .originals_sqlite import SqliteStore
from .originals_store import Entry, EntryInfo, EntryKey, OriginalsError, Store, StoreFullError, StoreLateError

__all__ = [
    "DEFAULT_CAPACITY",
    "NAME_LENGTH",
    "Originals",
    "OriginalsError",
    "StoreFullError",
    "StoreLateError",
    "compute_name",
    "cut_excerpt",
]

NAME_LENGTH = 16  # hexadecimal digits; markers contain the name, so each digit costs tokens
DEFAULT_CAPACITY = 2**30  # bytes

_NAME_PATTERN = re.compile(f"[0-9a-f]{{{NAME_LENGTH}}}")
_NOTE_PREFIX = "~"  # distinguishes the names of notes from those of originals
_MAX_CACHED_KEYS = 10_000
_MAX_INLINE_BYTES = 32_000  # packed on the event loop; more is packed in a thread
_CHECK_OWNER = "check"  # no client has this owner id
_EXTENSION_SECONDS = 0.25  # that a request waits for the later expiry of notes it has read
_PURGE_WAIT_SECONDS = 0.2  # that a full store waits for expired entries to go
_USAGE_CHECK_BYTES = 4 * 2**20  # stored at most before the used space is read again: other processes write, too


class _PendingPut(NamedTuple):
    owner: str
    values: Mapping[str, bytes]
    expires: float
    future: "asyncio.Future[frozenset[str]]"


def compute_name(owner: str, text: str) -> str:
    """Return the name of an owner's text; it depends on nothing else."""
    return sha256(f"{owner}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:NAME_LENGTH]


def _encode(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def create_store(location: Path | str) -> Store:
    """Return the store of a file, or of a URL of SQLite, PostgreSQL or Redis. Raises OriginalsError for another."""
    if isinstance(location, Path):
        return SqliteStore(location)
    scheme, colon, rest = location.partition("://")
    try:
        if scheme in {"postgresql", "postgres", "postgresql+asyncpg"} and colon:
            return PostgresStore(location)
        if scheme in {"redis", "rediss", "unix"} and colon:
            from .originals_redis import RedisStore  # noqa: PLC0415 - an extra

            return RedisStore(location)
    except ImportError as error:
        extra = "redis" if scheme in {"redis", "rediss", "unix"} else "postgres"
        raise OriginalsError(f"{scheme} needs the extra: {describe_install(extra)}") from error
    if scheme == "sqlite" and rest.startswith("/"):
        return SqliteStore(Path(rest[1:]))
    raise OriginalsError(
        "unsupported URL for the originals; use sqlite:///PATH, postgresql://..., redis://... or unix://..."
    )


class Originals:
    """Passages in the store at `location`; each is kept for at least `ttl_seconds` after its last `put`.

    Args:
        location: path of an SQLite file, or a URL (see `create_store`).
        ttl_seconds: how long a passage can be fetched back.
        clock: returns the Unix time in seconds.
        capacity: the approximate size limit of the store in bytes.
        encryption_keys: 32 bytes in base64 each; the first encrypts, and any of them decrypts.
    """

    def __init__(
        self,
        location: Path | str,
        ttl_seconds: float,
        clock: Callable[[], float] = time.time,
        *,
        capacity: int = DEFAULT_CAPACITY,
        encryption_keys: Sequence[str] = (),
    ) -> None:
        self._store = create_store(location)
        self._encryption = Encryption(encryption_keys)
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._capacity = capacity
        self._free_bytes = 0  # can be stored before the used space is read again
        self._pending_puts: list[_PendingPut] = []
        self._writer: asyncio.Task[None] | None = None
        self._has_failed = False  # at the last write
        self._purge: asyncio.Task[int] | None = None
        self._deletion_version: object = None  # as last read from the store
        self._stored_until: dict[EntryKey, float] = {}  # expiries of entries stored recently
        self._refused_until: dict[EntryKey, float] = {}  # recently refused entries stay refused

    async def start(self) -> None:
        """Open or create the store. Raises OriginalsError on failure."""
        await self._store.start()
        self._deletion_version = await self._store.read_deletion_version()

    async def stop(self) -> None:
        """Finish pending puts and close the store."""
        if self._writer is not None:
            await self._writer
        if self._purge is not None:
            self._purge.cancel()
            await asyncio.gather(self._purge, return_exceptions=True)
        await self._store.stop()

    async def put(
        self, owner: str, texts: Sequence[str], seconds: float | None = None, names: Sequence[str] | None = None
    ) -> list[str]:
        """Store texts and return their names, in order; from then on they can be fetched, also after a crash.

        A text that is stored already gets a later expiry. Concurrent puts share one transaction. A caller that knows
        the `names` of the texts saves the time to compute them.

        Raises:
            StoreFullError: there is no space for some of the texts. These stay refused for a while, so that a passage
                that was forwarded unchanged stays unchanged (the prefix invariant).
            StoreLateError: not all of the texts were stored within `seconds`. These stay refused, too.
            OriginalsError: the store cannot be reached.
        """
        names = [compute_name(owner, text) for text in texts] if names is None else list(names)
        try:
            async with asyncio.timeout(seconds):
                refused = await self._store_values(owner, dict(zip(names, texts, strict=True)))
        except TimeoutError:
            raise StoreLateError(self._refuse_unstored(owner, names)) from None
        if refused:
            raise StoreFullError(refused)
        return names

    def _refuse_unstored(self, owner: str, names: Sequence[str]) -> set[str]:
        """Refuse the names that are not stored, from now on, and return them."""
        now = self._clock()
        unstored = set(names) - self._find_confirmed(owner, names, now)
        self._refused_until |= {(owner, name): now + self._ttl_seconds * 1.1 for name in unstored}
        self._limit_notes()
        return unstored

    async def get(self, owner: str, name: str) -> str | None:
        """Return the owner's text with this name; None if it does not exist or has expired. Raises OriginalsError."""
        if not _NAME_PATTERN.fullmatch(name):
            return None
        value = (await self._read_values(owner, [name])).get(name)
        return None if value is None else value.decode("utf-8", "surrogatepass")

    async def store_note(self, owner: str, name: str, value: bytes) -> None:
        """Store a small value under a printable name; an existing value is not replaced.

        It lasts as long as an original, and reading extends its expiry. Raises StoreFullError or OriginalsError.
        """
        if await self._store_values(owner, {_NOTE_PREFIX + name: value}):
            raise StoreFullError([name])

    async def read_notes(self, owner: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return the owner's stored notes by name, and extend their expiry. Raises OriginalsError."""
        values = await self._read_values(owner, [_NOTE_PREFIX + name for name in names])
        with suppress(OriginalsError, TimeoutError):  # the old expiry still holds
            async with asyncio.timeout(_EXTENSION_SECONDS):
                await self._store_values(owner, values, just_read=True)
        return {name.removeprefix(_NOTE_PREFIX): value for name, value in values.items()}

    async def check(self) -> None:
        """Raise OriginalsError if the store does not answer, or if it could not be written and still cannot be."""
        await self._store.read_used_bytes()
        if self._has_failed:
            await self.store_note(_CHECK_OWNER, "check", b"")

    async def delete_expired(self) -> int:
        """Delete expired entries, release their space, and return their number. Raises OriginalsError."""
        return await self._store.delete_expired(self._clock())

    async def delete_all(self, owner: str | None = None) -> int:
        """Delete all entries, or all of one owner, before they expire; return their number."""
        return await self._store.delete_all(owner)

    async def list_entries(
        self, owner: str | None = None, name: str | None = None, limit: int = 100
    ) -> list[EntryInfo]:
        """List entries that have not expired, the latest expiry first. Raises OriginalsError."""
        return [entry for entry in await self._store.list_entries(owner, name, limit) if entry.expires > self._clock()]

    async def _read_values(self, owner: str, names: Sequence[str]) -> dict[str, bytes]:
        if not names:
            return {}
        bodies = await self._store.read_bodies(owner, names, self._clock())
        if sum(map(len, bodies.values())) > _MAX_INLINE_BYTES:
            return await asyncio.to_thread(self._unpack_bodies, owner, bodies)
        return self._unpack_bodies(owner, bodies)

    def _unpack_bodies(self, owner: str, bodies: Mapping[str, bytes]) -> dict[str, bytes]:
        return {name: self._encryption.unpack(owner, name, body) for name, body in bodies.items()}

    async def _store_values(
        self, owner: str, values: Mapping[str, str | bytes], *, just_read: bool = False
    ) -> set[str]:
        """Store values and return the names of the refused ones. `just_read` values certainly exist."""
        now = self._clock()
        refused = {name for name in values if self._refused_until.get((owner, name), 0.0) > now}
        stored = self._find_confirmed(owner, values, now)
        if stored and not just_read:
            await self._invalidate_deleted()
            stored = self._find_confirmed(owner, values, now)
        unstored = {
            name: _encode(value) for name, value in values.items() if name not in refused and name not in stored
        }
        if unstored:
            future: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
            # A tenth longer than required, so that a growing conversation does not renew its entries on every request.
            self._pending_puts.append(_PendingPut(owner, unstored, now + self._ttl_seconds * 1.1, future))
            if self._writer is None:
                self._writer = asyncio.create_task(self._write_pending())
            refused |= await future
        return refused

    def _find_confirmed(self, owner: str, names: Iterable[str], now: float) -> set[str]:
        """Return the names whose known expiry is late enough."""
        return {name for name in names if self._stored_until.get((owner, name), 0.0) >= now + self._ttl_seconds}

    async def _invalidate_deleted(self) -> None:
        """Forget the known expiries if any process has deleted entries since the last call.

        If the store does not answer, they are kept.
        """
        with suppress(OriginalsError):
            version = await self._store.read_deletion_version()
            if version != self._deletion_version:
                self._stored_until.clear()
                self._deletion_version = version

    async def _write_pending(self) -> None:
        try:
            while self._pending_puts:
                batch, self._pending_puts = self._pending_puts, []
                await self._write_batch(batch)
        finally:
            self._writer = None

    async def _write_batch(self, batch: Sequence[_PendingPut]) -> None:
        result: set[EntryKey] | OriginalsError = OriginalsError("storing the originals was interrupted")
        version = self._deletion_version
        try:
            result = await self._store_batch(batch)
            self._has_failed = False
        except OriginalsError as error:
            result, self._has_failed = error, True
        finally:
            for put in batch:
                self._resolve_put(put, result)
            if self._deletion_version != version:  # the entries just stored may have been deleted
                self._stored_until.clear()

    async def _store_batch(self, batch: Sequence[_PendingPut]) -> set[EntryKey]:
        """Store the entries that fit and return the keys of the refused ones."""
        size = sum(len(value) for put in batch for value in put.values.values())
        entries = (
            await asyncio.to_thread(self._pack_batch, batch) if size > _MAX_INLINE_BYTES else self._pack_batch(batch)
        )
        need = sum(len(entry.body) for entry in entries)
        if need > self._free_bytes:
            await self._update_free_bytes(need)
        fitting, refused = await self._select_fitting(entries)
        if fitting:
            await self._store.insert_entries(fitting)
        return refused

    def _pack_batch(self, batch: Sequence[_PendingPut]) -> list[Entry]:
        latest: dict[EntryKey, tuple[float, bytes]] = {}
        for put in batch:
            for name, value in put.values.items():
                expires, first = latest.get((put.owner, name), (put.expires, value))
                latest[put.owner, name] = max(expires, put.expires), first
        return [
            Entry(owner, name, expires, self._encryption.pack(owner, name, value))
            for (owner, name), (expires, value) in latest.items()
        ]

    async def _update_free_bytes(self, need: int) -> None:
        """Read the free space, and delete expired entries if it runs short."""
        used = await self._store.read_used_bytes()
        if self._capacity - used < max(_USAGE_CHECK_BYTES, need):
            if self._purge is None or self._purge.done():
                self._purge = asyncio.create_task(self._store.delete_expired(self._clock()))
            await asyncio.wait([self._purge], timeout=_PURGE_WAIT_SECONDS)  # it goes on beside the requests
            if self._purge.done() and (error := self._purge.exception()) is not None:
                raise error
            used = await self._store.read_used_bytes()
        self._free_bytes = self._capacity - used

    async def _select_fitting(self, entries: Sequence[Entry]) -> tuple[list[Entry], set[EntryKey]]:
        if sum(len(entry.body) for entry in entries) > self._free_bytes:
            stored = await self._store.extend_expiry(entries)
            entries = [entry for entry in entries if (entry.owner, entry.name) not in stored]
        fitting: list[Entry] = []
        refused: set[EntryKey] = set()
        for entry in entries:
            if len(entry.body) <= self._free_bytes:
                self._free_bytes -= len(entry.body)
                fitting.append(entry)
            else:
                refused.add((entry.owner, entry.name))
        self._free_bytes = min(self._free_bytes, _USAGE_CHECK_BYTES)
        return fitting, refused

    def _resolve_put(self, put: _PendingPut, result: set[EntryKey] | OriginalsError) -> None:
        if not isinstance(result, OriginalsError):
            self._cache_result(put, result)
        if put.future.done():  # the caller was cancelled
            return
        if isinstance(result, OriginalsError):
            put.future.set_exception(result)
        else:
            put.future.set_result(frozenset(name for name in put.values if (put.owner, name) in result))

    def _cache_result(self, put: _PendingPut, refused: set[EntryKey]) -> None:
        for key in ((put.owner, name) for name in put.values):
            notes, until = (self._refused_until, put.expires) if key in refused else (self._stored_until, put.expires)
            notes.pop(key, None)
            notes[key] = until
        self._limit_notes()

    def _limit_notes(self) -> None:
        for notes in (self._stored_until, self._refused_until):
            while len(notes) > _MAX_CACHED_KEYS:
                del notes[next(iter(notes))]
