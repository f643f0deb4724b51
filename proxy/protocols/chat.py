"""The adapter of OpenAI's chat completions: a request body to turns, and its size in tokens.

Reads a parsed body and never changes it; edits go into the body's bytes by json_splice. A body that is not of the
expected shape yields None: it is forwarded as it came, and the upstream says what is wrong with it.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import orjson

from ...compression.transcript import Role, TextSlot, ToolCall, Turn
from . import expand_call, json_edit, sse
from .api_errors import ApiError
from .chat_reply import ChatReplyFilter
from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json, is_array, is_object
from .protocol import Conversation

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# What a chat costs beyond its texts, as OpenAI counts it.
TOKENS_PER_MESSAGE, TOKENS_PER_REPLY = 4, 3


class ChatAdapter:
    """`POST /v1/chat/completions`."""

    name = "chat"
    elements_key = "messages"
    is_anthropic = False
    error_event_name = ""

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body; None when its messages are not a list of objects with known roles."""
        listed = parse_messages(body)
        if listed is None:
            return None
        agentic = bool(body.get("tools") or body.get("functions"))
        count, take = partial(list_counted_texts, body, listed), partial(build_turns, listed)
        return Conversation(len(listed), count_overhead(listed), agentic, count, take)

    def build_expand_tool(self, body: Json) -> Json | None:
        """Return the tool `clara_expand` as this request would offer it; None where it cannot be offered."""
        if not expand_call.can_add_expand_tool(body.get("tools")) or body.get("n") not in (None, 1):
            return None
        told = {
            "name": expand_call.TOOL_NAME,
            "description": expand_call.TOOL_DESCRIPTION,
            "parameters": expand_call.TOOL_PARAMETERS,
        }
        return {"type": "function", "function": told}

    def create_reply_filter(self) -> ChatReplyFilter:
        """Return what reads the replies to a request that offers the tool."""
        return ChatReplyFilter()

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return what tells a message from others; None for the system's, which may come and go."""
        role = str(element.get("role"))
        if ROLES.get(role) == "system":
            return None
        calls = [[name, *call] for name, call in _iter_calls(element)]
        return orjson.dumps(
            [role, "".join(iter_content_texts(element)), calls, element.get("tool_call_id")], default=str
        )

    def reinsert_hidden(
        self, body: Json, index: int, hidden: Json
    ) -> tuple[dict[Path, StringEdit], dict[Path, ArrayEdit]]:
        """Return the changes that put what was hidden to the message of this index."""
        edits: dict[Path, StringEdit] = {}
        content = body["messages"][index].get("content")
        if hidden["strip"] and isinstance(content, str):
            edits["messages", index, "content"] = StringEdit(content, content[hidden["strip"] :])
        into = {index: list(map(orjson.dumps, hidden["before"])), index + 1: list(map(orjson.dumps, hidden["after"]))}
        weaves: dict[Path, ArrayEdit] = {("messages",): ArrayEdit(insertions=into)}
        calls: dict[int, list[bytes]] = {}
        for earlier, (place, call) in enumerate(hidden["calls"]):
            calls.setdefault(place - earlier, []).append(orjson.dumps(call))
        if calls:
            weaves["messages", index, "tool_calls"] = ArrayEdit(insertions=calls)
        return edits, weaves

    def append_elements(self, body: bytes, elements: Sequence[bytes]) -> bytes:
        """Return a body with more messages, JSON texts, at its end."""
        return json_edit.append_elements(body, ("messages",), elements)

    def encode_error(self, error: ApiError) -> bytes:
        """Write an error as the body of a response."""
        return error.encode()

    def encode_error_event(self, error: ApiError) -> bytes:
        """Write an error as the last event of a stream that has begun."""
        return sse.encode_event(error.encode())


def parse_messages(body: Json) -> list[Json] | None:
    """Return the messages, or None when they are not a list of objects with known roles."""
    found = body.get("messages")
    known = is_array(found) and all(is_object(one) and str(one.get("role")) in ROLES for one in found)
    return found if known and is_array(found) else None


def build_turns(listed: list[Json]) -> list[Turn]:
    """Make one turn of every message; a tool's answer knows the call that asked for it."""
    calls: dict[str, ToolCall] = {}
    made: list[Turn] = []
    for index, message in enumerate(listed):
        role = ROLES[message["role"]]
        if "tool_calls" in message or "function_call" in message:
            calls.update(_iter_calls(message))
        asked_by = calls.get(str(message.get("tool_call_id") or message.get("name"))) if role == "tool" else None
        made.append(Turn(role, _build_slots(index, message.get("content")), asked_by))
    return made


def list_counted_texts(body: Json, listed: list[Json]) -> list[str]:
    """List all text of a chat's context: contents, names and arguments of calls, tools on offer. Images are no text."""
    found = [text for message in listed for text in iter_content_texts(message)]
    for message in listed:
        if "tool_calls" in message or "function_call" in message:
            found += [text for _, call in _iter_calls(message) for text in call]
    for offered in ("tools", "functions"):
        if is_array(tools := body.get(offered)):
            found += [orjson.dumps(tool).decode() for tool in tools]
    return found


def count_overhead(listed: list[Json]) -> int:
    """Return the tokens a chat costs beyond its texts."""
    return TOKENS_PER_REPLY + TOKENS_PER_MESSAGE * len(listed)


def iter_content_texts(message: Json) -> Iterator[str]:
    """List the texts of a message's content."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif is_array(content):
        yield from (part["text"] for part in content if is_object(part) and isinstance(part.get("text"), str))


def _build_slots(index: int, content: object) -> tuple[TextSlot, ...]:
    if isinstance(content, str):
        return (TextSlot(("messages", index, "content"), content),)
    return tuple(
        TextSlot(("messages", index, "content", position, "text"), part["text"])
        for position, part in enumerate(content if is_array(content) else ())
        if is_object(part) and isinstance(part.get("text"), str)
    )


def _iter_calls(message: Json) -> Iterator[tuple[str, ToolCall]]:
    """List the calls of a message by the id their answers carry; the older `function_call` has only its name."""
    listed = message.get("tool_calls")
    for call in listed if is_array(listed) else ():
        if is_object(call) and is_object(function := call.get("function")):
            yield str(call.get("id")), _build_call(function)
    if is_object(function := message.get("function_call")):
        named = _build_call(function)
        yield named.name, named


def _build_call(function: Json) -> ToolCall:
    return ToolCall(str(function.get("name")), str(function.get("arguments")))


ADAPTER = ChatAdapter()
