"""The items of OpenAI's Responses API: what each one says, who has to act on it, and what tells it from others.

Serves both directions, because what comes out as `output` goes back in as `input`. Any parsed JSON object may be asked
about; of a kind that is not known nothing is said but that it is there. Nothing here changes an item.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256

import orjson

from ...compression.transcript import Role, TextSlot, ToolCall
from .expand_call import TOOL_NAME
from .json_edit import Path
from .json_types import Json, is_array, is_object

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_TYPES = frozenset({"input_text", "output_text", "text"})
# What the client carries out, and the model waits for; everything else the provider has done by itself.
_CLIENT_CALL_TYPES = frozenset({
    "function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call",
    "mcp_approval_request",
})  # fmt: skip
# Fields that are no text of the context: how an item is known and told, and what is billed otherwise, if at all.
_UNCOUNTED_FIELDS = frozenset({
    "id", "call_id", "caller", "caller_id", "type", "status", "role", "phase", "detail", "logprobs", "annotations",
    "encrypted_content", "image_url", "file_data", "file_url", "file_id", "data", "container_id", "fingerprint",
})  # fmt: skip


def get_item_type(item: Json) -> str:
    """Name an item's kind; one that does not say is a message, or names an item that the upstream remembers."""
    return str(item.get("type") or ("message" if "role" in item or "id" not in item else "item_reference"))


def get_role(item: Json) -> Role | None:
    """Return an item's role, None for one that nobody knows; what is no message is the system's, that is nobody's."""
    return ROLES.get(str(item.get("role"))) if get_item_type(item) == "message" else "system"


def iter_slots(path: Path, item: Json) -> Iterator[TextSlot]:
    """List the texts of a message, or of what a tool the client carried out has brought."""
    its_kind = get_item_type(item)
    if its_kind == "message":
        yield from _iter_part_slots((*path, "content"), item.get("content"))
    elif its_kind == "shell_call_output":
        yield from _iter_stream_slots((*path, "output"), item.get("output"))
    elif its_kind.endswith("_call_output") and its_kind != "local_shell_call_output":  # that one must stay JSON
        yield from _iter_part_slots((*path, "output"), item.get("output"))


def iter_strings(item: Json) -> Iterator[str]:
    """List every text in an item that the model reads, at any depth."""
    left: list[object] = [] if get_item_type(item) == "image_generation_call" else [item]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif is_array(one):
            left += reversed(one)
        elif is_object(one):
            left += reversed([value for name, value in one.items() if name not in _UNCOUNTED_FIELDS])


def build_call(item: Json) -> ToolCall:
    """Name a call; one of a built-in tool is known by its kind and tells what it does in `action` or `operation`."""
    given = next((item[name] for name in ("arguments", "input", "action", "operation") if name in item), "")
    if is_object(given) and is_array(commands := given.get("commands")):
        given = {"command": "\n".join(map(str, commands))}
    arguments = given if isinstance(given, str) else orjson.dumps(given).decode()
    return ToolCall(str(item.get("name") or get_item_type(item).removesuffix("_call")), arguments)


def get_call_id(item: Json) -> str | None:
    """Return the id that a call and its output have in common."""
    found = item.get("call_id")
    return found if isinstance(found, str) else None


def is_expand_call(item: Json) -> bool:
    """Say whether an item is a call of the proxy's own tool."""
    return get_item_type(item) == "function_call" and item.get("name") == TOOL_NAME and not item.get("namespace")


def awaits_client(listed: Iterable[Json]) -> bool:
    """Say whether the client has something to carry out of these items; what has its output already is done."""
    listed = list(listed)
    done = {get_call_id(item) for item in listed if get_item_type(item).endswith("_output")} - {None}
    return any(_is_client_call(item) and get_call_id(item) not in done for item in listed if not is_expand_call(item))


def fingerprint_item(item: Json) -> bytes | None:
    """Return what tells an item from others; None for one that clients leave out or put in as they like.

    Those are the system's messages, reasoning, and what the provider's own tools have done. Ids of items are no part of
    it, because many clients drop them; ids of calls are.
    """
    its_kind = get_item_type(item)
    if its_kind == "message":
        own = get_role(item)
        return None if own in (None, "system") else orjson.dumps([own, *_list_texts(item)])
    if its_kind in _CLIENT_CALL_TYPES and get_call_id(item) is not None:
        return orjson.dumps([its_kind, get_call_id(item), *build_call(item)])
    if its_kind.endswith("_call_output"):
        return orjson.dumps([its_kind, get_call_id(item), *_list_texts(item)])
    return None


def hash_item(item: Json) -> str:
    """Return by what an item of a reply is found again when the client sends it back."""
    own = fingerprint_item(item)
    if own is None:
        own = orjson.dumps([get_item_type(item), item.get("encrypted_content") or item.get("id")], default=str)
    return sha256(own).hexdigest()[:16]


def references_id(item: Json, its_id: object) -> bool:
    """Say whether an item stands for one of this id, which the upstream remembers."""
    return get_item_type(item) == "item_reference" and item.get("id") == its_id


def is_unresolvable_reasoning(item: Json) -> bool:
    """Say whether an item is but a name of reasoning, which only a provider that stores its replies can look up."""
    return get_item_type(item) == "reasoning" and not item.get("encrypted_content") and not item.get("content")


def build_call_output(item: Json, result: str) -> Json:
    """Answer a call of ours."""
    caller = {"caller": item["caller"]} if is_object(item.get("caller")) else {}
    return {"type": "function_call_output", "call_id": item.get("call_id"), "output": result, **caller}


def _is_client_call(item: Json) -> bool:
    by_client = get_item_type(item) == "tool_search_call" and item.get("execution") == "client"
    return by_client or get_item_type(item) in _CLIENT_CALL_TYPES


def _list_texts(item: Json) -> list[str]:
    parts = item.get("content" if get_item_type(item) == "message" else "output")
    if not is_array(parts):
        return [parts] if isinstance(parts, str) else []
    return ["".join(text for part in parts if is_object(part) for text in iter_strings(part))]


def _iter_part_slots(at: Path, content: object) -> Iterator[TextSlot]:
    if isinstance(content, str):
        yield TextSlot(at, content)
    elif is_array(content):
        for place, part in enumerate(content):
            known = is_object(part) and str(part.get("type")) in _TEXT_TYPES
            if known and isinstance(text := part.get("text"), str):
                yield TextSlot((*at, place, "text"), text)


def _iter_stream_slots(at: Path, content: object) -> Iterator[TextSlot]:
    """List what commands wrote: of each its standard output and its errors."""
    for place, part in enumerate(content if is_array(content) else ()):
        for name in ("stdout", "stderr"):
            if is_object(part) and isinstance(text := part.get(name), str):
                yield TextSlot((*at, place, name), text)
