"""What a store of originals is: packed bytes by owner and name, each until it expires.

It knows no texts, promises nothing to clients and decides nothing: `Originals` does. A store is one file with this
protocol and one branch in `originals.store_at`. The invariant of each: once `insert` has returned, `read` gives every
replica the same bytes until they expire, also when this process is killed.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

EntryKey = tuple[str, str]  # owner, name
TIMEOUT_SECONDS = 2.0  # seconds that a server may take: a request waits for it


class OriginalsError(Exception):
    """The store cannot be read or written now; a marker whose original was not stored must not leave."""


class StoreFullError(OriginalsError):
    """There is no room for the texts of these `names`, and what is there was promised; the others were stored."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        super().__init__(f"the store of originals has no room for {len(self.names)} more")


class Entry(NamedTuple):
    """What is kept: packed bytes of an owner, until `expires` in Unix seconds."""

    owner: str
    name: str
    expires: float
    body: bytes


class EntryInfo(NamedTuple):
    """What is known of an entry without reading it; `size` in bytes as stored."""

    owner: str
    name: str
    expires: float
    size: int


class Store(Protocol):
    """Where originals are kept; every method raises OriginalsError when it cannot be reached."""

    async def start(self) -> None:
        """Open the store, and make it if it is not there."""
        ...

    async def stop(self) -> None:
        """Close the store."""
        ...

    async def insert_entries(self, entries: Sequence[Entry]) -> None:
        """Store entries of different keys, all or none; what is there already only gets a later expiry."""
        ...

    async def extend_expiry(self, entries: Sequence[Entry]) -> set[EntryKey]:
        """Give later expiries to those of the entries that are there, and say which are."""
        ...

    async def read_bodies(self, owner: str, names: Sequence[str], now: float) -> dict[str, bytes]:
        """Return those bodies that the owner has under these names and that have not expired."""
        ...

    async def read_deletion_version(self) -> object:
        """Return something that is another after each `drop`, by whichever process; requests wait for it."""
        ...

    async def read_used_bytes(self) -> int:
        """Return how many bytes are taken."""
        ...

    async def delete_expired(self, now: float) -> int:
        """Delete what has expired, and say how many entries that were."""
        ...

    async def delete_all(self, owner: str | None) -> int:
        """Delete everything, or all that one owner has, and say how many entries that were; then `wipes` is another."""
        ...

    async def list_entries(self, owner: str | None, name: str | None, limit: int) -> list[EntryInfo]:
        """List entries, of one owner or of one name if that is said, those first that are kept longest."""
        ...


@contextmanager
def map_store_errors(*trouble: type[Exception]) -> Generator[None]:
    """Make OriginalsErrors of a store's own kinds of trouble."""
    try:
        yield
    except trouble as error:
        raise OriginalsError(f"the originals cannot be reached: {type(error).__name__}") from error
