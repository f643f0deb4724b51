"""Takes a conversation apart into passages: the pieces of text that may be shortened, each with its question.

Law 1: a passage depends only on its own message and on what comes before it. Its question is the nearest preceding user
text plus, for the output of a tool, what the model said when it called and the call, never the newest user message.
Whether a passage *is* shortened is policy's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from . import documents, tags
from .transcript import Role, TextSlot, ToolCall, Turn

PassageKind = Literal["tool", "block", "fence", "code", "numbered", "pasted", "text"]
MAX_QUESTION_CHARACTERS = 4000  # characters; a task statement says what it is about at its beginning
MAX_THOUGHT_CHARACTERS = 1500  # characters; what a model is about to look for stands at the end of what it says


class Passage(NamedTuple):
    """One piece of one string: `slot.text[start:end]`; `turn` is the message's index."""

    turn_index: int
    role: Role
    slot: TextSlot
    start: int
    end: int
    kind: PassageKind
    question: str
    call: ToolCall | None = None
    tag_action: tags.TagAction | None = None

    @property
    def text(self) -> str:
        """Return the passage itself."""
        return self.slot.text[self.start : self.end]


class _Segment(NamedTuple):
    start: int
    end: int
    kind: PassageKind
    tag_action: tags.TagAction | None


@dataclass(frozen=True, slots=True)
class PassageOptions:
    """How passages are found.

    `agentic` says that tools are on offer, so that long prose of a user is a task rather than material; `query` is put
    in the place of every passage's own question; a text that is not `long` is not searched for material.
    """

    has_tools: bool
    is_long: Callable[[str], bool]
    query: str | None = None


def find_passages(turns: Sequence[Turn], how: PassageOptions) -> Iterator[Passage]:
    """List the passages of a conversation in order; frozen turns have none, and still say what later ones are for."""
    return (passage for passage in _iter_passages(turns, how) if not turns[passage.turn_index].is_frozen)


def _iter_passages(turns: Sequence[Turn], how: PassageOptions) -> Iterator[Passage]:
    asked = thought = ""
    for index, turn in enumerate(turns):
        if turn.role == "user":
            own = _join_slots(turn)[:MAX_QUESTION_CHARACTERS]
            for slot in turn.slots:
                yield from _iter_user_passages(index, slot, asked, how)
            asked, thought = own or asked, ""
        elif turn.role == "tool":
            said = (asked, thought, f"{turn.call.name} {turn.call.arguments}" if turn.call else "")
            question = "\n".join(filter(None, said))
            for slot in turn.slots:
                yield Passage(index, "tool", slot, 0, len(slot.text), "tool", how.query or question, turn.call)
        elif turn.role == "assistant":
            thought = _join_slots(turn)[-MAX_THOUGHT_CHARACTERS:]
            for slot in turn.slots:
                yield Passage(index, "assistant", slot, 0, len(slot.text), "text", how.query or asked)


def _join_slots(turn: Turn) -> str:
    return turn.slots[0].text if len(turn.slots) == 1 else "\n".join(slot.text for slot in turn.slots)


def _iter_user_passages(index: int, slot: TextSlot, before: str, how: PassageOptions) -> Iterator[Passage]:
    """Find the material in a user's text; all of the text is one passage of kind `text` when there is none."""
    tagged = tags.find_tagged_spans(slot.text)
    material = documents.find_material(slot.text, include_prose=not how.has_tools) if how.is_long(slot.text) else ()
    found = documents.exclude_overlaps(material, [tag.outer for tag in tagged]) if tagged else material
    question = how.query or _extract_instruction(slot.text, found, tagged) or before
    if not found and not tagged:
        yield Passage(index, "user", slot, 0, len(slot.text), "text", question)
        return
    stretches = [_Segment(one.start, one.end, one.kind, None) for one in found]
    stretches += [_Segment(*tag.inner, "block", tag.action) for tag in tagged]
    for start, end, kind, wish in sorted(stretches):
        yield Passage(index, "user", slot, start, end, kind, question, tag_action=wish)


def _extract_instruction(text: str, found: Sequence[documents.Material], tagged: Sequence[tags.TaggedSpan]) -> str:
    """Return what a user wrote around the material: the instruction."""
    pieces: list[str] = []
    at = 0
    for start, end in sorted([*((one.start, one.end) for one in found), *(tag.outer for tag in tagged)]):
        pieces.append(text[at:start])
        at = end
    return "".join([*pieces, text[at:]]).strip()[:MAX_QUESTION_CHARACTERS]
