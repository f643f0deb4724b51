"""The retrieval tool in one request: what is woven into the body on its way up, and what is remembered of the replies.

The tool stands last among the client's own, in every request that offers tools at all. Where an earlier reply of this
conversation called it, that call and its answer are put back where they were, because the model saw them there.
"""

from collections.abc import Mapping
from operator import itemgetter

import orjson

from ...compression.tokens import TokenCounter
from ..protocols import token_counts
from ..protocols.json_edit import END, ArrayEdit, BodyChanges, Path, StringEdit
from ..protocols.json_types import Json
from ..protocols.prefix_hash import BEFORE_FIRST, HashedPosition, PrefixHash, hash_reply_id
from ..protocols.protocol import ProtocolAdapter
from .handler import ExpandHandler


class ExpandTool:
    """`tool` as this wire offers it to the model of this conversation."""

    def __init__(self, adapter: ProtocolAdapter, body: Json, tool: Json, handler: ExpandHandler) -> None:
        self.adapter, self.handler = adapter, handler
        self.reply_filter = adapter.create_reply_filter()
        self._body, self._tool_json = body, orjson.dumps(tool)
        self._prefix_hash: PrefixHash | None = None

    async def build_changes(self, vocabulary: TokenCounter, *, reinsert: bool) -> BodyChanges:
        """Return what offering the tool changes, and with `recall` what puts back the calls of earlier replies."""
        edits: dict[Path, StringEdit] = {}
        weaves: dict[Path, ArrayEdit] = {("tools",): ArrayEdit(insertions={END: [self._tool_json]})}
        tokens = vocabulary.count(self._tool_json.decode())
        for index, hidden in await self._load_hidden(everywhere=reinsert):
            more, woven = self.adapter.reinsert_hidden(self._body, index, hidden)
            edits |= more
            tokens += sum(token_counts.count_edits(more, vocabulary).values())
            for path, weave in woven.items():
                weaves[path] = _merge_array_edits(weaves.get(path), weave)
                tokens += sum(
                    token_counts.count_insertions(self.adapter, path, listed, vocabulary)
                    for listed in weave.insertions.values()
                )
        return BodyChanges(edits, weaves, tokens)

    async def store_hidden(self, results: list[str]) -> None:
        """Keep what the client does not see of this reply, under the place where it will send the reply back."""
        hidden = self.reply_filter.build_hidden_record(results)
        if hidden is None:
            return
        written = orjson.dumps(hidden)
        place = self._get_prefix_hash().extend(self.reply_filter.list_visible_elements())
        if place is not None:  # else the client has nothing that it could send back
            await self.handler.store_hidden(place, written)
        for its_id in hidden.get("ids", ()):
            await self.handler.store_hidden(hash_reply_id(its_id), written)

    def _get_prefix_hash(self) -> PrefixHash:
        if self._prefix_hash is None:
            self._prefix_hash = PrefixHash(self.adapter, self._list_elements(), self._previous_response_id)
        return self._prefix_hash

    def _list_elements(self) -> list[Json]:
        found = self._body[self.adapter.elements_key]
        return [{"role": "user", "content": found}] if isinstance(found, str) else found

    @property
    def _previous_response_id(self) -> str:
        """Return the id of the reply behind which this request goes on, where the upstream remembers replies."""
        found = self._body.get("previous_response_id")
        return found if isinstance(found, str) else ""

    async def _load_hidden(self, *, everywhere: bool) -> list[tuple[int, Json]]:
        """Return what was hidden where the client names a place by its id, and everywhere else if it is wanted."""
        named, walked = self._list_referenced_positions(), self._get_prefix_hash().positions if everywhere else []
        places = [*named, *walked]
        known: Mapping[str, bytes] = await self.handler.load_hidden([name for _, name in places]) if places else {}
        found = [(index, known[name]) for index, name in named if name in known]
        twice = {hidden for _, hidden in found}  # what has a name of its own is not found by walking as well
        found += [(index, known[name]) for index, name in walked if name in known and known[name] not in twice]
        return [(index, orjson.loads(hidden)) for index, hidden in sorted(found, key=itemgetter(0))]

    def _list_referenced_positions(self) -> list[HashedPosition]:
        """List the places behind what the upstream remembers, and the client but names."""
        before = [(BEFORE_FIRST, hash_reply_id(self._previous_response_id))] if self._previous_response_id else []
        listed = enumerate(self._list_elements())
        named = [(index, one["id"]) for index, one in listed if one.keys() <= {"type", "id"} and "id" in one]
        return [*before, *((index, hash_reply_id(its_id)) for index, its_id in named if isinstance(its_id, str))]


def create_expand_tool(adapter: ProtocolAdapter, body: Json, handler: ExpandHandler) -> ExpandTool | None:
    """Return the offer of the tool to this conversation's model; None where the request leaves no place for one."""
    tool = adapter.build_expand_tool(body)
    return None if tool is None else ExpandTool(adapter, body, tool, handler)


def _merge_array_edits(one: ArrayEdit | None, other: ArrayEdit) -> ArrayEdit:
    if one is None:
        return other
    into = {
        index: [*one.insertions.get(index, ()), *other.insertions.get(index, ())]
        for index in {*one.insertions, *other.insertions}
    }
    return ArrayEdit(max(one.drop_count, other.drop_count), into)
