"""Rules that the reply filters of all protocols share: whose call a tool call is, and whose turn it is after a round.

Upstreams deviate from their specification: names of tools come late or in pieces, and the reason why a reply ended is
missing or has another protocol's name. A name is decided on as late as necessary, and a round by its calls first.
"""

from collections.abc import Sequence
from typing import Any

from . import json_codec
from .expand_call import HIDDEN_TOOL_NAMES, ExpandCall
from .json_types import Json, is_array, is_object, parse_object

# Reasons of replies that stopped in the middle, in any protocol and any provider's spelling.
_CUT_OFF_REASONS = frozenset({
    "length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "incomplete",
    "content_filter", "content_filtered", "safety", "refusal", "recitation", "blocklist", "prohibited_content", "spii",
    "error", "failed", "cancelled", "canceled", "abort", "aborted", "pause_turn", "malformed_function_call",
})  # fmt: skip
_TEXT_FIELDS = ("text", "summary", "thinking", "reasoning", "content")  # of parts of reasoning; they come in pieces


def is_cut_off(reason: object) -> bool:
    """Return True if a reply with this reason stopped in the middle."""
    return isinstance(reason, str) and reason.lower() in _CUT_OFF_REASONS


def is_answerable(arguments: str, reason: object) -> bool:
    """Return True if a call of the proxy's tool is whole. Without a reason, its arguments must be a JSON object."""
    if is_cut_off(reason):
        return False
    return bool(reason) or parse_object(arguments.encode("utf-8", "backslashreplace")) is not None


def is_round_hidden(calls: Sequence[ExpandCall], reason: object, *, calls_client: bool) -> bool:
    """Return True if the model waits for the proxy's tool alone, so another round follows."""
    return bool(calls) and not calls_client and not is_cut_off(reason)


def may_be_expand_name(name: str) -> bool:
    """Return True if a name that is still incomplete can become the name of a hidden tool."""
    return any(hidden_name.startswith(name) for hidden_name in HIDDEN_TOOL_NAMES)


def extend_name(name: str, piece: str) -> str:
    """Add a piece to a name. Some providers repeat the whole name in every piece."""
    return piece if piece.startswith(name) else name + piece


def encode_arguments(value: object) -> str:
    """Return the arguments of a call as JSON text. Some providers send an object in place of its text."""
    return value if isinstance(value, str) else "" if value is None else json_codec.dumps(value).decode()


def merge_parts(parts: Sequence[object], pieces: Sequence[object]) -> list[Any]:
    """Add the parts of a streamed piece to earlier ones: a piece continues the last part if it has the same type."""
    merged = list(parts)
    for piece in pieces:
        last = merged[-1] if merged else None
        if is_object(piece) and is_object(last) and _continues_part(last, piece):
            merged[-1] = _join_parts(last, piece)
        else:
            merged.append(piece)
    return merged


def _continues_part(part: Json, piece: Json) -> bool:
    if part.get("type") != piece.get("type") or part.get("index") != piece.get("index") or "data" in piece:
        return False
    if "index" not in piece and part.get("signature"):
        return False
    ids = {part.get("id"), piece.get("id")} - {None}
    return len(ids) < 2 and any(name in piece for name in (*_TEXT_FIELDS, "signature"))


def _join_parts(part: Json, piece: Json) -> Json:
    changes: Json = {name: value for name, value in piece.items() if value is not None}
    for name in _TEXT_FIELDS:
        previous, value = part.get(name), piece.get(name)
        if isinstance(previous, str) and isinstance(value, str):
            changes[name] = json_codec.join_text([previous, value])
        elif is_array(previous) and is_array(value):
            changes[name] = merge_parts(previous, value)
    return json_codec.merge(part, changes)
