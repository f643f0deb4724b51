"""The adapter for Anthropic's Messages API.

It reads a parsed body and never changes it. One message may hold tool results, documents and the user's own text: each
tool result and each document becomes a turn of its own. The adapter leaves the system prompt, thinking blocks and their
signatures, images, `cache_control` and the results of the provider's own tools alone.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import orjson

from ...compression.transcript import Role, ToolCall, Turn
from ..stores import ledger_row
from . import compaction, expand_call, json_codec, messages_reinsert, sse
from .api_errors import ApiError
from .chat import parse_messages
from .json_edit import Path
from .json_types import Json, is_array, is_object
from .messages_blocks import (
    DOCUMENT_TYPES,
    REASONING_TYPES,
    filter_blocks,
    get_block_type,
    identify_block,
    iter_block_slots,
    iter_slots,
    iter_text_slots,
    iter_texts,
    list_blocks,
)
from .messages_reply import MessagesReplyFilter
from .protocol import BodyEdits, Calls, Conversation

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
TOKENS_PER_MESSAGE, TOKENS_PER_REPLY = 4, 3  # tokens beyond a message's texts; an estimate, as all counts for Claude
_CONTAINER_TOOL_PREFIX = "code_execution"  # of tools whose files another request would not find again
_TEXT_AND_REASONING_TYPES = frozenset({"text", *REASONING_TYPES})
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessagesAdapter:
    """`POST /v1/messages`."""

    name = "messages"
    elements_key = "messages"
    error_event_name = "error"
    is_anthropic = True

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body. Return None unless its messages are a list of objects with known roles."""
        messages = parse_messages(body, ROLES)
        if messages is None:
            return None
        read = compaction.drop_unread(messages)
        return Conversation(
            len(messages),
            TOKENS_PER_REPLY + TOKENS_PER_MESSAGE * len(read),
            bool(body.get("tools")),
            partial(_list_message_texts, read),
            partial(_list_other_texts, body),
            partial(build_turns, messages),
            is_growing=read is messages,
        )

    def build_expand_tool(self, body: Json, tool: expand_call.ToolDefinition = expand_call.EXPAND_TOOL) -> Json | None:
        """Return the definition of a hidden tool for this request, or None if it cannot be offered.

        The upstream stores a `thread`: the client would continue it from a message whose hidden call has no result.
        """
        if body.get("thread") is not None:
            return None
        tools = body.get("tools")
        if not expand_call.can_add_expand_tool(tools) or any(_is_container_tool(other) for other in tools or ()):
            return None
        return {
            "name": tool.name,
            "description": tool.description,
            "input_schema": tool.parameters,
        }

    def create_reply_filter(self) -> MessagesReplyFilter:
        """Return a filter for the replies to one request that offers the tool."""
        return MessagesReplyFilter()

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return bytes that identify a message, or None for a system message, which clients may omit.

        Thinking and `cache_control` are left out: clients drop the first and move the second from turn to turn.
        """
        role, content = element.get("role"), element.get("content")
        if role == "system":
            return None
        text = "".join(slot.text for slot in iter_text_slots((), content)).strip()
        other_blocks = [
            identify_block(block)
            for _, block in list_blocks(content)
            if get_block_type(block) not in _TEXT_AND_REASONING_TYPES
        ]
        return json_codec.dumps_canonical([role, text, *other_blocks])

    def reinsert_hidden(self, body: Json, index: int, hidden: Json) -> BodyEdits:
        """Return the edits that put a hidden record back at the message with this index."""
        return messages_reinsert.build_edits(body["messages"], index, hidden)

    def encode_error(self, error: ApiError) -> bytes:
        """Return an error as a response body."""
        kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        fields = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
        return orjson.dumps({"type": "error", "error": fields})

    def encode_error_event(self, error: ApiError) -> bytes:
        """Return an error as the last event of a stream that has started."""
        return sse.encode_event(self.encode_error(error), name="error")


class CountTokensAdapter(MessagesAdapter):
    """`POST /v1/messages/count_tokens`: the upstream counts what would be sent, and no model reads it."""

    name = ledger_row.COUNT_TOKENS_PROTOCOL


def build_turns(messages: list[Json], first: int = 0, calls: Calls | None = None) -> list[Turn]:
    """Return the turns of the messages from index `first` on.

    There is one turn per tool result, one for a message's own text, and one per document. Tool results name their call.
    Documents follow the text of their message, which is the question about them. `calls` are those of the messages
    before `first`, by their ids; the others are added.
    """
    calls = {} if calls is None else calls
    turns: list[Turn] = []
    for index in range(first, len(messages)):
        message = messages[index]
        role, content = ROLES[message["role"]], message.get("content")
        path: Path = ("messages", index, "content")
        calls.update(_iter_calls(content))
        tool_results = filter_blocks(content, "tool_result")
        for position, block in tool_results:
            slots = tuple(iter_slots((*path, position, "content"), block.get("content")))
            turns.append(Turn("tool", slots, calls.get(str(block.get("tool_use_id")))))
        own_slots = tuple(iter_text_slots(path, content))
        if own_slots or not tool_results:
            turns.append(Turn(role, own_slots))
        for position, block in filter_blocks(content, *DOCUMENT_TYPES):
            slots = tuple(iter_block_slots((*path, position), block))
            turns.append(Turn("tool", slots, _build_document_call(block)))
    return turns if first else compaction.mark_compacted(turns, messages)


def list_counted_texts(body: Json, messages: Sequence[Json]) -> list[str]:
    """List all text that counts as input: contents, calls and their results, system prompt, and tools."""
    return [*_list_message_texts(messages, 0), *_list_other_texts(body)]


def _list_message_texts(messages: Sequence[Json], first: int) -> list[str]:
    return [text for message in messages[first:] for text in iter_texts(message.get("content"))]


def _list_other_texts(body: Json) -> list[str]:
    tools = body.get("tools")
    tool_texts = [json_codec.dumps(tool).decode() for tool in (tools if is_array(tools) else ())]
    return [*iter_texts(body.get("system")), *tool_texts]


def _iter_calls(content: object) -> Iterator[tuple[str, ToolCall]]:
    for _, block in filter_blocks(content, "tool_use"):
        arguments = json_codec.dumps(block.get("input")).decode()
        yield str(block.get("id")), ToolCall(str(block.get("name")), arguments)


def _build_document_call(block: Json) -> ToolCall:
    """Return a call that names a document, so that it is treated as the output of a tool."""
    arguments = {name: block[name] for name in ("title", "context") if isinstance(block.get(name), str)}
    return ToolCall(get_block_type(block), json_codec.dumps(arguments).decode())


def _is_container_tool(tool: object) -> bool:
    return is_object(tool) and str(tool.get("type")).startswith(_CONTAINER_TOOL_PREFIX)


ADAPTER = MessagesAdapter()
COUNT_TOKENS_ADAPTER = CountTokensAdapter()
