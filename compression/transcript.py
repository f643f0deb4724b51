"""A conversation in the form that compression works on, whatever protocol it came in.

A protocol adapter makes turns out of a request body and applies edits to it; nothing here knows HTTP or JSON. The path
of a slot is opaque here: it is returned unchanged beside the new text.
"""

from typing import Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]
SlotPath = tuple[str | int, ...]


class TextSlot(NamedTuple):
    """One string of a request and its path in the body."""

    path: SlotPath
    text: str


class ToolCall(NamedTuple):
    """The tool call that produced a tool turn; `arguments` is JSON text written by the model."""

    name: str
    arguments: str


class Turn(NamedTuple):
    """One message: its role, its strings in order, and the call behind a tool output.

    A frozen turn gives later turns their question, but is never changed. Of a compacted turn the provider reads only a
    summary.
    """

    role: Role
    slots: tuple[TextSlot, ...]
    call: ToolCall | None = None
    is_frozen: bool = False
    is_compacted: bool = False
