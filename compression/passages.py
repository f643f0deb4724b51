"""Splits a conversation into passages: the pieces of text that may be compressed, each with its question.

A passage depends only on its own message and on earlier ones (the prefix invariant). Its question is the nearest
preceding user text, plus the model's words before the call and the call itself for a tool output; never the newest user
message. Policy decides which passages are compressed.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, cast

from . import documents, shown_files, tags, text_protocols
from .text_protocols import Output
from .transcript import Role, TextSlot, ToolCall, Turn

PassageKind = Literal["tool", "block", "fence", "code", "file", "numbered", "pasted", "retrieved", "text"]
MAX_QUESTION_CHARACTERS = 4000  # from the beginning, which names the subject of a task
MAX_THOUGHT_CHARACTERS = 1500  # from the end, which says what the model is about to look for
MAX_PARSED_CHARACTERS = 20_000  # of a call's arguments; longer ones are part of the question as they are
MIN_OUTPUT_CHARACTERS = 200  # of a tool's output; the instructions of an agent may hold shorter examples


class Passage(NamedTuple):
    """One piece of one string, `slot.text[start:end]`; `turn_index` is the index of its message."""

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


class PassageOptions(NamedTuple):
    """Options of the search for passages.

    With `has_tools`, a user's long prose is a task rather than material. `query` replaces the question of every
    passage. Only texts for which `is_long` returns True are searched for material.
    """

    has_tools: bool
    is_long: Callable[[str], bool]
    query: str | None = None


class Question(NamedTuple):
    """The parts of earlier messages in the questions of later passages."""

    user_text: str = ""
    reply: str = ""
    thought: str = ""
    has_replied: bool = False


NO_QUESTION = Question()


def find_passages(
    turns: Sequence[Turn], options: PassageOptions, first: int = 0, before: Question = NO_QUESTION
) -> tuple[list[Passage], Question]:
    """Return the passages of the turns from index `first` on, and the question parts for later turns.

    `before` holds the question parts of the turns before `first`. Frozen turns have no passages, but
    their text is a question, too.
    """
    found: list[Passage] = []
    question = before
    for index in range(first, len(turns)):
        turn = turns[index]
        if turn.is_compacted:
            found += [] if turn.is_frozen else _iter_compacted(index, turn)
            if turn.role == "user":
                question = question._replace(user_text=_join_slots(turn)[:MAX_QUESTION_CHARACTERS])
            continue
        outputs = find_turn_outputs(turn, has_replied=question.has_replied)
        if not turn.is_frozen:
            found += _iter_turn(index, turn, outputs, question, options)
        if not outputs:
            question = _advance_question(turn, question)
    return found, question


def _advance_question(turn: Turn, question: Question) -> Question:
    if turn.role == "user":
        user_text = _join_slots(turn)[:MAX_QUESTION_CHARACTERS] or question.user_text
        return Question(user_text, has_replied=question.has_replied)
    if turn.role == "assistant":
        reply = _join_slots(turn)
        return Question(question.user_text, reply, reply[-MAX_THOUGHT_CHARACTERS:], has_replied=True)
    return question


def _iter_turn(
    index: int,
    turn: Turn,
    outputs: Iterable[tuple[TextSlot, Output]],
    before: Question,
    options: PassageOptions,
) -> Iterator[Passage]:
    if outputs:
        question = options.query or "\n".join(filter(None, (before.user_text, before.thought)))
        named_call = text_protocols.find_call(before.reply)
        for slot, output in outputs:
            passage = _build_output(index, slot, output, question)
            yield passage if passage.call else passage._replace(call=named_call)
    elif turn.role == "user":
        yield from _iter_user_turn(index, turn, before.user_text, options)
    elif turn.role == "tool":
        call = _describe_call(turn.call) if turn.call else ""
        question = options.query or "\n".join(filter(None, (before.user_text, before.thought, call)))
        for slot in turn.slots:
            yield Passage(index, "tool", slot, 0, len(slot.text), "tool", question, turn.call)
    elif turn.role == "assistant":
        for slot in turn.slots:
            yield Passage(index, "assistant", slot, 0, len(slot.text), "text", options.query or before.user_text)


def _iter_compacted(index: int, turn: Turn) -> Iterator[Passage]:
    """Yield the texts of a turn that the provider does not read, as they are."""
    if turn.role in ("user", "tool"):
        for slot in turn.slots:
            kind: PassageKind = "tool" if turn.role == "tool" else "text"
            yield Passage(index, turn.role, slot, 0, len(slot.text), kind, "", turn.call)


def _iter_user_turn(index: int, turn: Turn, user_text: str, options: PassageOptions) -> Iterator[Passage]:
    for before, slot in zip((None, *turn.slots), turn.slots, strict=False):
        if before is not None and shown_files.ends_with_path(before.text) and "<clara:" not in slot.text:
            yield Passage(index, "user", slot, 0, len(slot.text), "code", options.query or user_text)
        else:
            yield from _iter_user_passages(index, slot, user_text, options)


def find_turn_outputs(turn: Turn, *, has_replied: bool) -> list[tuple[TextSlot, Output]]:
    """Return the tool outputs of a user or system turn that consists of them, by the marks of text protocols.

    Such a turn follows a reply of the model, or shows a command that the user ran.
    """
    if turn.role not in ("user", "system"):
        return []
    for slot in turn.slots:
        if "<clara:" in slot.text:
            return []
    outputs: list[tuple[TextSlot, Output]] = []
    pending: Output | None = None
    for slot in turn.slots:
        matches: Sequence[Output] = ()
        if has_replied or (turn.role == "user" and text_protocols.is_user_command(slot.text)):
            matches = text_protocols.find_message_outputs(slot.text)
        if not matches and pending is not None:  # the mark is a part of its own
            matches = (Output(0, len(slot.text), pending.call),)
        pending = matches[-1] if matches and matches[-1].start == matches[-1].end else None
        if matches:
            outputs += [(slot, output) for output in matches if output.start < output.end]
    return outputs


def extract_question(text: str) -> str:
    """Return what a user's text asks: the text without the documents and outputs in it, or all of it."""
    spans = tags.find_tagged_spans(text)
    material = documents.find_material(text, include_prose=True)
    material = documents.exclude_overlaps(material, [tag.outer for tag in spans]) if spans else material
    return _extract_instruction(text, material, spans) or text[:MAX_QUESTION_CHARACTERS]


def _build_output(index: int, slot: TextSlot, output: Output, question: str) -> Passage:
    call = f"\n{_describe_call(output.call)}" if output.call else ""
    return Passage(index, "tool", slot, output.start, output.end, "tool", question + call, output.call)


def _describe_call(call: ToolCall) -> str:
    """Return the name and the values of the arguments; their keys, such as `command`, are no words of the question."""
    try:
        arguments: object = json.loads(call.arguments) if len(call.arguments) <= MAX_PARSED_CHARACTERS else None
    except (ValueError, RecursionError):
        arguments = None
    if arguments is None:
        return f"{call.name} {call.arguments}"
    values: list[str] = []
    pending: list[object] = [arguments]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(reversed(cast("dict[str, object]", value).values()))
        elif isinstance(value, list):
            pending.extend(reversed(cast("list[object]", value)))
        elif value is not None:
            values.append(str(value))
    return " ".join([call.name, *values])


def _join_slots(turn: Turn) -> str:
    return turn.slots[0].text if len(turn.slots) == 1 else "\n".join(slot.text for slot in turn.slots)


def _iter_user_passages(
    index: int, slot: TextSlot, previous_question: str, options: PassageOptions
) -> Iterator[Passage]:
    """Yield the material in a user's text; without any, all of the text is one passage of kind `text`."""
    tagged_spans = tags.find_tagged_spans(slot.text)
    outputs = () if tagged_spans else text_protocols.find_embedded_outputs(slot.text)
    if outputs:
        yield from _iter_embedded_outputs(index, slot, outputs, options)
        return
    material: Sequence[documents.Material] = ()
    if options.is_long(slot.text):
        material = documents.find_material(slot.text, include_prose=not options.has_tools)
        if tagged_spans:
            material = documents.exclude_overlaps(material, [tag.outer for tag in tagged_spans])
    question = options.query or _extract_instruction(slot.text, material, tagged_spans) or previous_question
    if not material and not tagged_spans:
        yield Passage(index, "user", slot, 0, len(slot.text), "text", question)
        return
    segments = [_Segment(*_trim_line_ends(slot.text, span.start, span.end), span.kind, None) for span in material]
    segments += [_Segment(*tag.inner, "block", tag.action) for tag in tagged_spans]
    for start, end, kind, action in sorted(segments):
        yield Passage(index, "user", slot, start, end, kind, question, tag_action=action)


def _iter_embedded_outputs(
    index: int, slot: TextSlot, outputs: Sequence[Output], options: PassageOptions
) -> Iterator[Passage]:
    """Yield the outputs in a text that holds a whole run, each with the task and the words before it as the question.

    The task ends where the first output begins that is more than an example in the instructions.
    """
    first = next((output for output in outputs if output.end - output.start > MIN_OUTPUT_CHARACTERS), outputs[0])
    task = slot.text[: first.start][-MAX_QUESTION_CHARACTERS:]
    position = outputs[0].start
    for output in outputs:
        thought = slot.text[position : output.start][-MAX_THOUGHT_CHARACTERS:]
        question = options.query or f"{task}\n{thought}".strip()
        yield Passage(index, "tool", slot, output.start, output.end, "tool", question)
        position = output.end


def _trim_line_ends(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span without line ends at its edges, so that a fence or a tag beside it keeps its own line."""
    start = end - len(text[start:end].lstrip("\r\n"))
    return start, start + len(text[start:end].rstrip("\r\n"))


def _extract_instruction(
    text: str, material: Sequence[documents.Material], tagged_spans: Sequence[tags.TaggedSpan]
) -> str:
    """Return the user's text without material and tagged spans: the instruction."""
    if not material and not tagged_spans:
        return text.strip()[:MAX_QUESTION_CHARACTERS]
    pieces: list[str] = []
    position = 0
    for start, end in sorted([*((span.start, span.end) for span in material), *(tag.outer for tag in tagged_spans)]):
        pieces.append(text[position:start])
        position = end
    return "".join([*pieces, text[position:]]).strip()[:MAX_QUESTION_CHARACTERS]
