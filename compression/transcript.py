"""A conversation as the compressor sees it, whatever protocol it came in.

A protocol's adapter makes turns out of a request body and takes edits back; nothing here knows HTTP or JSON. A slot's
path is opaque to this room: it is handed back unchanged beside the new text.
"""

from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]
SlotPath = tuple[str | int, ...]


class TextSlot(NamedTuple):
    """One string of a request: where it stands in the body, and what it says."""

    path: SlotPath
    text: str


class ToolCall(NamedTuple):
    """The tool call that produced a tool turn; `arguments` is the JSON text the model wrote."""

    name: str
    arguments: str


class Turn(NamedTuple):
    """One message: its role, its strings in order, and for a tool's answer the call behind it.

    A `frozen` one is read for what it asks, and never changed.
    """

    role: Role
    slots: tuple[TextSlot, ...]
    call: ToolCall | None = None
    is_frozen: bool = False
