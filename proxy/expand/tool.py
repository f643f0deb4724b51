"""The retrieval tool in one request: what is woven into the body on its way up, and what is remembered of the replies.

The tool stands last among the client's own, in every request that offers tools at all. Where an earlier reply of this
conversation called it, that call and its answer are put back where they were, because the model saw them there.
"""

from collections.abc import Mapping
from operator import itemgetter

import orjson

from ...compression.tokens import Vocabulary
from ..protocols import token_counts
from ..protocols.json_edit import END, Changes, Edit, Path, Weave
from ..protocols.json_types import Json
from ..protocols.prefix_hash import BEFORE, Place, Trail, place_behind
from ..protocols.protocol import Wire
from .handler import Shelf


class Offer:
    """`tool` as this wire offers it to the model of this conversation."""

    def __init__(self, wire: Wire, body: Json, tool: Json, shelf: Shelf) -> None:
        self.wire, self.shelf = wire, shelf
        self.listener = wire.listen()
        self._body, self._tool = body, orjson.dumps(tool)
        self._trail: Trail | None = None

    async def changes(self, counted: Vocabulary, *, recall: bool) -> Changes:
        """Return what offering the tool changes, and with `recall` what puts back the calls of earlier replies."""
        edits: dict[Path, Edit] = {}
        weaves: dict[Path, Weave] = {("tools",): Weave(into={END: [self._tool]})}
        tokens = counted.count(self._tool.decode())
        for index, hidden in await self._remembered(everywhere=recall):
            more, woven = self.wire.woven(self._body, index, hidden)
            edits |= more
            tokens += sum(token_counts.edited(more, counted).values())
            for path, weave in woven.items():
                weaves[path] = _both(weaves.get(path), weave)
                tokens += sum(token_counts.woven(self.wire, path, listed, counted) for listed in weave.into.values())
        return Changes(edits, weaves, tokens)

    async def remember(self, results: list[str]) -> None:
        """Keep what the client does not see of this reply, under the place where it will send the reply back."""
        hidden = self.listener.hidden(results)
        if hidden is None:
            return
        written = orjson.dumps(hidden)
        place = self._walked().further(self.listener.visible())
        if place is not None:  # else the client has nothing that it could send back
            await self.shelf.remember(place, written)
        for its_id in hidden.get("ids", ()):
            await self.shelf.remember(place_behind(its_id), written)

    def _walked(self) -> Trail:
        if self._trail is None:
            self._trail = Trail(self.wire, self._elements(), self._goes_on_from)
        return self._trail

    def _elements(self) -> list[Json]:
        found = self._body[self.wire.elements]
        return [{"role": "user", "content": found}] if isinstance(found, str) else found

    @property
    def _goes_on_from(self) -> str:
        """Return the id of the reply behind which this request goes on, where the upstream remembers replies."""
        found = self._body.get("previous_response_id")
        return found if isinstance(found, str) else ""

    async def _remembered(self, *, everywhere: bool) -> list[tuple[int, Json]]:
        """Return what was hidden where the client names a place by its id, and everywhere else if it is wanted."""
        named, walked = self._named(), self._walked().places if everywhere else []
        places = [*named, *walked]
        known: Mapping[str, bytes] = await self.shelf.recall([name for _, name in places]) if places else {}
        found = [(index, known[name]) for index, name in named if name in known]
        twice = {hidden for _, hidden in found}  # what has a name of its own is not found by walking as well
        found += [(index, known[name]) for index, name in walked if name in known and known[name] not in twice]
        return [(index, orjson.loads(hidden)) for index, hidden in sorted(found, key=itemgetter(0))]

    def _named(self) -> list[Place]:
        """List the places behind what the upstream remembers, and the client but names."""
        before = [(BEFORE, place_behind(self._goes_on_from))] if self._goes_on_from else []
        listed = enumerate(self._elements())
        named = [(index, one["id"]) for index, one in listed if one.keys() <= {"type", "id"} and "id" in one]
        return [*before, *((index, place_behind(its_id)) for index, its_id in named if isinstance(its_id, str))]


def offered(wire: Wire, body: Json, shelf: Shelf) -> Offer | None:
    """Return the offer of the tool to this conversation's model; None where the request leaves no place for one."""
    tool = wire.offer(body)
    return None if tool is None else Offer(wire, body, tool, shelf)


def _both(one: Weave | None, other: Weave) -> Weave:
    if one is None:
        return other
    into = {index: [*one.into.get(index, ()), *other.into.get(index, ())] for index in {*one.into, *other.into}}
    return Weave(max(one.cut, other.cut), into)
