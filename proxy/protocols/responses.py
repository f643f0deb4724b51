"""The adapter for OpenAI's Responses API.

It reads a parsed body and never changes it. An item of an unknown type (reasoning, built-in tools, future types) is a
turn without texts: it is counted and left alone. What a `previous_response_id` refers to stays with the upstream; the
proxy does not see it.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import orjson

from ...compression.transcript import TextSlot, Turn
from . import compaction, expand_call, json_codec, responses_items, sse
from .api_errors import ApiError
from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json, is_array, is_object
from .prefix_hash import BEFORE_FIRST
from .protocol import BodyEdits, Calls, Conversation
from .responses_reply import ResponsesReplyFilter

TOKENS_PER_ITEM, TOKENS_PER_REPLY = 4, 3  # tokens beyond an item's texts, about as OpenAI counts a chat's
# A model can call functions if the client runs tools of its own. Research models, with the provider's tools, cannot.
_CLIENT_TOOL_TYPES = frozenset({"function", "custom", "namespace", "shell", "local_shell", "apply_patch"})


class ResponsesAdapter:
    """`POST /v1/responses`."""

    name = "responses"
    elements_key = "input"
    error_event_name = "error"
    is_anthropic = False

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body. Return None if its input is neither a text nor a list of items."""
        items = parse_items(body)
        if items is None:
            return None
        read = compaction.drop_unread(items)
        return Conversation(
            len(items),
            count_overhead(read),
            bool(body.get("tools")),
            partial(_list_item_texts, read),
            partial(_list_other_texts, body),
            partial(build_turns, body, items),
            is_growing=read is items,
        )

    def build_expand_tool(self, body: Json, tool: expand_call.ToolDefinition = expand_call.EXPAND_TOOL) -> Json | None:
        """Return the definition of a hidden tool for this request, or None if it cannot be offered.

        The upstream stores a `conversation`: a second round would add the client's input to it twice. The client
        fetches a reply in the `background` by another request.
        """
        if body.get("background") or body.get("conversation") is not None:
            return None
        tools = body.get("tools")
        if not expand_call.can_add_expand_tool(tools) or not any(_is_client_tool(other) for other in tools or ()):
            return None
        return {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": False,  # this API's default is True
        }

    def create_reply_filter(self) -> ResponsesReplyFilter:
        """Return a filter for the replies to one request that offers the tool."""
        return ResponsesReplyFilter()

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return bytes that identify an item, or None for one that clients may omit."""
        return responses_items.fingerprint_item(element)

    def reinsert_hidden(self, body: Json, index: int, hidden: Json) -> BodyEdits:
        """Return the edits that put a hidden record back at the item with this index, or before the input."""
        items = body.get("input")
        string_edits = _map_reply_id(body, hidden) if index == BEFORE_FIRST else {}
        if not is_array(items):
            return string_edits, {}  # no call is unanswered before an input that is a text
        insertions = {0: hidden["results"]} if index == BEFORE_FIRST else _position_hidden_items(items, index, hidden)
        return string_edits, {("input",): ArrayEdit(insertions=insertions)}

    def encode_error(self, error: ApiError) -> bytes:
        """Return an error as a response body."""
        return error.encode()

    def encode_error_event(self, error: ApiError) -> bytes:
        """Return an error as the last event of a stream that has started.

        The event has the fields of the API's documentation, and repeats them in `error`, where OpenAI's client reads
        them.
        """
        fields = {"code": error.code, "message": error.message, "param": error.param}
        nested = orjson.loads(error.encode())["error"]
        return sse.encode_event(orjson.dumps({"type": "error", **fields, "error": nested}), name="error")


def parse_items(body: Json) -> list[Json] | None:
    """Return the items of the input. A plain text is one item. Return None for another shape or an unknown role."""
    value = body.get("input")
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not is_array(value):
        return None
    is_known = all(is_object(item) and responses_items.get_role(item) is not None for item in value)
    return value if is_known else None


def build_turns(body: Json, items: list[Json], first: int, calls: Calls) -> list[Turn]:
    """Return one turn per item from index `first` on. The turn of a tool output names the call that produced it.

    `calls` are those of the items before `first`, by their ids; the others are added.
    """
    text = body.get("input")
    if isinstance(text, str):
        return [Turn("user", (TextSlot(("input",), text),))]
    turns = list(_iter_turns(items, first, calls))
    return turns if first else compaction.mark_compacted(turns, items)


def _list_item_texts(items: Sequence[Json], first: int) -> list[str]:
    return [text for item in items[first:] for text in responses_items.iter_strings(item)]


def _list_other_texts(body: Json) -> list[str]:
    """List the instructions and the tools."""
    instructions, tools = body.get("instructions"), body.get("tools")
    texts = [instructions] if isinstance(instructions, str) else []
    return [*texts, *(json_codec.dumps(tool).decode() for tool in (tools if is_array(tools) else ()))]


def count_overhead(items: Sequence[Json]) -> int:
    """Return about how many tokens a request costs beyond its texts."""
    return TOKENS_PER_REPLY + TOKENS_PER_ITEM * len(items)


def _iter_turns(items: list[Json], first: int, calls: Calls) -> Iterator[Turn]:
    for index in range(first, len(items)):
        item = items[index]
        item_type, call_id = responses_items.get_item_type(item), responses_items.get_call_id(item)
        if item_type.endswith("_call") and call_id is not None:
            calls[call_id] = responses_items.build_call(item)
        slots = tuple(responses_items.iter_slots(("input", index), item))
        if item_type.endswith("_call_output"):
            yield Turn("tool", slots, calls.get(call_id or ""))
        else:
            yield Turn(responses_items.get_role(item) or "system", slots)


def _is_client_tool(tool: object) -> bool:
    return is_object(tool) and str(tool.get("type")) in _CLIENT_TOOL_TYPES


def _map_reply_id(body: Json, hidden: Json) -> dict[Path, StringEdit]:
    """Return the edit that names a reply by the upstream's id: the client knows it by the id of its first round."""
    previous_id, reply_id = body.get("previous_response_id"), hidden.get("reply_id")
    if not isinstance(previous_id, str) or not isinstance(reply_id, str) or previous_id == reply_id:
        return {}
    return {("previous_response_id",): StringEdit(previous_id, reply_id)}


def _position_hidden_items(items: list[Json], index: int, hidden: Json) -> dict[int, list[Json]]:
    """Return the hidden items by the index of the client's item that they precede.

    The reply ends with the item at `index`. Items that the client has dropped are skipped. If it has dropped items or
    their ids, the hidden ones lose their ids too: a provider that recognises an item by id asks for the others as well.
    """
    positions: list[tuple[int, Json]] = [(index + 1, result) for result in reversed(hidden["results"])]
    position, is_whole = index + 1, True
    for item, key, item_id in reversed(hidden["steps"]):
        if item is not None:
            positions.append((position, item))
        else:
            match = _find_item(items, position, key, item_id)
            is_whole = is_whole and match is not None and "id" in items[match]
            position = position if match is None else match
    insertions: dict[int, list[Json]] = {}
    for position, item in reversed(positions):
        inserted = item if is_whole else {name: value for name, value in item.items() if name != "id"}
        insertions.setdefault(position, []).append(inserted)
    return insertions


def _find_item(items: list[Json], end: int, key: str, item_id: object) -> int | None:
    """Return the index of the item with this key before `end`. Only items without a fingerprint may follow it."""
    for index in range(end - 1, -1, -1):
        item = items[index]
        if responses_items.hash_item(item) == key or responses_items.references_id(item, item_id):
            return index
        if responses_items.fingerprint_item(item) is not None:
            return None
    return None


ADAPTER = ResponsesAdapter()
