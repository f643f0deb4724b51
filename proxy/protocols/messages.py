"""The adapter of Anthropic's Messages API: content blocks to turns, and what the client does not see back in its place.

Reads a parsed body and never changes it. One message may hold answers of tools, documents and words of the user: each
block of the first two is a turn of its own, as in other protocols. The system prompt, thinking and its signatures,
images, `cache_control` and what the provider's own tools brought are left alone.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import orjson

from ...compression.transcript import Call, Role, Turn
from ..stores import ledger_row
from . import expand_call, json_edit, messages_reinsert, sse
from .api_errors import ApiError
from .json_edit import Edit, Path, Weave
from .json_types import Json, is_array, is_object
from .messages_blocks import MATERIAL, THOUGHTS, blocks, key, kind_of, of_kind, slots, slots_of, texts, words
from .messages_reply import MessagesReply
from .protocol import Conversation

ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
PER_MESSAGE, PER_REPLY = 4, 3  # tokens beyond a message's texts, an estimate like all counts for these models
_CONTAINED = "code_execution"  # tools whose files a further request would not find again
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Messages:
    """`POST /v1/messages`."""

    name = "messages"
    elements = "messages"
    error_name = "error"
    anthropic = True

    def read(self, body: Json) -> Conversation | None:
        """Read a request body; None when its messages are not a list of objects with known roles."""
        listed = messages(body)
        if listed is None:
            return None
        overhead = PER_REPLY + PER_MESSAGE * len(listed)
        return Conversation(
            len(listed), overhead, bool(body.get("tools")), partial(counted, body, listed), partial(turns, listed)
        )

    def offer(self, body: Json) -> Json | None:
        """Return the tool `clara_expand` as this request would offer it; None where it cannot be offered."""
        tools = body.get("tools")
        if not expand_call.is_free(tools) or any(_is_contained(tool) for tool in tools or ()):
            return None
        return {
            "name": expand_call.NAME,
            "description": expand_call.DESCRIPTION,
            "input_schema": expand_call.PARAMETERS,
        }

    def listen(self) -> MessagesReply:
        """Return what reads the replies to a request that offers the tool."""
        return MessagesReply()

    def mark(self, element: Json) -> bytes | None:
        """Return what tells a message from others; None for the system's, which may come and go.

        Thoughts and `cache_control` do not: clients drop the first and move the second from turn to turn.
        """
        role, content = element.get("role"), element.get("content")
        if role == "system":
            return None
        said = "".join(slot.text for slot in words((), content))
        others = [key(block) for _, block in blocks(content) if kind_of(block) not in {"text", *THOUGHTS}]
        return orjson.dumps([role, said, *others])

    def woven(self, body: Json, index: int, hidden: Json) -> tuple[dict[Path, Edit], dict[Path, Weave]]:
        """Return the changes that put what was hidden to the message of this index."""
        return messages_reinsert.changes(body["messages"], index, hidden)

    def extended(self, body: bytes, elements: Sequence[bytes]) -> bytes:
        """Return a body with more messages, JSON texts, at its end."""
        return json_edit.append(body, ("messages",), elements)

    def error(self, error: ApiError) -> bytes:
        """Write an error as the body of a response."""
        kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        told = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
        return orjson.dumps({"type": "error", "error": told})

    def error_event(self, error: ApiError) -> bytes:
        """Write an error as the last event of a stream that has begun."""
        return sse.event(self.error(error), name="error")


class Counting(Messages):
    """`POST /v1/messages/count_tokens`: the upstream counts what would be sent, and no model reads it."""

    name = ledger_row.COUNTING


def messages(body: Json) -> list[Json] | None:
    """Return the messages, or None when they are not a list of objects with known roles."""
    found = body.get("messages")
    known = is_array(found) and all(is_object(one) and str(one.get("role")) in ROLES for one in found)
    return found if known and is_array(found) else None


def turns(listed: list[Json]) -> list[Turn]:
    """Make turns of every message: one a tool's answer, one of what it says itself, one a document or search result.

    Answers know the call behind them; a document stands behind the words of its message, because those ask about it.
    """
    calls: dict[str, Call] = {}
    made: list[Turn] = []
    for index, message in enumerate(listed):
        role, content = ROLES[message["role"]], message.get("content")
        at: Path = ("messages", index, "content")
        calls.update(_calls(content))
        answers = of_kind(content, "tool_result")
        for place, block in answers:
            found = tuple(slots((*at, place, "content"), block.get("content")))
            made.append(Turn("tool", found, calls.get(str(block.get("tool_use_id")))))
        said = tuple(words(at, content))
        if said or not answers:
            made.append(Turn(role, said))
        for place, block in of_kind(content, *MATERIAL):
            made.append(Turn("tool", tuple(slots_of((*at, place), block)), _handed_in(block)))
    return made


def counted(body: Json, listed: list[Json]) -> list[str]:
    """List all text of a request's context: system prompt, contents, calls and their answers, tools on offer."""
    found = list(texts(body.get("system")))
    found += [text for message in listed for text in texts(message.get("content"))]
    if is_array(tools := body.get("tools")):
        found += [orjson.dumps(tool).decode() for tool in tools]
    return found


def _calls(content: object) -> Iterator[tuple[str, Call]]:
    for _, block in of_kind(content, "tool_use"):
        yield str(block.get("id")), Call(str(block.get("name")), orjson.dumps(block.get("input")).decode())


def _handed_in(block: Json) -> Call:
    """Name a document as if a tool had brought it: it is material, whoever put it there."""
    told = {name: block[name] for name in ("title", "context") if isinstance(block.get(name), str)}
    return Call(kind_of(block), orjson.dumps(told).decode())


def _is_contained(tool: object) -> bool:
    return is_object(tool) and str(tool.get("type")).startswith(_CONTAINED)


WIRE = Messages()
COUNTING = Counting()
