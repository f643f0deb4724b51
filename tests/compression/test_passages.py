from collections.abc import Sequence

import pytest

from clara_proxy.compression import passages
from clara_proxy.compression.passages import MAX_QUESTION_CHARACTERS, MAX_THOUGHT_CHARACTERS, Passage, PassageOptions
from clara_proxy.compression.transcript import Role, TextSlot, ToolCall, Turn

LONG = "\n".join(f"2024-05-01T10:00:{n:02d}Z INFO worker-{n % 7} handled request {n}" for n in range(60))
CALL = ToolCall("shell", '{"command":"make"}')


def turn(role: Role, *texts: str, call: ToolCall | None = None, index: int = 0) -> Turn:
    return Turn(role, tuple(TextSlot(("messages", index, part), text) for part, text in enumerate(texts)), call)


def find(
    turns: Sequence[Turn], *, has_tools: bool = True, query: str | None = None, is_long: bool = True
) -> list[Passage]:
    def is_text_long(_: str) -> bool:
        return is_long

    return passages.find_passages(turns, PassageOptions(has_tools, is_text_long, query))[0]


def questions(turns: Sequence[Turn], query: str | None = None) -> list[str]:
    return [passage.question for passage in find(turns, query=query)]


def test_question_of_an_output_is_the_user_text_and_the_call() -> None:
    turns = [
        turn("user", "first"),
        turn("tool", "a", call=CALL),
        turn("user", "second"),
        turn("tool", "b", call=CALL),
        turn("tool", "c"),
        turn("assistant", "d"),
    ]
    call = "shell make"
    assert questions(turns) == ["first", f"first\n{call}", "second", f"second\n{call}", "second", "second"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"path": "a.py", "limits": {"first": 3, "names": ["x", null]}}', "a.py 3 x"),
        ("not JSON", "not JSON"),
        ("[" * 100_000, "[" * 100_000),
        ("", ""),
    ],
)
def test_the_keys_of_arguments_are_no_words_of_the_question(arguments: str, words: str) -> None:
    call = ToolCall("read", arguments)
    assert questions([turn("user", "first"), turn("tool", "a", call=call)])[1] == f"first\nread {words}"


def test_words_before_the_call_are_part_of_the_question() -> None:
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
    call = "shell make"
    first, second, later, last = (passage.question for passage in find(turns) if passage.role == "tool")
    assert first == second == f"first\nLet me look at the queue.\n{call}"
    assert later.endswith(f"x and the worker\n{call}")
    assert len(later) < MAX_THOUGHT_CHARACTERS + 100
    assert last == f"second\n{call}"


def test_prefix_later_messages_change_no_passage() -> None:
    turns = [
        turn("user", "first"),
        turn("tool", LONG, call=CALL),
        turn("user", f"<doc>{LONG}</doc> here"),
        turn("tool", "x"),
    ]
    all_passages = find([*turns, turn("user", "another question altogether")])
    for count in range(len(turns) + 1):
        assert find(turns[:count]) == [passage for passage in all_passages if passage.turn_index < count]


def test_query_replaces_every_question() -> None:
    turns = [
        turn("user", "first"),
        turn("tool", "a", call=CALL),
        turn("assistant", "b"),
        turn("user", f"x <doc>{LONG}</doc>"),
    ]
    assert set(questions(turns, query="who?")) == {"who?"}


def test_question_of_material_is_the_text_around_it() -> None:
    (passage,) = find([turn("user", f"Who was late?\n<doc>{LONG}</doc>\nAnswer briefly.")])
    assert (passage.kind, passage.text) == ("block", LONG)
    assert passage.question == "Who was late?\n<doc></doc>\nAnswer briefly."


def test_question_of_material_alone_is_the_previous_user_text() -> None:
    _, passage = find([turn("user", "Who was late?"), turn("user", f"<clara:compress>{LONG}</clara:compress>")])
    assert (passage.question, passage.tag_action) == ("Who was late?", "compress")


def test_message_without_text_keeps_the_question() -> None:
    assert questions([turn("user", "first"), turn("user"), turn("tool", "a")])[-1] == "first"


def test_long_question_is_cut() -> None:
    assert len(questions([turn("user", "x" * 99_999), turn("tool", "a")])[-1]) == MAX_QUESTION_CHARACTERS


def test_tagged_spans_are_passages_with_an_action() -> None:
    text = f"a <clara:keep>{LONG}</clara:keep> b <clara:compress>c</clara:compress> d"
    keep, compress = find([turn("user", text)])
    assert (keep.tag_action, keep.text, compress.tag_action, compress.text) == ("keep", LONG, "compress", "c")
    assert keep.question == compress.question == "a  b  d"


def test_material_inside_tags_belongs_to_the_tags() -> None:
    text = f"<clara:keep>x\n```\n{LONG}\n```\n</clara:keep>\n<doc>{LONG}</doc>"
    assert [(passage.kind, passage.tag_action) for passage in find([turn("user", text)])] == [
        ("block", "keep"),
        ("block", None),
    ]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(("before", "after"), [("```", "```"), ("~~~log", "~~~"), ("<log>", "</log>")])
def test_line_ends_beside_a_fence_or_a_tag_are_not_part_of_it(before: str, after: str, line_end: str) -> None:
    text = line_end.join(["Why?", before, LONG, after, "Thanks"])
    (passage,) = find([turn("user", text)])
    assert passage.text == LONG
    assert text[passage.end :] == f"{line_end}{after}{line_end}Thanks"


def test_tags_count_in_user_texts_only() -> None:
    tagged = "<clara:compress>x</clara:compress>"
    for role in ("tool", "assistant"):
        (passage,) = find([turn(role, tagged)])
        assert (passage.text, passage.tag_action) == (tagged, None)


def test_system_texts_have_no_passages() -> None:
    assert find([turn("system", LONG, f"<clara:compress>{LONG}</clara:compress>")]) == []


def test_short_text_is_not_searched_for_material() -> None:
    text = f"Look: <doc>{LONG}</doc>"
    (passage,) = find([turn("user", text)], is_long=False)
    assert (passage.kind, passage.text) == ("text", text)


def test_long_user_prose_is_a_task_if_there_are_tools() -> None:
    text = "What does this mean?\n\n" + "\n\n".join(
        f"Chapter {number}. " + "The wind had turned again. " * 30 for number in range(4)
    )
    assert [passage.kind for passage in find([turn("user", text)])] == ["text"]
    assert [passage.kind for passage in find([turn("user", text)], has_tools=False)] == ["pasted"]


def test_each_part_of_a_message_has_its_own_passages() -> None:
    texts = [f"<doc>{LONG}</doc>", "instruction", f"```\n{LONG}\n```"]
    segments = [(passage.slot.text, passage.kind) for passage in find([turn("user", *texts)])]
    assert segments == [(texts[0], "block"), (texts[1], "text"), (texts[2], "fence")]
