"""The passages that were replaced, so that whoever sent one can have it back until it expires.

Not a cache of compressions and not for anybody else: a passage belongs to its owner, an opaque text that stands for a
client's key. The invariant: once `put` has returned, `get` gives the same owner the same text for so many seconds, also
when the process is killed and started again. (After a power cut the last puts may be gone; the client still has the
texts, and sending its conversation again puts them again under the same names.)
"""

import asyncio
import math
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import zstandard

LENGTH = 16  # hexadecimal digits of a name: a marker carries them, so that each costs tokens

_NAME = re.compile(f"[0-9a-f]{{{LENGTH}}}")
_TABLE = """
    CREATE TABLE IF NOT EXISTS originals (
        owner TEXT NOT NULL, name TEXT NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL, PRIMARY KEY (owner, name)
    )
"""
_INDEX = "CREATE INDEX IF NOT EXISTS originals_expires ON originals (expires)"
_INSERT = "INSERT INTO originals (owner, name, expires, body) VALUES"
_RENEW = "ON CONFLICT DO UPDATE SET expires = max(expires, excluded.expires)"
_REMEMBERED = 10_000
# A stopped thread pool raises RuntimeError, a text that SQLite cannot take ValueError or OverflowError.
_TROUBLE = (sqlite3.Error, zstandard.ZstdError, OSError, RuntimeError, ValueError, OverflowError)
_AT_ONCE = 64  # rows in one statement: it lets go of the interpreter once, and not once for each row

MATCHES = 20  # best lines that a query gives
AROUND = 2  # lines of context on either side
PIECE = 1_000  # characters: a longer line (minified JSON) is searched and shown in pieces of these


Result = TypeVar("Result")


class OriginalsError(Exception):
    """The store cannot be read or written now; a marker whose original was not stored must not leave."""


class _Put(NamedTuple):
    owner: str
    texts: Mapping[str, str]
    expires: float
    done: "asyncio.Future[None]"


def name(owner: str, text: str) -> str:
    """Return the name under which this owner's text is kept: the same everywhere and at any time."""
    return sha256(f"{owner}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:LENGTH]


class Originals:
    """A store in the SQLite file at `path`; each passage is kept for `seconds` from its last `put`, at the least.

    One thread of its own does all the reading and writing. `clock` gives Unix seconds.
    """

    def __init__(self, path: Path, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._seconds = seconds
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="originals")
        self._database: sqlite3.Connection | None = None
        self._waiting: list[_Put] = []
        self._writer: asyncio.Task[None] | None = None
        self._known: dict[tuple[str, str], float] = {}  # what was stored lately, and until when it is kept
        self._pack = zstandard.ZstdCompressor(level=1).compress
        self._unpack = zstandard.ZstdDecompressor().decompress

    async def start(self) -> None:
        """Open or make the file. Raises OriginalsError when that cannot be done."""
        await self._run(self._open)

    async def stop(self) -> None:
        """Finish what is being stored and close the file."""
        if self._writer is not None:
            await self._writer
        await self._run(self._close)
        self._thread.shutdown()

    async def put(self, owner: str, texts: Sequence[str]) -> list[str]:
        """Store texts and return their names, in order; when it returns they can be fetched, also after a crash.

        What is stored already has its expiry renewed. Puts that meet share one transaction. Raises OriginalsError.
        """
        names = [name(owner, text) for text in texts]
        now = self._clock()
        # A tenth more than promised, so that a conversation that grows by the minute does not write by the minute.
        expires = now + self._seconds * 1.1
        fresh = {
            its_name: text
            for its_name, text in zip(names, texts, strict=True)
            if self._known.get((owner, its_name), 0.0) < now + self._seconds
        }
        if fresh:
            done = asyncio.get_running_loop().create_future()
            self._waiting.append(_Put(owner, fresh, expires, done))
            if self._writer is None:
                self._writer = asyncio.create_task(self._write())
            await done
        return names

    async def get(self, owner: str, its_name: str) -> str | None:
        """Return the owner's text of that name; None if unknown, expired or another's. Raises OriginalsError."""
        if not _NAME.fullmatch(its_name):
            return None
        return await self._run(lambda: self._read(owner, its_name))

    async def purge(self) -> int:
        """Wipe what has expired, give the space back and return how many passages went. Raises OriginalsError."""
        return await self._run(self._wipe)

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except _TROUBLE as error:
            raise OriginalsError(f"the originals cannot be reached: {type(error).__name__}") from error

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._write_down(batch)
        finally:
            self._writer = None

    async def _write_down(self, batch: Sequence[_Put]) -> None:
        failure: OriginalsError | None = OriginalsError("storing the originals was broken off")
        try:
            await self._run(lambda: self._store(batch))
            failure = None
        except OriginalsError as error:
            failure = error
        finally:  # nobody is left waiting, whatever happened
            for put in batch:
                self._answer(put, failure)

    def _answer(self, put: _Put, failure: OriginalsError | None) -> None:
        if failure is None:
            self._remember(put)
        if put.done.done():  # its caller has left
            return
        if failure is None:
            put.done.set_result(None)
        else:
            put.done.set_exception(failure)

    def _remember(self, put: _Put) -> None:
        for its_name in put.texts:
            self._known.pop((put.owner, its_name), None)
            self._known[put.owner, its_name] = put.expires
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    # what follows runs in the thread

    def _open(self) -> None:
        prepare(self._path)
        self._database = sqlite3.connect(self._path, isolation_level=None)
        for statement in ("PRAGMA synchronous = NORMAL", "PRAGMA secure_delete = ON", _TABLE, _INDEX):
            self._database.execute(statement)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise OriginalsError("the store of originals is not open")
        return self._database

    def _store(self, batch: Sequence[_Put]) -> None:
        rows = [
            (put.owner, its_name, put.expires, self._pack(text.encode("utf-8", "surrogatepass")))
            for put in batch
            for its_name, text in put.texts.items()
        ]
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            values = ", ".join(["(?, ?, ?, ?)"] * len(some))
            self._opened().execute(f"{_INSERT} {values} {_RENEW}", tuple(chain.from_iterable(some)))

    def _read(self, owner: str, its_name: str) -> str | None:
        where = "SELECT body FROM originals WHERE owner = ? AND name = ? AND expires > ?"
        found = self._opened().execute(where, (owner, its_name, self._clock())).fetchone()
        return None if found is None else self._unpack(found[0]).decode("utf-8", "surrogatepass")

    def _wipe(self) -> int:
        database = self._opened()
        gone = database.execute("DELETE FROM originals WHERE expires <= ?", (self._clock(),)).rowcount
        if gone:
            # As a script, because fetching from this pragma takes one step and frees one page.
            database.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
        return gone


def prepare(path: Path) -> None:
    """Make an SQLite file that only its owner can read, in write-ahead mode. Blocks; raises OSError, sqlite3.Error."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _write_ahead(database, tries=100)
    finally:
        database.close()


def _write_ahead(database: sqlite3.Connection, tries: int) -> None:
    # SQLite does not wait for its lock here, and processes may start together.
    for attempt in range(tries):
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if attempt == tries - 1:
                raise
            time.sleep(0.02)
        else:
            return


def part(text: str, query: str | None = None, lines: str | None = None) -> str:
    """Cut a piece out of a passage, verbatim.

    `lines` is `N`, `N-M` or `N-`, from 1 on, both ends included; an end past the last line is the last line. `query`
    gives the lines that say most of its words, rare words first, with two around each, in their order: `12:` before
    one that matches, `11-` before one that stands near, `--` where lines are left out, nothing at all if none matches.
    Of a line longer than `PIECE` it gives pieces, `12@1001:` being that from its 1,001st character on. Both together
    search within the lines, neither gives the whole text. Raises ValueError when `lines` makes no sense.
    """
    rows = text.split("\n")
    first, last = (1, len(rows)) if lines is None else _range(lines, len(rows))
    if query is None:
        return "\n".join(rows[first - 1 : last])
    pieces = list(_pieces(rows, first, last))
    best = set(_best(query, [piece for _, piece in pieces]))
    near = sorted({index for hit in best for index in range(max(0, hit - AROUND), min(len(pieces), hit + AROUND + 1))})
    runs = groupby(enumerate(near), lambda place: place[1] - place[0])
    return "\n--\n".join(
        "\n".join(f"{pieces[index][0]}{':' if index in best else '-'}{pieces[index][1]}" for _, index in run)
        for _, run in runs
    )


def _range(lines: str, count: int) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})(-?)([0-9]{0,9})", lines.strip())
    if found is None or (found[3] and not found[2]):
        raise ValueError(f"lines must be N, N-M or N-, as in 10-20, not {lines[:40]!r}")
    first = int(found[1])
    last = int(found[3]) if found[3] else count if found[2] else first
    if first < 1:
        raise ValueError("lines are counted from 1")
    if last < first:
        raise ValueError(f"lines end ({last}) before they begin ({first})")
    if first > count:
        raise ValueError(f"lines begin at {first}, but there are only {count}")
    return first, min(last, count)


def _pieces(rows: Sequence[str], first: int, last: int) -> Iterable[tuple[str, str]]:
    for number in range(first, last + 1):
        row = rows[number - 1]
        if len(row) <= PIECE:
            yield str(number), row
        else:
            yield from ((f"{number}@{at + 1}", row[at : at + PIECE]) for at in range(0, len(row), PIECE))


def _best(query: str, pieces: Sequence[str]) -> list[int]:
    wanted = _words(query)
    phrase = query.strip().casefold()
    said = [wanted & _words(piece) for piece in pieces]
    spread = Counter(chain.from_iterable(said))
    weight = {word: math.log(1 + len(pieces) / times) for word, times in spread.items()}
    whole = sum(weight.values()) + 1.0  # the query as it stands beats any of its words
    scores = [
        sum(weight[word] for word in words) + (whole if phrase and phrase in piece.casefold() else 0.0)
        for words, piece in zip(said, pieces, strict=True)
    ]
    ranked = sorted((index for index, score in enumerate(scores) if score > 0), key=lambda index: -scores[index])
    return [index for index in ranked[:MATCHES] if scores[index] >= scores[ranked[0]] / 3]


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.casefold()))
