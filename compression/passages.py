"""Takes a conversation apart into passages: the pieces of text that may be shortened, each with its question.

Law 1: a passage depends only on its own message and on what comes before it. Its question is the nearest preceding user
text plus, for the output of a tool, what the model said when it called and the call, never the newest user message.
Whether a passage *is* shortened is policy's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from . import documents, tags
from .transcript import Call, Role, Slot, Turn

Kind = Literal["tool", "block", "fence", "code", "numbered", "pasted", "text"]
LONGEST_QUESTION = 4000  # characters; a task statement says what it is about at its beginning
LONGEST_THOUGHT = 1500  # characters; what a model is about to look for stands at the end of what it says


class Passage(NamedTuple):
    """One piece of one string: `slot.text[start:end]`; `turn` is the message's index."""

    turn: int
    role: Role
    slot: Slot
    start: int
    end: int
    kind: Kind
    question: str
    call: Call | None = None
    wish: tags.Wish | None = None

    @property
    def text(self) -> str:
        """Return the passage itself."""
        return self.slot.text[self.start : self.end]


class _Stretch(NamedTuple):
    start: int
    end: int
    kind: Kind
    wish: tags.Wish | None


@dataclass(frozen=True, slots=True)
class Finding:
    """How passages are found.

    `agentic` says that tools are on offer, so that long prose of a user is a task rather than material; `query` is put
    in the place of every passage's own question; a text that is not `long` is not searched for material.
    """

    agentic: bool
    long: Callable[[str], bool]
    query: str | None = None


def find(turns: Sequence[Turn], how: Finding) -> Iterator[Passage]:
    """List the passages of a conversation in order; frozen turns have none, and still say what later ones are for."""
    return (passage for passage in _all(turns, how) if not turns[passage.turn].frozen)


def _all(turns: Sequence[Turn], how: Finding) -> Iterator[Passage]:
    asked = thought = ""
    for index, turn in enumerate(turns):
        if turn.role == "user":
            own = _words(turn)[:LONGEST_QUESTION]
            for slot in turn.slots:
                yield from _of_user(index, slot, asked, how)
            asked, thought = own or asked, ""
        elif turn.role == "tool":
            said = (asked, thought, f"{turn.call.name} {turn.call.arguments}" if turn.call else "")
            question = "\n".join(filter(None, said))
            for slot in turn.slots:
                yield Passage(index, "tool", slot, 0, len(slot.text), "tool", how.query or question, turn.call)
        elif turn.role == "assistant":
            thought = _words(turn)[-LONGEST_THOUGHT:]
            for slot in turn.slots:
                yield Passage(index, "assistant", slot, 0, len(slot.text), "text", how.query or asked)


def _words(turn: Turn) -> str:
    return turn.slots[0].text if len(turn.slots) == 1 else "\n".join(slot.text for slot in turn.slots)


def _of_user(index: int, slot: Slot, before: str, how: Finding) -> Iterator[Passage]:
    """Find the material in a user's text; all of the text is one passage of kind `text` when there is none."""
    tagged = tags.find(slot.text)
    material = documents.find(slot.text, pasted=not how.agentic) if how.long(slot.text) else ()
    found = documents.apart(material, [tag.outer for tag in tagged]) if tagged else material
    question = how.query or _around(slot.text, found, tagged) or before
    if not found and not tagged:
        yield Passage(index, "user", slot, 0, len(slot.text), "text", question)
        return
    stretches = [_Stretch(one.start, one.end, one.kind, None) for one in found]
    stretches += [_Stretch(*tag.inner, "block", tag.wish) for tag in tagged]
    for start, end, kind, wish in sorted(stretches):
        yield Passage(index, "user", slot, start, end, kind, question, wish=wish)


def _around(text: str, found: Sequence[documents.Found], tagged: Sequence[tags.Tagged]) -> str:
    """Return what a user wrote around the material: the instruction."""
    pieces: list[str] = []
    at = 0
    for start, end in sorted([*((one.start, one.end) for one in found), *(tag.outer for tag in tagged)]):
        pieces.append(text[at:start])
        at = end
    return "".join([*pieces, text[at:]]).strip()[:LONGEST_QUESTION]
