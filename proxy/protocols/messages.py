"""The adapter of Anthropic's Messages API: content blocks to turns, and what the client does not see back in its place.

Reads a parsed body and never changes it. One message may hold answers of tools, documents and words of the user: each
block of the first two is a turn of its own, as in other protocols. The system prompt, thinking and its signatures,
images, `cache_control` and what the provider's own tools brought are left alone.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import orjson

from ...compression.transcript import Role, ToolCall, Turn
from ..stores import ledger_row
from . import expand_call, json_edit, messages_reinsert, sse
from .api_errors import ApiError
from .json_edit import ArrayEdit, Path, StringEdit
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
from .protocol import Conversation

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
TOKENS_PER_MESSAGE, TOKENS_PER_REPLY = (
    4,
    3,
)  # tokens beyond a message's texts, an estimate like all counts for these models
_CONTAINER_TOOL_PREFIX = "code_execution"  # tools whose files a further request would not find again
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
        """Read a request body; None when its messages are not a list of objects with known roles."""
        listed = parse_messages(body)
        if listed is None:
            return None
        overhead = TOKENS_PER_REPLY + TOKENS_PER_MESSAGE * len(listed)
        return Conversation(
            len(listed),
            overhead,
            bool(body.get("tools")),
            partial(list_counted_texts, body, listed),
            partial(build_turns, listed),
        )

    def build_expand_tool(self, body: Json) -> Json | None:
        """Return the tool `clara_expand` as this request would offer it; None where it cannot be offered."""
        tools = body.get("tools")
        if not expand_call.can_add_expand_tool(tools) or any(_is_container_tool(tool) for tool in tools or ()):
            return None
        return {
            "name": expand_call.TOOL_NAME,
            "description": expand_call.TOOL_DESCRIPTION,
            "input_schema": expand_call.TOOL_PARAMETERS,
        }

    def create_reply_filter(self) -> MessagesReplyFilter:
        """Return what reads the replies to a request that offers the tool."""
        return MessagesReplyFilter()

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return what tells a message from others; None for the system's, which may come and go.

        Thoughts and `cache_control` do not: clients drop the first and move the second from turn to turn.
        """
        role, content = element.get("role"), element.get("content")
        if role == "system":
            return None
        said = "".join(slot.text for slot in iter_text_slots((), content))
        others = [
            identify_block(block)
            for _, block in list_blocks(content)
            if get_block_type(block) not in {"text", *REASONING_TYPES}
        ]
        return orjson.dumps([role, said, *others])

    def reinsert_hidden(
        self, body: Json, index: int, hidden: Json
    ) -> tuple[dict[Path, StringEdit], dict[Path, ArrayEdit]]:
        """Return the changes that put what was hidden to the message of this index."""
        return messages_reinsert.build_edits(body["messages"], index, hidden)

    def append_elements(self, body: bytes, elements: Sequence[bytes]) -> bytes:
        """Return a body with more messages, JSON texts, at its end."""
        return json_edit.append_elements(body, ("messages",), elements)

    def encode_error(self, error: ApiError) -> bytes:
        """Write an error as the body of a response."""
        kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        told = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
        return orjson.dumps({"type": "error", "error": told})

    def encode_error_event(self, error: ApiError) -> bytes:
        """Write an error as the last event of a stream that has begun."""
        return sse.encode_event(self.encode_error(error), name="error")


class CountTokensAdapter(MessagesAdapter):
    """`POST /v1/messages/count_tokens`: the upstream counts what would be sent, and no model reads it."""

    name = ledger_row.COUNT_TOKENS_PROTOCOL


def parse_messages(body: Json) -> list[Json] | None:
    """Return the messages, or None when they are not a list of objects with known roles."""
    found = body.get("messages")
    known = is_array(found) and all(is_object(one) and str(one.get("role")) in ROLES for one in found)
    return found if known and is_array(found) else None


def build_turns(listed: list[Json]) -> list[Turn]:
    """Make turns of every message: one a tool's answer, one of what it says itself, one a document or search result.

    Answers know the call behind them; a document stands behind the words of its message, because those ask about it.
    """
    calls: dict[str, ToolCall] = {}
    made: list[Turn] = []
    for index, message in enumerate(listed):
        role, content = ROLES[message["role"]], message.get("content")
        at: Path = ("messages", index, "content")
        calls.update(_iter_calls(content))
        answers = filter_blocks(content, "tool_result")
        for place, block in answers:
            found = tuple(iter_slots((*at, place, "content"), block.get("content")))
            made.append(Turn("tool", found, calls.get(str(block.get("tool_use_id")))))
        said = tuple(iter_text_slots(at, content))
        if said or not answers:
            made.append(Turn(role, said))
        for place, block in filter_blocks(content, *DOCUMENT_TYPES):
            made.append(Turn("tool", tuple(iter_block_slots((*at, place), block)), _build_document_call(block)))
    return made


def list_counted_texts(body: Json, listed: list[Json]) -> list[str]:
    """List all text of a request's context: system prompt, contents, calls and their answers, tools on offer."""
    found = list(iter_texts(body.get("system")))
    found += [text for message in listed for text in iter_texts(message.get("content"))]
    if is_array(tools := body.get("tools")):
        found += [orjson.dumps(tool).decode() for tool in tools]
    return found


def _iter_calls(content: object) -> Iterator[tuple[str, ToolCall]]:
    for _, block in filter_blocks(content, "tool_use"):
        yield str(block.get("id")), ToolCall(str(block.get("name")), orjson.dumps(block.get("input")).decode())


def _build_document_call(block: Json) -> ToolCall:
    """Name a document as if a tool had brought it: it is material, whoever put it there."""
    told = {name: block[name] for name in ("title", "context") if isinstance(block.get(name), str)}
    return ToolCall(get_block_type(block), orjson.dumps(told).decode())


def _is_container_tool(tool: object) -> bool:
    return is_object(tool) and str(tool.get("type")).startswith(_CONTAINER_TOOL_PREFIX)


ADAPTER = MessagesAdapter()
COUNT_TOKENS_ADAPTER = CountTokensAdapter()
