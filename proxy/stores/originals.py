"""The passages that were replaced, so that whoever sent one can have it back until it expires.

Not a cache of compressions and not for anybody else: a passage belongs to its owner, an opaque text that stands for a
client's key. The invariant: once `put` has returned, `get` gives the same owner the same text for so many seconds, also
when the process is killed and started again. What was promised is never evicted for what is new: only what has expired
makes room, the oldest first, and where there is none left `put` refuses. Whoever runs the proxy may wipe what was
promised (`drop`), also from another process: what is put after that is stored anew.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from .encryption import Encryption
from .excerpt import cut_excerpt
from .originals_sqlite import SqliteStore
from .originals_store import Entry, EntryInfo, EntryKey, OriginalsError, Store, StoreFullError

__all__ = [
    "DEFAULT_CAPACITY",
    "NAME_LENGTH",
    "Originals",
    "OriginalsError",
    "StoreFullError",
    "compute_name",
    "cut_excerpt",
]

NAME_LENGTH = 16  # hexadecimal digits of a name: a marker carries them, so that each costs tokens
DEFAULT_CAPACITY = 2**30  # bytes

_NAME_PATTERN = re.compile(f"[0-9a-f]{{{NAME_LENGTH}}}")
_NOTE_PREFIX = "~"  # before the names of what is remembered: no original's name begins so
_MAX_CACHED_KEYS = 10_000
_MAX_INLINE_BYTES = 32_000  # bytes that are packed on the event loop; more goes to a thread
_USAGE_CHECK_BYTES = (
    4 * 2**20
)  # bytes at most that are stored without looking how full the store is: others may write to it, too


class _PendingPut(NamedTuple):
    owner: str
    values: Mapping[str, bytes]
    expires: float
    future: "asyncio.Future[frozenset[str]]"


def compute_name(owner: str, text: str) -> str:
    """Return the name under which this owner's text is kept: the same everywhere and at any time."""
    return sha256(f"{owner}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:NAME_LENGTH]


def create_store(where: Path | str) -> Store:
    """Return the store of a file, or of a URL of SQLite, PostgreSQL or Redis. Raises OriginalsError for another."""
    if isinstance(where, Path):
        return SqliteStore(where)
    scheme, colon, rest = where.partition("://")
    try:
        if scheme in {"postgresql", "postgres", "postgresql+asyncpg"} and colon:
            from .originals_postgres import PostgresStore  # noqa: PLC0415 - an extra

            return PostgresStore(where)
        if scheme in {"redis", "rediss", "unix"} and colon:
            from .originals_redis import RedisStore  # noqa: PLC0415 - an extra

            return RedisStore(where)
    except ImportError as error:
        extra = "redis" if scheme in {"redis", "rediss", "unix"} else "postgres"
        raise OriginalsError(f"{scheme} needs the extra: pip install 'clara-proxy[{extra}]'") from error
    if scheme == "sqlite" and rest.startswith("/"):
        return SqliteStore(Path(rest[1:]))
    raise OriginalsError("originals are kept at sqlite:///PATH, postgresql://..., redis://... or unix://...")


class Originals:
    """Passages in the store at `where`; each is kept for `seconds` from its last `put`, at the least.

    `clock` gives Unix seconds; `room` is about how many bytes the store may take; with `keys` (32 bytes in base64 each)
    it is encrypted with the first of them and read with any.
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
        self._free_bytes = 0  # bytes that can be stored before looking again
        self._pending_puts: list[_PendingPut] = []
        self._writer: asyncio.Task[None] | None = None
        self._deletion_version: object = None  # as the store last told it
        self._stored_until: dict[EntryKey, float] = {}  # what was stored lately, and until when it is kept
        self._refused_until: dict[EntryKey, float] = {}  # what there was no room for lately, and until when that stands

    async def start(self) -> None:
        """Open or make the store. Raises OriginalsError when that cannot be done."""
        await self._store.start()
        self._deletion_version = await self._store.read_deletion_version()

    async def stop(self) -> None:
        """Finish what is being stored and close the store."""
        if self._writer is not None:
            await self._writer
        await self._store.stop()

    async def put(self, owner: str, texts: Sequence[str]) -> list[str]:
        """Store texts and return their names, in order; when it returns they can be fetched, also after a crash.

        What is stored already has its expiry renewed. Puts that meet share one transaction.

        Raises:
            NoRoomError: there is no room for some, and will not be said to be for these again: a passage that was
                sent as it was for that reason stays so (law 1).
            OriginalsError: the store cannot be reached.
        """
        names = [compute_name(owner, text) for text in texts]
        values = {n: text.encode("utf-8", "surrogatepass") for n, text in zip(names, texts, strict=True)}
        if refused := await self._store_values(owner, values):
            raise StoreFullError(refused)
        return names

    async def get(self, owner: str, name: str) -> str | None:
        """Return the owner's text of that name; None if unknown, expired or another's. Raises OriginalsError."""
        if not _NAME_PATTERN.fullmatch(name):
            return None
        found = (await self._read_values(owner, [name])).get(name)
        return None if found is None else found.decode("utf-8", "surrogatepass")

    async def store_note(self, owner: str, name: str, value: bytes) -> None:
        """Keep a small value of the owner's under a name (printable text) of the caller's; the first value stays.

        It is kept as long as an original, and longer while it is recalled. Raises NoRoomError, OriginalsError.
        """
        if await self._store_values(owner, {_NOTE_PREFIX + name: value}):
            raise StoreFullError([name])

    async def read_notes(self, owner: str, names: Sequence[str]) -> dict[str, bytes]:
        """Return what the owner has remembered under these names, where there is something. Raises OriginalsError."""
        found = await self._read_values(owner, [_NOTE_PREFIX + its_name for its_name in names])
        with suppress(OriginalsError):  # it is there, and will be for a while
            await self._store_values(owner, found, just_read=True)
        return {its_name.removeprefix(_NOTE_PREFIX): value for its_name, value in found.items()}

    async def delete_expired(self) -> int:
        """Wipe what has expired, give the space back and return how many entries went. Raises OriginalsError."""
        return await self._store.delete_expired(self._clock())

    async def delete_all(self, owner: str | None = None) -> int:
        """Wipe everything, or all of one owner's, promised or not, and return how many entries went."""
        return await self._store.delete_all(owner)

    async def list_entries(
        self, owner: str | None = None, name: str | None = None, limit: int = 100
    ) -> list[EntryInfo]:
        """List what has not expired, those first that are kept longest. Raises OriginalsError."""
        return [entry for entry in await self._store.list_entries(owner, name, limit) if entry.expires > self._clock()]

    async def _read_values(self, owner: str, names: Sequence[str]) -> dict[str, bytes]:
        if not names:
            return {}
        bodies = await self._store.read_bodies(owner, names, self._clock())
        if sum(map(len, bodies.values())) > _MAX_INLINE_BYTES:
            return await asyncio.to_thread(self._unpack_bodies, owner, bodies)
        return self._unpack_bodies(owner, bodies)

    def _unpack_bodies(self, owner: str, bodies: Mapping[str, bytes]) -> dict[str, bytes]:
        return {its_name: self._encryption.unpack(owner, its_name, body) for its_name, body in bodies.items()}

    async def _store_values(self, owner: str, values: Mapping[str, bytes], *, just_read: bool = False) -> set[str]:
        """Store values, and return the names of those there is no room for; `seen`: they have just been read."""
        now = self._clock()
        refused = {its_name for its_name in values if self._refused_until.get((owner, its_name), 0.0) > now}
        there = self._find_confirmed(owner, values, now)
        if there and not just_read:
            await self._invalidate_deleted()
            there = self._find_confirmed(owner, values, now)
        fresh = {its_name: value for its_name, value in values.items() if its_name not in refused | there}
        if fresh:
            done: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
            # A tenth more than promised, so that a conversation that grows by the minute does not write by the minute.
            self._pending_puts.append(_PendingPut(owner, fresh, now + self._ttl_seconds * 1.1, done))
            if self._writer is None:
                self._writer = asyncio.create_task(self._write_pending())
            refused |= await done
        return refused

    def _find_confirmed(self, owner: str, names: Iterable[str], now: float) -> set[str]:
        """Return those of the names that were stored for long enough, as far as is known here."""
        return {
            its_name for its_name in names if self._stored_until.get((owner, its_name), 0.0) >= now + self._ttl_seconds
        }

    async def _invalidate_deleted(self) -> None:
        """Know of nothing any more where something was wiped since this was last asked, by whichever process.

        A store that does not answer is taken at the word it gave.
        """
        with suppress(OriginalsError):
            wipes = await self._store.read_deletion_version()
            if wipes != self._deletion_version:
                self._stored_until.clear()
                self._deletion_version = wipes

    async def _write_pending(self) -> None:
        try:
            while self._pending_puts:
                batch, self._pending_puts = self._pending_puts, []
                await self._write_batch(batch)
        finally:
            self._writer = None

    async def _write_batch(self, batch: Sequence[_PendingPut]) -> None:
        result: set[EntryKey] | OriginalsError = OriginalsError("storing the originals was broken off")
        wipes = self._deletion_version
        try:
            result = await self._store_batch(batch)
        except OriginalsError as error:
            result = error
        finally:  # nobody is left waiting, whatever happened
            for put in batch:
                self._resolve_put(put, result)
            if self._deletion_version != wipes:  # meanwhile: what has just been stored may be gone
                self._stored_until.clear()

    async def _store_batch(self, batch: Sequence[_PendingPut]) -> set[EntryKey]:
        """Store what there is room for, and return the rest."""
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
            for its_name, value in put.values.items():
                expires, first = latest.get((put.owner, its_name), (put.expires, value))
                latest[put.owner, its_name] = max(expires, put.expires), first
        return [
            Entry(owner, its_name, expires, self._encryption.pack(owner, its_name, value))
            for (owner, its_name), (expires, value) in latest.items()
        ]

    async def _update_free_bytes(self, need: int) -> None:
        """See how much room there is, and make some where it runs short."""
        used = await self._store.read_used_bytes()
        if self._capacity - used < max(_USAGE_CHECK_BYTES, need) and await self._store.delete_expired(self._clock()):
            used = await self._store.read_used_bytes()
        self._free_bytes = self._capacity - used

    async def _select_fitting(self, entries: Sequence[Entry]) -> tuple[list[Entry], set[EntryKey]]:
        if sum(len(entry.body) for entry in entries) > self._free_bytes:
            there = await self._store.extend_expiry(entries)
            entries = [entry for entry in entries if (entry.owner, entry.name) not in there]
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
        if put.future.done():  # its caller has left
            return
        if isinstance(result, OriginalsError):
            put.future.set_exception(result)
        else:
            put.future.set_result(frozenset(its_name for its_name in put.values if (put.owner, its_name) in result))

    def _cache_result(self, put: _PendingPut, refused: set[EntryKey]) -> None:
        for key in ((put.owner, its_name) for its_name in put.values):
            notes, until = (self._refused_until, put.expires) if key in refused else (self._stored_until, put.expires)
            notes.pop(key, None)
            notes[key] = until
        for notes in (self._stored_until, self._refused_until):
            while len(notes) > _MAX_CACHED_KEYS:
                del notes[next(iter(notes))]
