"""The items of OpenAI's Responses API: their texts, their calls, and their identity.

Items of a reply's `output` return in the `input` of later requests, so both directions use this module. It accepts any
parsed JSON object and never changes it.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256

from ...compression.transcript import Role, TextSlot, ToolCall
from . import json_codec
from .expand_call import HIDDEN_TOOL_NAMES
from .json_edit import Path
from .json_types import Json, is_array, is_object

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_TYPES = frozenset({"input_text", "output_text", "text"})
# Calls that the client carries out while the model waits. The provider carries out all others.
_CLIENT_CALL_TYPES = frozenset({
    "function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call",
    "mcp_approval_request",
})  # fmt: skip
# Fields that do not count as text: identifiers, and content that is billed otherwise, if at all.
_UNCOUNTED_FIELDS = frozenset({
    "id", "call_id", "caller", "caller_id", "type", "status", "role", "phase", "detail", "logprobs", "annotations",
    "encrypted_content", "image_url", "file_data", "file_url", "file_id", "data", "container_id", "fingerprint",
})  # fmt: skip


def get_item_type(item: Json) -> str:
    """Return an item's type. An item without one is a message, or a reference to an item stored by the upstream."""
    return str(item.get("type") or ("message" if "role" in item or "id" not in item else "item_reference"))


def get_role(item: Json) -> Role | None:
    """Return an item's role, or None if it is unknown. Items that are not messages belong to the system."""
    return ROLES.get(str(item.get("role"))) if get_item_type(item) == "message" else "system"


def iter_slots(path: Path, item: Json) -> Iterator[TextSlot]:
    """Yield the texts of a message, or of the output of a tool that the client carried out."""
    item_type = get_item_type(item)
    if item_type == "message":
        yield from _iter_part_slots((*path, "content"), item.get("content"))
    elif item_type == "shell_call_output":
        yield from _iter_stream_slots((*path, "output"), item.get("output"))
    elif item_type.endswith("_call_output") and item_type != "local_shell_call_output":  # that one must stay JSON
        yield from _iter_part_slots((*path, "output"), item.get("output"))


def iter_strings(item: Json) -> Iterator[str]:
    """Yield every text in an item that counts as input, at any depth."""
    stack: list[object] = [] if get_item_type(item) == "image_generation_call" else [item]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif is_array(value):
            stack += reversed(value)
        elif is_object(value):
            stack += reversed([member for name, member in value.items() if name not in _UNCOUNTED_FIELDS])


def build_call(item: Json) -> ToolCall:
    """Return an item's call. A built-in tool has its type as its name, and its arguments in `action` or `operation`."""
    value = next((item[name] for name in ("arguments", "input", "action", "operation") if name in item), "")
    if is_object(value) and is_array(commands := value.get("commands")):
        value = {"command": "\n".join(map(str, commands))}
    arguments = value if isinstance(value, str) else json_codec.dumps(value).decode()
    return ToolCall(str(item.get("name") or get_item_type(item).removesuffix("_call")), arguments)


def get_call_id(item: Json) -> str | None:
    """Return the id that a call and its output share."""
    call_id = item.get("call_id")
    return call_id if isinstance(call_id, str) else None


def is_expand_call(item: Json) -> bool:
    """Return True for a call of the proxy's own tool."""
    return (
        get_item_type(item) == "function_call" and item.get("name") in HIDDEN_TOOL_NAMES and not item.get("namespace")
    )


def awaits_client(items: Iterable[Json]) -> bool:
    """Return True if the items hold a call for the client that has no output yet."""
    items = list(items)
    answered_ids = {get_call_id(item) for item in items if get_item_type(item).endswith("_output")} - {None}
    calls = [item for item in items if _is_client_call(item) and not is_expand_call(item)]
    return any(get_call_id(call) not in answered_ids for call in calls)


def fingerprint_item(item: Json) -> bytes | None:
    """Return bytes that identify an item, or None for one that clients may omit.

    Clients may omit system messages, reasoning, and the calls of the provider's own tools. The fingerprint holds no ids
    of items, because many clients drop them, but it holds the ids of calls.
    """
    item_type = get_item_type(item)
    if item_type == "message":
        role = get_role(item)
        return None if role in (None, "system") else json_codec.dumps_canonical([role, *_list_texts(item)])
    if item_type in _CLIENT_CALL_TYPES and get_call_id(item) is not None:
        call = build_call(item)
        arguments = json_codec.canonicalize_arguments(call.arguments)
        return json_codec.dumps_canonical([item_type, get_call_id(item), call.name, arguments])
    if item_type.endswith("_call_output"):
        return json_codec.dumps_canonical([item_type, get_call_id(item), *_list_texts(item)])
    return None


def hash_item(item: Json) -> str:
    """Return a hash by which an item of a reply is recognised when the client sends it back."""
    fingerprint = fingerprint_item(item)
    if fingerprint is None:
        identity = item.get("encrypted_content") or item.get("id")
        fingerprint = json_codec.dumps_canonical([get_item_type(item), identity])
    return sha256(fingerprint).hexdigest()[:16]


def references_id(item: Json, item_id: object) -> bool:
    """Return True if an item refers to the item with this id, which the upstream stores."""
    return get_item_type(item) == "item_reference" and item.get("id") == item_id


def is_unresolvable_reasoning(item: Json) -> bool:
    """Return True for reasoning without content, which only a provider that stores its replies can look up."""
    return get_item_type(item) == "reasoning" and not item.get("encrypted_content") and not item.get("content")


def build_call_output(item: Json, result: str) -> Json:
    """Return the output of a hidden call."""
    caller = {"caller": item["caller"]} if is_object(item.get("caller")) else {}
    return {"type": "function_call_output", "call_id": item.get("call_id"), "output": result, **caller}


def _is_client_call(item: Json) -> bool:
    is_client_search = get_item_type(item) == "tool_search_call" and item.get("execution") == "client"
    return is_client_search or get_item_type(item) in _CLIENT_CALL_TYPES


def _list_texts(item: Json) -> list[str]:
    """Return the text of an item without white space at its ends, which some clients add or remove."""
    parts = item.get("content" if get_item_type(item) == "message" else "output")
    if not is_array(parts):
        return [parts.strip()] if isinstance(parts, str) else []
    return ["".join(text for part in parts if is_object(part) for text in iter_strings(part)).strip()]


def _iter_part_slots(path: Path, content: object) -> Iterator[TextSlot]:
    if isinstance(content, str):
        yield TextSlot(path, content)
    elif is_array(content):
        for position, part in enumerate(content):
            is_text = is_object(part) and str(part.get("type")) in _TEXT_TYPES
            if is_text and isinstance(text := part.get("text"), str):
                yield TextSlot((*path, position, "text"), text)


def _iter_stream_slots(path: Path, content: object) -> Iterator[TextSlot]:
    """Yield the standard output and the standard error of each command."""
    for position, part in enumerate(content if is_array(content) else ()):
        for name in ("stdout", "stderr"):
            if is_object(part) and isinstance(text := part.get(name), str):
                yield TextSlot((*path, position, name), text)
