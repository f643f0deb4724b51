"""The interface of a store of originals: packed bytes by owner and name, each until it expires.

`Originals` packs the texts and decides what is stored. To support another store, implement `Store` and add a branch to
`originals.create_store`. The invariant: once `insert_entries` has returned, `read_bodies` returns the same bytes in
every replica until they expire, also after a crash.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

EntryKey = tuple[str, str]  # owner, name
TIMEOUT_SECONDS = 2.0  # for the answer of a server, while a request waits


class OriginalsError(Exception):
    """The store cannot be read or written; no marker may be forwarded whose original was not stored."""


class StoreFullError(OriginalsError):
    """The store has no space for the texts with these `names`; the others were stored."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        super().__init__(f"the store of originals is full: {len(self.names)} more do not fit")


class StoreLateError(OriginalsError):
    """The texts with these `names` were not stored in time; they may be stored later."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        super().__init__("the store of originals did not answer in time")


class Entry(NamedTuple):
    """Packed bytes of an owner, kept until `expires` (Unix seconds)."""

    owner: str
    name: str
    expires: float
    body: bytes


class EntryInfo(NamedTuple):
    """An entry without its body; `size` is the number of stored bytes."""

    owner: str
    name: str
    expires: float
    size: int


class Store(Protocol):
    """A store of originals; every method raises OriginalsError if the store cannot be reached."""

    async def start(self) -> None:
        """Open the store; create it if it does not exist."""
        ...

    async def stop(self) -> None:
        """Close the store."""
        ...

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries with different keys; an entry that is stored already only gets a later expiry."""
        ...

    async def extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        """Extend the expiry of the entries that are stored, and return their keys."""
        ...

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return the bodies of the owner's entries with these names, without expired ones."""
        ...

    async def read_deletion_version(self) -> object:
        """Return a value that changes with each `delete_all` in any process; requests wait for it."""
        ...

    async def read_used_bytes(self) -> int:
        """Return how many bytes are used."""
        ...

    async def delete_expired(self, now: float) -> int:
        """Delete expired entries and return their number."""
        ...

    async def delete_all(self, owner: str | None) -> int:
        """Delete all entries, or all of one owner, change the deletion version, and return their number."""
        ...

    async def list_entries(self, owner: str | None, name: str | None, limit: int) -> list[EntryInfo]:
        """List entries, of one owner or one name if given, the latest expiry first."""
        ...


@contextmanager
def map_store_errors(*error_types: type[Exception]) -> Generator[None]:
    """Convert the errors of a database to OriginalsError."""
    try:
        yield
    except error_types as error:
        raise OriginalsError(f"the originals cannot be reached: {type(error).__name__}") from error
