"""The real path from a chat's body to a shorter one, in this process: everything but HTTP.

`find` puts another compressor in the place of the registry's; without `store` the originals cannot be reached.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import orjson

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Compressor, Condensed, Task
from clara_proxy.compression.engine import Engine
from clara_proxy.config.settings import Settings
from clara_proxy.proxy import steering
from clara_proxy.proxy.accounting import Row
from clara_proxy.proxy.condense import Condenser
from clara_proxy.proxy.errors import ApiError
from clara_proxy.proxy.originals import Originals
from clara_proxy.proxy.shorten import Shortener
from clara_proxy.proxy.visit import Visit
from clara_proxy.tests.conversations import Json

OWNER = "owner-of-the-secret-key"
Find = Callable[[str], Compressor]
Style = Callable[[Json], bytes]
Does = Callable[[Task], Condensed | None]


def _indented(body: Json) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode()


# As the clients of this world write JSON: with blanks and \uXXXX, without either, for people to read.
STYLES: tuple[Style, ...] = (lambda body: json.dumps(body).encode(), orjson.dumps, _indented)


class Sent(NamedTuple):
    """What became of one request."""

    forwarded: bytes
    visit: Visit
    row: Row

    @property
    def messages(self) -> list[Json]:
        return list(orjson.loads(self.forwarded)["messages"])

    @property
    def head(self) -> bytes:
        """The bytes of the messages, but for the bracket that ends them."""
        return elements(self.forwarded)


class InProcess:
    """A proxy without HTTP, on an event loop of its own."""

    def __init__(self, folder: Path, *, find: Find = registry.find, store: bool = True) -> None:
        self.settings = Settings(data_dir=folder, deadline_ms=60_000, cache_mb=16)
        self._store = store
        self.originals = Originals(folder / "originals.sqlite3", self.settings.originals_ttl)
        self._find = find
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        if self._store:
            self._loop.run_until_complete(self.originals.start())
        self.restart()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._engine.close()
        self._loop.run_until_complete(self.originals.stop())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def restart(self, find: Find | None = None, *, queue: int | None = None) -> None:
        """Forget everything that was decided: from here on this is another replica, with `self.settings`."""
        settings = self.settings
        self._engine = Engine(
            workers=settings.workers,
            queue=queue or settings.queue,
            cache_bytes=settings.cache_mb * 2**20,
            find=find or self._find,
        )
        self._condenser = Condenser(settings, Shortener({"extract": self._engine}, self.originals))

    def send(self, plain: bytes, headers: Mapping[str, str] | None = None) -> Sent:
        """Condense one body; an ApiError is the caller's."""
        return self._run(plain, headers or {}, self._visit(plain, headers or {}))

    def refused(self, plain: bytes, headers: Mapping[str, str]) -> tuple[ApiError, Row]:
        """Condense one body that must be refused, and return why, and the row it leaves."""
        visit = self._visit(plain, headers)
        try:
            self._run(plain, headers, visit)
        except ApiError as error:
            visit.status, visit.outcome = error.status, "rejected"
            return error, visit.row()
        raise AssertionError("it was not refused")

    def fetch(self, its_name: str) -> str | None:
        """Fetch an original back."""
        return self._loop.run_until_complete(self.originals.get(OWNER, its_name))

    def _visit(self, plain: bytes, headers: Mapping[str, str]) -> Visit:
        asked = steering.read(headers, steering.defaults(self.settings))
        return Visit("/v1/chat/completions", asked, protocol="chat", model=str(orjson.loads(plain).get("model")))

    def _run(self, plain: bytes, headers: Mapping[str, str], visit: Visit) -> Sent:
        forwarded = self._loop.run_until_complete(self._condenser.condense(visit, plain, orjson.loads(plain), OWNER))
        visit.status = 200
        return Sent(forwarded, visit, visit.row())


class Double:
    """A compressor that does what it is told: returns pieces, None, or raises; late, it sleeps first."""

    name = "double"

    def __init__(self, does: Does) -> None:
        self.asked: list[Task] = []
        self._does = does

    def recognises(self, text: str) -> bool:
        return True

    def compress(self, task: Task) -> Condensed | None:
        self.asked.append(task)
        return self._does(task)


def elements(body: bytes) -> bytes:
    """Return the bytes of a body's `messages` without the last bracket; no text before them may name the key."""
    text = body.decode()
    start = text.index('"messages":') + len('"messages":')
    start += len(text[start:]) - len(text[start:].lstrip())
    _, end = json.JSONDecoder().raw_decode(text, start)
    return text[start : end - 1].rstrip().encode()
