"""The hidden tools in one request: their definitions in the body, and the records of their earlier calls.

Every request that offers tools gets `clara_expand` behind them and, with `x-clara-remember`, `clara_search`. Where an
earlier reply of the conversation called one of them, that call and its result return to their position, because the
provider's cache holds them there.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter

from ...compression.tokens import TokenCounter
from ..protocols import chat, compaction, expand_call, json_codec, json_edit, json_types, offload, token_counts
from ..protocols.json_edit import END, ArrayEdit, BodyChanges, Path, StringEdit
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.prefix_hash import BEFORE_FIRST, HashedPosition, PrefixHash, hash_reply_id
from ..protocols.protocol import ProtocolAdapter
from ..stores.originals import Originals
from ..stores.originals_store import OriginalsError
from .handler import ExpandHandler

MAX_OPENAI_TOOLS = 128  # OpenAI rejects a request with more tools
_CLIENT_TOOL_TYPES = frozenset({None, "function", "custom"})


class ExpandTool:
    """The tool as one protocol offers it to the model of one conversation, with further hidden tools."""

    def __init__(
        self, adapter: ProtocolAdapter, body: Json, tool: Json, handler: ExpandHandler, *further_tools: Json
    ) -> None:
        self.adapter, self.handler = adapter, handler
        self.reply_filter = adapter.create_reply_filter()
        self._body, self._tools = body, [tool, *further_tools]
        self.work = 0  # of walking through the body
        self.known_prefix_hash: PrefixHash | None = None  # of the first elements, from an earlier request
        self._prefix_hash: PrefixHash | None = None

    @property
    def is_callable(self) -> bool:
        """Return False if this request forces the model to call another tool. The tool is offered all the same."""
        return not expand_call.is_another_tool_forced(self._body.get("tool_choice"))

    @property
    def can_search(self) -> bool:
        """Return True if the request offers `clara_search`, too."""
        return len(self._tools) > 1

    async def build_changes(self, vocabulary: TokenCounter, *, reinsert: bool) -> BodyChanges:
        """Return the changes that offer the tool and, with `reinsert`, put the calls of earlier replies back.

        Calls behind a reply that the client names by its id return without `reinsert`, too.
        """
        string_edits: dict[Path, StringEdit] = {}
        array_edits: dict[Path, ArrayEdit] = {("tools",): ArrayEdit(insertions={END: self._tools})}
        tokens = token_counts.count_insertions(self.adapter, ("tools",), self._tools, vocabulary)
        start = compaction.find_read_start(self._body[self.adapter.elements_key]).element
        for index, hidden in await self._load_hidden(everywhere=reinsert):
            if BEFORE_FIRST != index < start:  # the provider reads a summary in its place
                continue
            new_string_edits, new_array_edits = self.adapter.reinsert_hidden(self._body, index, hidden)
            string_edits |= new_string_edits
            tokens += sum(token_counts.count_edits(new_string_edits, vocabulary).values())
            for path, edit in new_array_edits.items():
                array_edits[path] = json_edit.merge_array_edits(array_edits.get(path), edit)
                tokens += sum(
                    token_counts.count_insertions(self.adapter, path, elements, vocabulary)
                    for elements in edit.insertions.values()
                )
        return BodyChanges(string_edits, array_edits, tokens)

    async def store_hidden(self, results: list[str]) -> None:
        """Store the hidden part of this reply under the hash of the conversation that the client will send back."""
        hidden = self.reply_filter.build_hidden_record(results)
        if hidden is None:
            return
        record = json_codec.dumps(hidden)
        hashes = await offload.run_for(self.work, self._get_prefix_hash)
        prefix_hash = hashes.extend(self.reply_filter.list_visible_elements())
        if prefix_hash is not None:  # otherwise the client has no element to send back
            await self.handler.store_hidden(prefix_hash, record)
        for reply_id in hidden.get("ids", ()):
            await self.handler.store_hidden(hash_reply_id(reply_id), record)

    def _get_prefix_hash(self) -> PrefixHash:
        if self._prefix_hash is None:
            elements = list_elements(self.adapter, self._body)
            self._prefix_hash = PrefixHash(self.adapter, elements, self._previous_response_id, self.known_prefix_hash)
        return self._prefix_hash

    def copy_prefix_hash(self) -> PrefixHash | None:
        """Return the hashes along the request's elements for a later request, or None if none were computed."""
        return self._prefix_hash.copy() if self._prefix_hash is not None else None

    @property
    def _previous_response_id(self) -> str:
        """Return the id of the stored reply that this request continues, or an empty string."""
        reply_id = self._body.get("previous_response_id")
        return reply_id if isinstance(reply_id, str) else ""

    async def _load_hidden(self, *, everywhere: bool) -> list[tuple[int, Json]]:
        """Return the hidden records at the replies that the client names by id, or `everywhere` in the conversation."""
        referenced = await offload.run_for(self.work, self._list_referenced_positions)
        hashed = (await offload.run_for(self.work, self._get_prefix_hash)).positions if everywhere else []
        names = [name for _, name in (*referenced, *hashed)]
        records: Mapping[str, bytes] = await self.handler.load_hidden(names) if names else {}
        matches = [(index, records[name]) for index, name in referenced if name in records]
        duplicates = {record for _, record in matches}  # such a record is stored under its prefix hash as well
        matches += [
            (index, records[name]) for index, name in hashed if name in records and records[name] not in duplicates
        ]
        parsed = [(index, json_codec.loads(record)) for index, record in sorted(matches, key=itemgetter(0))]
        return [(index, record) for index, record in parsed if is_object(record)]

    def _list_referenced_positions(self) -> list[HashedPosition]:
        """List the positions of stored replies and items that the client names by id."""
        positions: list[HashedPosition] = []
        if self._previous_response_id:
            positions.append((BEFORE_FIRST, hash_reply_id(self._previous_response_id)))
        for index, element in enumerate(list_elements(self.adapter, self._body)):
            if element.keys() <= {"type", "id"} and isinstance(item_id := element.get("id"), str):
                positions.append((index, hash_reply_id(item_id)))
        return positions


def create_expand_tool(adapter: ProtocolAdapter, body: Json, handler: ExpandHandler) -> ExpandTool | None:
    """Return the tools for this conversation's model, or None if the request cannot offer them.

    A handler that can search has two; of these the request gets the first if there is no room for both.
    """
    offered = [expand_call.EXPAND_TOOL, *([expand_call.SEARCH_TOOL] if handler.can_search else [])]
    tools = [adapter.build_expand_tool(body, tool) for tool in offered[: _count_free_tools(adapter, body.get("tools"))]]
    first, *further = tools or [None]
    return None if first is None else ExpandTool(adapter, body, first, handler, *filter(None, further))


async def find_stored_reply(originals: Originals, owner_id: str, reply_id: str) -> Json | None:
    """Return the hidden record of a stored reply, or None for a reply without hidden calls.

    A client knows a streamed reply of several rounds by the id of its first round, the upstream by the record's
    `reply_id`.
    """
    name = hash_reply_id(reply_id)
    try:
        records = await originals.read_notes(owner_id, [name])
    except OriginalsError:
        return None
    return json_types.parse_object_exactly(records.get(name))


def restore_stored_reply(text: bytes, adapter: ProtocolAdapter, record: Json) -> bytes:
    """Return a body that continues a stored reply with the upstream's id of the reply and the hidden calls' results.

    A body that offers the tool gets these by `ExpandTool.build_changes`.
    """
    body = json_codec.loads(text)
    if not is_object(body):
        raise ValueError("the request body is not a JSON object")
    edits = adapter.reinsert_hidden(body, BEFORE_FIRST, record)
    return json_codec.dumps(json_edit.apply_edits(body, *edits))


def _count_free_tools(adapter: ProtocolAdapter, tools: object) -> int:
    """Return how many more functions the upstream accepts beside these tools of the client.

    Providers of chat models reject functions beside tools that they run themselves, such as `googleSearch`,
    `web_search` or `$web_search`. A client that offers a function of its own has found out that its model accepts both.
    """
    if not is_array(tools) or (adapter is chat.ADAPTER and not any(map(_is_client_function, tools))):
        return 0
    return MAX_OPENAI_TOOLS if adapter.is_anthropic else max(0, MAX_OPENAI_TOOLS - len(tools))


def _is_client_function(tool: object) -> bool:
    """Return True if the client runs this tool of a chat request."""
    if not is_object(tool) or tool.get("type") not in _CLIENT_TOOL_TYPES:
        return False
    definition = tool.get("function") or tool.get("custom") or tool
    name = definition.get("name") if is_object(definition) else None
    return isinstance(name, str) and not name.startswith("$")


def append_elements(text: bytes, adapter: ProtocolAdapter, elements: Sequence[Json]) -> bytes:
    """Return a JSON body with more messages or items at the end of its conversation."""
    body = json_codec.loads(text)
    if not is_object(body):
        raise ValueError("the request body is not a JSON object")
    conversation = [*list_elements(adapter, body), *elements]
    return json_codec.dumps(json_codec.merge(body, {adapter.elements_key: conversation}))


def list_elements(adapter: ProtocolAdapter, body: Json) -> list[Json]:
    """Return the messages or items of a body. An input that is a text stands for one message of the user."""
    elements = body[adapter.elements_key]
    return [{"role": "user", "content": elements}] if isinstance(elements, str) else elements
