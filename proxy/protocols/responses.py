"""The adapter of OpenAI's Responses API: input items to turns, and back what was hidden from the client.

Reads a parsed body and never changes it. An item of a kind that is not known (reasoning, built-in tools, whatever comes
next) is a turn without texts: it is counted and left alone. What stands behind a `previous_response_id` is the
upstream's, and nobody here sees it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from secrets import token_hex

import orjson

from ...compression.transcript import TextSlot, ToolCall, Turn
from . import expand_call, json_edit, responses_items, sse
from .api_errors import ApiError
from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json, is_array, is_object, parse_object
from .prefix_hash import BEFORE_FIRST
from .protocol import Conversation
from .responses_reply import ResponsesReplyFilter

TOKENS_PER_ITEM, TOKENS_PER_REPLY = 4, 3  # tokens beyond an item's texts, about as OpenAI counts a chat's
# Where the client carries out some tool of its own, the model can call functions; models for research, which have only
# the provider's tools, cannot.
_CLIENT_TOOL_TYPES = frozenset({"function", "custom", "namespace", "shell", "local_shell", "apply_patch"})


class ResponsesAdapter:
    """`POST /v1/responses`."""

    name = "responses"
    elements_key = "input"
    error_event_name = "error"
    is_anthropic = False

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body; None when its input is neither a text nor a list of items."""
        listed = parse_items(body)
        if listed is None:
            return None
        return Conversation(
            len(listed),
            count_overhead(listed),
            bool(body.get("tools")),
            partial(list_counted_texts, body, listed),
            partial(build_turns, body, listed),
        )

    def build_expand_tool(self, body: Json) -> Json | None:
        """Return the tool `clara_expand` as this request would offer it; None where it cannot be offered.

        A `conversation` is kept by the upstream: asked a second time, it would hold the client's input twice. A reply
        in the `background` is fetched elsewhere.
        """
        if body.get("background") or body.get("conversation") is not None:
            return None
        tools = body.get("tools")
        if not expand_call.can_add_expand_tool(tools) or not any(_is_client_tool(tool) for tool in tools or ()):
            return None
        told = {
            "name": expand_call.TOOL_NAME,
            "description": expand_call.TOOL_DESCRIPTION,
            "parameters": expand_call.TOOL_PARAMETERS,
        }
        return {"type": "function", **told, "strict": False}  # strict is what this API takes for granted

    def create_reply_filter(self) -> ResponsesReplyFilter:
        """Return what reads the replies to a request that offers the tool."""
        return ResponsesReplyFilter()

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return what tells an item from others; None for one that may come and go."""
        return responses_items.fingerprint_item(element)

    def reinsert_hidden(
        self, body: Json, index: int, hidden: Json
    ) -> tuple[dict[Path, StringEdit], dict[Path, ArrayEdit]]:
        """Return the changes that put what was hidden to the item of this index, or `BEFORE` the input."""
        listed = body.get("input")
        if not is_array(listed):
            return {}, {}  # a text: nothing can have been said before it
        results = {0: list(map(orjson.dumps, hidden["results"]))}
        return {}, {
            ("input",): ArrayEdit(
                insertions=results if index == BEFORE_FIRST else _position_hidden_items(listed, index, hidden)
            )
        }

    def append_elements(self, body: bytes, elements: Sequence[bytes]) -> bytes:
        """Return a body with more items, JSON texts, at its end; an input that is a text becomes a list first."""
        text = (parse_object(body) or {}).get("input")
        listed = _convert_input_to_list(body, text) if isinstance(text, str) else body
        return json_edit.append_elements(listed, ("input",), elements)

    def encode_error(self, error: ApiError) -> bytes:
        """Write an error as the body of a response."""
        return error.encode()

    def encode_error_event(self, error: ApiError) -> bytes:
        """Write an error as the last event of a stream that has begun.

        Its fields stand in it as the API documents it, and once more in `error`, where OpenAI's client looks for them.
        """
        told = {"code": error.code, "message": error.message, "param": error.param}
        nested = orjson.loads(error.encode())["error"]
        return sse.encode_event(orjson.dumps({"type": "error", **told, "error": nested}), name="error")


def parse_items(body: Json) -> list[Json] | None:
    """Return the input's items (a plain text is one), or None when it is no list of objects with known roles."""
    given = body.get("input")
    if isinstance(given, str):
        return [_build_user_message(given)]
    known = is_array(given) and all(is_object(one) and responses_items.get_role(one) is not None for one in given)
    return given if known and is_array(given) else None


def build_turns(body: Json, listed: list[Json]) -> list[Turn]:
    """Make one turn of every item; a tool's output knows the call that asked for it."""
    text = body.get("input")
    return [Turn("user", (TextSlot(("input",), text),))] if isinstance(text, str) else list(_iter_turns(listed))


def list_counted_texts(body: Json, listed: list[Json]) -> list[str]:
    """List all text of a request's context: instructions, items, tools on offer. Images and files are no text."""
    instructions = body.get("instructions")
    found = [instructions] if isinstance(instructions, str) else []
    found += [text for item in listed for text in responses_items.iter_strings(item)]
    if is_array(tools := body.get("tools")):
        found += [orjson.dumps(tool).decode() for tool in tools]
    return found


def count_overhead(listed: list[Json]) -> int:
    """Return the tokens a request costs beyond its texts, about."""
    return TOKENS_PER_REPLY + TOKENS_PER_ITEM * len(listed)


def _iter_turns(listed: list[Json]) -> Iterator[Turn]:
    calls: dict[str | None, ToolCall] = {}
    for index, item in enumerate(listed):
        kind, its_id = responses_items.get_item_type(item), responses_items.get_call_id(item)
        if kind.endswith("_call") and its_id is not None:
            calls[its_id] = responses_items.build_call(item)
        slots = tuple(responses_items.iter_slots(("input", index), item))
        if kind.endswith("_call_output"):
            yield Turn("tool", slots, calls.get(its_id))
        else:
            yield Turn(responses_items.get_role(item) or "system", slots)


def _is_client_tool(tool: object) -> bool:
    return is_object(tool) and str(tool.get("type")) in _CLIENT_TOOL_TYPES


def _build_user_message(text: str) -> Json:
    return {"role": "user", "content": text}


def _convert_input_to_list(body: bytes, text: str) -> bytes:
    """Write an input that is a text as the list of one message that it stands for; no other byte changes."""
    stand_in = token_hex(16)
    marked = json_edit.apply_edits(body, {("input",): StringEdit(text, stand_in)})
    return marked.replace(orjson.dumps(stand_in), orjson.dumps([_build_user_message(text)]), 1)


def _position_hidden_items(listed: list[Json], index: int, hidden: Json) -> dict[int, list[bytes]]:
    """Say before which of the client's items the hidden ones belong: the reply ends with the item of this index.

    Items that the client has left out are passed over. A client that leaves out items, or their ids, gets the hidden
    ones without theirs, too: a provider that knows an item by its id asks for those that belong to it.
    """
    own: list[tuple[int, Json]] = [(index + 1, result) for result in reversed(hidden["results"])]
    at, whole = index + 1, True
    for item, key, its_id in reversed(hidden["steps"]):
        if item is not None:
            own.append((at, item))
        else:
            place = _find_item(listed, at, key, its_id)
            whole = whole and place is not None and "id" in listed[place]
            at = at if place is None else place
    into: dict[int, list[bytes]] = {}
    for place, item in reversed(own):
        kept = item if whole else {name: value for name, value in item.items() if name != "id"}
        into.setdefault(place, []).append(orjson.dumps(kept))
    return into


def _find_item(listed: list[Json], end: int, key: str, its_id: object) -> int | None:
    """Find the last item before `end` that is the one of this key, with only what may come and go behind it."""
    for place in range(end - 1, -1, -1):
        if responses_items.hash_item(listed[place]) == key or responses_items.references_id(listed[place], its_id):
            return place
        if responses_items.fingerprint_item(listed[place]) is not None:
            return None
    return None


ADAPTER = ResponsesAdapter()
