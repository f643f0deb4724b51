"""Removed lines are shown earlier, in one piece and in order; the memory of a conversation changes only the time."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import dedup
from clara_proxy.compression.compressor import CompressedPassage, Gap
from clara_proxy.compression.dedup import MIN_REPEAT_CHARACTERS, REPEAT_UNIT, DedupStep, ShownLines

LINES = [f"    value_{n} = compute(argument_{n}, other={n * 7})" for n in range(60)]
line_texts = st.lists(st.sampled_from([*LINES[:9], "", "}", "    return None", "x" * 200]), max_size=40).map("\n".join)


# one text against the lines shown before


def remove_repeats(*earlier: str, text: str) -> CompressedPassage | None:
    shown = ShownLines()
    for earlier_text in earlier:
        shown.add_text(earlier_text)
    return shown.remove_repeats(text)


def number_lines(lines: list[str], first: int, template: str = "{:6}\t{}") -> str:
    return "\n".join(template.format(number, line) for number, line in enumerate(lines, start=first))


def test_repeated_text_becomes_its_first_line() -> None:
    text = "\n".join(LINES)
    expected = CompressedPassage((LINES[0], Gap(len(LINES) - 1, REPEAT_UNIT)), len(LINES), REPEAT_UNIT)
    assert remove_repeats(text, text=text) == expected


def test_changed_lines_remain_between_repeats() -> None:
    changed = [*LINES[:30], "    raise ValueError", *LINES[31:]]
    result = remove_repeats("\n".join(LINES), text="\n".join(changed))
    assert result is not None
    assert result.parts == (
        LINES[0],
        Gap(29, REPEAT_UNIT),
        f"    raise ValueError\n{LINES[31]}",
        Gap(28, REPEAT_UNIT),
    )


def test_rising_line_numbers_are_ignored() -> None:
    for template in ("{:6}\t{}", "{}:{}", "{}-{}", "src/a.py-{}-{}", "{:4}| {}"):
        text = number_lines(LINES, 101, template)
        result = remove_repeats("\n".join(LINES), text=text)
        assert result is not None
        assert result.parts == (text.split("\n")[0], Gap(len(LINES) - 1, REPEAT_UNIT))
        assert remove_repeats(text, text=number_lines(LINES, 7)) is not None


def test_numbers_that_do_not_rise_by_one_are_part_of_the_line() -> None:
    lines = [f"request {n} was served by worker {n % 3} in no time at all" for n in range(30)]
    text, shifted = ("\n".join(f"{n * 3 + offset}: {line}" for n, line in enumerate(lines)) for offset in (0, 1))
    assert remove_repeats(text, text=shifted) is None
    assert remove_repeats(text, text=text) is not None


def test_scattered_lines_are_no_repeat() -> None:
    mixed = "\n".join(line for pair in zip(LINES[:30], LINES[30:], strict=True) for line in pair)
    assert remove_repeats("\n".join(LINES), text=mixed) is None


def test_repeat_cheaper_than_a_marker_remains() -> None:
    short = ["a", "b", "c", "d"]
    assert remove_repeats("\n".join(short), text="\n".join(short)) is None
    assert sum(map(len, short)) < MIN_REPEAT_CHARACTERS


def test_blank_lines_are_no_repeat() -> None:
    assert remove_repeats("\n" * 5000, text="\n" * 5000) is None


def test_lines_that_remain_after_a_removal_count_as_shown() -> None:
    shown = ShownLines()
    text, longer = "\n".join(LINES[:20]), "\n".join([*LINES[:20], *LINES[40:50]])
    shown.add_text(text)
    assert shown.remove_repeats(longer) is not None
    again = shown.remove_repeats(longer)
    assert again is not None
    assert again.parts == (LINES[0], Gap(19, REPEAT_UNIT), LINES[40], Gap(9, REPEAT_UNIT))


@given(earlier=st.lists(line_texts, max_size=4), text=line_texts)
def test_no_line_is_lost_and_the_counts_add_up(earlier: list[str], text: str) -> None:
    result = remove_repeats(*earlier, text=text)
    if result is None:
        return
    gaps = [part for part in result.parts if isinstance(part, Gap)]
    pieces = [part for part in result.parts if isinstance(part, str)]
    assert sum(gap.left_out for gap in gaps) + sum(piece.count("\n") + 1 for piece in pieces) == result.total
    assert result.total == text.count("\n") + 1
    position = 0
    for piece in pieces:
        position = text.index(piece, position) + len(piece)
    lines = text.split("\n")
    line_index = 0
    for part in result.parts:
        if isinstance(part, Gap):
            run = "\n".join(lines[line_index - 1 : line_index + part.left_out])
            assert any(f"\n{run}\n" in f"\n{earlier_text}\n" for earlier_text in earlier)
            line_index += part.left_out
        else:
            line_index += part.count("\n") + 1


@given(earlier=st.lists(line_texts, min_size=1, max_size=3), text=line_texts)
def test_removal_is_deterministic(earlier: list[str], text: str) -> None:
    assert remove_repeats(*earlier, text=text) == remove_repeats(*earlier, text=text)


# whole conversations

FILE = LINES[:30]
TEXT = "\n".join(FILE)
READ = '{"command":"cat a.py"}'
output_texts = st.lists(st.sampled_from([TEXT, "\n".join(FILE[:12]), "\n".join(FILE[9:]), "ok"]), max_size=3).map(
    "\n".join
)
step_lists = st.lists(
    st.builds(DedupStep, output_texts, st.sampled_from(["", READ, "not json"]), st.booleans()), max_size=9
)


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    dedup.clear_conversations()
    yield
    dedup.clear_conversations()


def is_replaced(steps: list[DedupStep]) -> list[bool]:
    return [replacement is not None for replacement in dedup.dedupe_steps(steps)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step_lists)
def test_prefix_later_steps_and_memory_change_no_result(steps: list[DedupStep]) -> None:
    dedup.clear_conversations()
    results = dedup.dedupe_steps(steps)
    assert len(results) == len(steps)
    for count in range(len(steps) + 1):
        assert dedup.dedupe_steps(steps[:count]) == results[:count]
    dedup.clear_conversations()
    assert dedup.dedupe_steps(steps) == results


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step_lists)
def test_steps_that_may_not_be_deduplicated_are_unchanged(steps: list[DedupStep]) -> None:
    for step, replacement in zip(steps, dedup.dedupe_steps(steps), strict=True):
        assert step.can_dedupe or replacement is None


def test_conversations_with_the_same_beginning_are_independent() -> None:
    short = [DedupStep(TEXT), DedupStep(TEXT, READ, can_dedupe=True)]
    longer = [DedupStep(TEXT), DedupStep("nothing"), DedupStep(TEXT, READ, can_dedupe=True)]
    for steps in (short, longer, short, longer):
        assert is_replaced(steps) == [False] * (len(steps) - 1) + [True]


def test_third_identical_call_gets_its_output_in_full() -> None:
    read = DedupStep(TEXT, READ, can_dedupe=True)
    assert is_replaced([read] * 5) == [False, True, False, True, False]
    others = [DedupStep(TEXT, f'{{"n":{n}}}', can_dedupe=True) for n in range(4)]
    assert is_replaced(others) == [False, True, True, True]


def test_arguments_of_a_call_count_as_shown() -> None:
    write = DedupStep("ok", '{"path":"a.py","file_text":"' + "\\n".join(FILE) + '"}')
    assert is_replaced([write, DedupStep(TEXT, READ, can_dedupe=True)]) == [False, True]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = dedup.create_memory(100)
    monkeypatch.setattr(dedup, "_conversations", memory)
    for n in range(20):
        dedup.dedupe_steps([DedupStep(f"{n}\n{TEXT}")])
        assert memory.currsize <= 100
    assert memory.currsize > 0


def test_conversation_larger_than_the_memory_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = dedup.create_memory(40)
    monkeypatch.setattr(dedup, "_conversations", memory)
    dedup.dedupe_steps([DedupStep(TEXT)])
    size = memory.currsize
    steps = [DedupStep(f"{TEXT}\n{TEXT}"), DedupStep(TEXT, READ, can_dedupe=True)]
    assert is_replaced(steps) == is_replaced(steps) == [False, True]
    assert memory.currsize == size > 0


def test_a_file_read_is_not_deduplicated_against_a_users_text() -> None:
    shown = DedupStep(TEXT, is_user_text=True)
    read = DedupStep(TEXT, READ, can_dedupe=True, is_file_read=True)
    assert is_replaced([shown, read]) == [False, False]
    assert is_replaced([shown, DedupStep(TEXT, READ, can_dedupe=True)]) == [False, True]
    assert is_replaced([DedupStep(TEXT), read]) == [False, True]
