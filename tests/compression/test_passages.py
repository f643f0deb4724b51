from collections.abc import Sequence

from clara_proxy.compression import passages
from clara_proxy.compression.passages import MAX_QUESTION_CHARACTERS, MAX_THOUGHT_CHARACTERS, Passage, PassageOptions
from clara_proxy.compression.transcript import Role, TextSlot, ToolCall, Turn

LONG = "\n".join(f"2024-05-01T10:00:{at:02d}Z INFO worker-{at % 7} handled request {at}" for at in range(60))
CALL = ToolCall("shell", '{"command":"make"}')


def turn(role: Role, *texts: str, call: ToolCall | None = None, index: int = 0) -> Turn:
    return Turn(role, tuple(TextSlot(("messages", index, at), text) for at, text in enumerate(texts)), call)


def found(turns: Sequence[Turn], *, agentic: bool = True, query: str | None = None, long: bool = True) -> list[Passage]:
    return list(passages.find_passages(turns, PassageOptions(agentic, lambda _: long, query)))


def questions(turns: Sequence[Turn], **how: str | None) -> list[str]:
    return [one.question for one in found(turns, query=how.get("query"))]


def test_the_question_of_an_output_is_what_was_asked_before_it_and_the_call_behind_it() -> None:
    turns = [
        turn("user", "first"),
        turn("tool", "a", call=CALL),
        turn("user", "second"),
        turn("tool", "b", call=CALL),
        turn("tool", "c"),
        turn("assistant", "d"),
    ]
    asked = 'shell {"command":"make"}'
    assert questions(turns) == ["first", f"first\n{asked}", "second", f"second\n{asked}", "second", "second"]


def test_what_the_model_said_when_it_called_is_part_of_the_question() -> None:
    turns = [
        turn("user", "first"),
        turn("assistant", "Let me look at the queue."),
        turn("tool", "a", call=CALL),
        turn("tool", "b", call=CALL),
        turn("assistant", "x" * 9999 + " and the worker"),
        turn("tool", "c", call=CALL),
        turn("user", "second"),
        turn("tool", "d", call=CALL),
    ]
    asked = 'shell {"command":"make"}'
    one, other, later, last = (found.question for found in found(turns) if found.role == "tool")
    assert one == other == f"first\nLet me look at the queue.\n{asked}"
    assert later.endswith(f"x and the worker\n{asked}")
    assert len(later) < MAX_THOUGHT_CHARACTERS + 100
    assert last == f"second\n{asked}"


def test_law_1_a_later_question_changes_nothing() -> None:
    turns = [
        turn("user", "first"),
        turn("tool", LONG, call=CALL),
        turn("user", f"<doc>{LONG}</doc> here"),
        turn("tool", "x"),
    ]
    whole = found([*turns, turn("user", "another question altogether")])
    for upto in range(len(turns) + 1):
        assert found(turns[:upto]) == [one for one in whole if one.turn_index < upto]


def test_a_query_takes_the_place_of_every_question() -> None:
    turns = [
        turn("user", "first"),
        turn("tool", "a", call=CALL),
        turn("assistant", "b"),
        turn("user", f"x <doc>{LONG}</doc>"),
    ]
    assert set(questions(turns, query="who?")) == {"who?"}


def test_the_question_of_material_is_what_stands_around_it() -> None:
    (one,) = found([turn("user", f"Who was late?\n<doc>{LONG}</doc>\nAnswer briefly.")])
    assert (one.kind, one.text) == ("block", LONG)
    assert one.question == "Who was late?\n<doc></doc>\nAnswer briefly."


def test_material_alone_belongs_to_what_was_asked_before() -> None:
    _, one = found([turn("user", "Who was late?"), turn("user", f"<clara:compress>{LONG}</clara:compress>")])
    assert (one.question, one.tag_action) == ("Who was late?", "compress")


def test_a_message_without_text_does_not_end_a_question() -> None:
    assert questions([turn("user", "first"), turn("user"), turn("tool", "a")])[-1] == "first"


def test_a_long_question_is_cut() -> None:
    assert len(questions([turn("user", "x" * 99_999), turn("tool", "a")])[-1]) == MAX_QUESTION_CHARACTERS


def test_tagged_stretches_are_passages_with_a_wish() -> None:
    text = f"a <clara:keep>{LONG}</clara:keep> b <clara:compress>c</clara:compress> d"
    keep, compress = found([turn("user", text)])
    assert (keep.tag_action, keep.text, compress.tag_action, compress.text) == ("keep", LONG, "compress", "c")
    assert keep.question == compress.question == "a  b  d"


def test_material_in_tags_is_the_tags_business() -> None:
    text = f"<clara:keep>x\n```\n{LONG}\n```\n</clara:keep>\n<doc>{LONG}</doc>"
    assert [(one.kind, one.tag_action) for one in found([turn("user", text)])] == [("block", "keep"), ("block", None)]


def test_only_users_steer_with_tags() -> None:
    tagged = "<clara:compress>x</clara:compress>"
    for role in ("tool", "assistant"):
        (one,) = found([turn(role, tagged)])
        assert (one.text, one.tag_action) == (tagged, None)


def test_system_texts_are_no_passages() -> None:
    assert found([turn("system", LONG, f"<clara:compress>{LONG}</clara:compress>")]) == []


def test_a_short_text_is_not_searched_for_material() -> None:
    text = f"Look: <doc>{LONG}</doc>"
    (one,) = found([turn("user", text)], long=False)
    assert (one.kind, one.text) == ("text", text)


def test_the_long_prose_of_an_agents_user_is_a_task() -> None:
    text = "What does this mean?\n\n" + "\n\n".join(
        f"Chapter {number}. " + "The wind had turned again. " * 30 for number in range(4)
    )
    assert [one.kind for one in found([turn("user", text)])] == ["text"]
    assert [one.kind for one in found([turn("user", text)], agentic=False)] == ["pasted"]


def test_every_part_of_a_message_has_passages_of_its_own() -> None:
    texts = [f"<doc>{LONG}</doc>", "instruction", f"```\n{LONG}\n```"]
    made = found([turn("user", *texts)])
    assert [(one.slot.text, one.kind) for one in made] == [(texts[0], "block"), (texts[1], "text"), (texts[2], "fence")]
