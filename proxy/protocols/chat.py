"""The adapter for OpenAI chat completions.

It reads a parsed body and never changes it. A body of an unexpected shape yields None and is forwarded unchanged, so
that the upstream reports the error.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter

from ...compression.transcript import Role, TextSlot, ToolCall, Turn
from . import compaction, expand_call, json_codec, sse
from .api_errors import ApiError
from .chat_reply import ChatReplyFilter
from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json, is_array, is_object
from .protocol import BodyEdits, Calls, Conversation

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# The tokens of a chat beyond its texts, as OpenAI counts them.
TOKENS_PER_MESSAGE, TOKENS_PER_REPLY = 4, 3
_get_role = itemgetter("role")


class ChatAdapter:
    """`POST /v1/chat/completions`."""

    name = "chat"
    elements_key = "messages"
    is_anthropic = False
    error_event_name = ""

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body. Return None unless its messages are a list of objects with known roles."""
        messages = parse_messages(body)
        if messages is None:
            return None
        agentic = bool(body.get("tools") or body.get("functions"))
        read = compaction.drop_unread(messages)
        return Conversation(
            len(messages),
            count_overhead(read),
            agentic,
            partial(_list_message_texts, read),
            partial(_list_tool_texts, body),
            partial(build_turns, messages),
            is_growing=read is messages,
        )

    def build_expand_tool(self, body: Json, tool: expand_call.ToolDefinition = expand_call.EXPAND_TOOL) -> Json | None:
        """Return the definition of a hidden tool for this request, or None if it cannot be offered."""
        if not expand_call.can_add_expand_tool(body.get("tools")) or body.get("n") not in (None, 1):
            return None
        function = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        return {"type": "function", "function": function}

    def create_reply_filter(self) -> ChatReplyFilter:
        """Return a filter for the replies to one request that offers the tool."""
        return ChatReplyFilter()

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return bytes that identify a message, or None for a system message, which clients may omit."""
        role = str(element.get("role"))
        if ROLES.get(role) == "system":
            return None
        calls = [
            [call_id, call.name, json_codec.canonicalize_arguments(call.arguments)]
            for call_id, call in _iter_calls(element)
        ]
        text = "".join(iter_content_texts(element)).strip()  # some clients end each message with a line end
        return json_codec.dumps_canonical([role, text, calls, element.get("tool_call_id")])

    def reinsert_hidden(self, body: Json, index: int, hidden: Json) -> BodyEdits:
        """Return the edits that put a hidden record back at the message with this index."""
        string_edits: dict[Path, StringEdit] = {}
        content = body["messages"][index].get("content")
        if hidden["strip"] and isinstance(content, str):
            string_edits["messages", index, "content"] = StringEdit(content, content[hidden["strip"] :])
        insertions = {index: hidden["before"], index + 1: hidden["after"]}
        array_edits: dict[Path, ArrayEdit] = {("messages",): ArrayEdit(insertions=insertions)}
        calls: dict[int, list[Json]] = {}
        for earlier_count, (position, call) in enumerate(hidden["calls"]):
            calls.setdefault(position - earlier_count, []).append(call)
        if calls:
            array_edits["messages", index, "tool_calls"] = ArrayEdit(insertions=calls)
        return string_edits, array_edits

    def encode_error(self, error: ApiError) -> bytes:
        """Return an error as a response body."""
        return error.encode()

    def encode_error_event(self, error: ApiError) -> bytes:
        """Return an error as the last event of a stream that has started."""
        return sse.encode_event(error.encode())


def parse_messages(body: Json, roles: Mapping[str, Role] = ROLES) -> list[Json] | None:
    """Return the messages, or None unless they are a list of objects with these roles."""
    messages = body.get("messages")
    if not is_array(messages):
        return None
    try:
        is_known = roles.keys() >= set(map(_get_role, messages))
    except (KeyError, TypeError):  # a message is no object, or its role is missing or no text
        return None
    return messages if is_known else None


def build_turns(messages: list[Json], first: int = 0, calls: Calls | None = None) -> list[Turn]:
    """Return one turn per message from index `first` on. The turn of a tool output names the call that produced it.

    `calls` are those of the messages before `first`, by their ids; the others are added.
    """
    calls = {} if calls is None else calls
    turns: list[Turn] = []
    for index in range(first, len(messages)):
        message = messages[index]
        role = ROLES[message["role"]]
        if "tool_calls" in message or "function_call" in message:
            calls.update(_iter_calls(message))
        call = calls.get(str(message.get("tool_call_id") or message.get("name"))) if role == "tool" else None
        turns.append(Turn(role, _build_slots(index, message.get("content")), call))
    return turns if first else compaction.mark_compacted(turns, messages)


def list_counted_texts(body: Json, messages: Sequence[Json]) -> list[str]:
    """List all text that counts as input: contents, names and arguments of calls, and tools, but no images."""
    return [*_list_message_texts(messages, 0), *_list_tool_texts(body)]


def _list_message_texts(messages: Sequence[Json], first: int) -> list[str]:
    texts: list[str] = []
    for index in range(first, len(messages)):
        message = messages[index]
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        else:
            texts += iter_content_texts(message)
        if "tool_calls" in message or "function_call" in message:
            texts += [text for _, call in _iter_calls(message) for text in call]
    return texts


def _list_tool_texts(body: Json) -> list[str]:
    if "tools" not in body and "functions" not in body:
        return []
    tool_lists = filter(is_array, (body.get("tools"), body.get("functions")))
    return [json_codec.dumps(tool).decode() for tools in tool_lists for tool in tools]


def count_overhead(messages: Sequence[Json]) -> int:
    """Return the number of tokens that a chat costs beyond its texts."""
    return TOKENS_PER_REPLY + TOKENS_PER_MESSAGE * len(messages)


def iter_content_texts(message: Json) -> Iterator[str]:
    """Yield the texts of a message's content."""
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
    """Yield each call of a message with its id, or with its name for the older `function_call`."""
    calls = message.get("tool_calls")
    for call in calls if is_array(calls) else ():
        if is_object(call) and is_object(function := call.get("function")):
            yield str(call.get("id")), _build_call(function)
    if is_object(function := message.get("function_call")):
        call = _build_call(function)
        yield call.name, call


def _build_call(function: Json) -> ToolCall:
    return ToolCall(str(function.get("name")), str(function.get("arguments")))


ADAPTER = ChatAdapter()
