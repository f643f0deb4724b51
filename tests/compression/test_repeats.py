"""What is folded stands further up, in one piece and in order; nothing else is."""

from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.compressor import CompressedPassage, Gap
from clara_proxy.compression.repeats import MIN_REPEAT_CHARACTERS, REPEAT_UNIT, ShownLines

FILE = [f"    value_{at} = compute(argument_{at}, other={at * 7})" for at in range(60)]
texts = st.lists(st.sampled_from([*FILE[:9], "", "}", "    return None", "x" * 200]), max_size=40).map("\n".join)


def fold(*before: str, text: str) -> CompressedPassage | None:
    shown = ShownLines()
    for one in before:
        shown.add_text(one)
    return shown.remove_repeats(text)


def numbered(lines: list[str], first: int, form: str = "{:6}\t{}") -> str:
    return "\n".join(form.format(at, line) for at, line in enumerate(lines, start=first))


def test_a_text_shown_before_is_its_first_line() -> None:
    text = "\n".join(FILE)
    assert fold(text, text=text) == CompressedPassage(
        (FILE[0], Gap(len(FILE) - 1, REPEAT_UNIT)), len(FILE), REPEAT_UNIT
    )


def test_what_changed_stays_between_what_did_not() -> None:
    changed = [*FILE[:30], "    raise ValueError", *FILE[31:]]
    folded = fold("\n".join(FILE), text="\n".join(changed))
    assert folded is not None
    assert folded.parts == (FILE[0], Gap(29, REPEAT_UNIT), f"    raise ValueError\n{FILE[31]}", Gap(28, REPEAT_UNIT))


def test_line_numbers_that_rise_do_not_count() -> None:
    for form in ("{:6}\t{}", "{}:{}", "{}-{}", "src/a.py-{}-{}", "{:4}| {}"):
        text = numbered(FILE, 101, form)
        folded = fold("\n".join(FILE), text=text)
        assert folded is not None
        assert folded.parts == (text.split("\n")[0], Gap(len(FILE) - 1, REPEAT_UNIT))
        assert fold(text, text=numbered(FILE, 7)) is not None


def test_numbers_that_do_not_rise_by_one_are_part_of_the_line() -> None:
    said = [f"request {at} was served by worker {at % 3} in no time at all" for at in range(30)]
    times, others = ("\n".join(f"{at * 3 + later}: {line}" for at, line in enumerate(said)) for later in (0, 1))
    assert fold(times, text=others) is None
    assert fold(times, text=times) is not None


def test_lines_from_here_and_there_are_no_repeat() -> None:
    mixed = "\n".join(line for pair in zip(FILE[:30], FILE[30:], strict=True) for line in pair)
    assert fold("\n".join(FILE), text=mixed) is None


def test_a_short_repeat_is_cheaper_than_a_marker() -> None:
    short = ["a", "b", "c", "d"]
    assert fold("\n".join(short), text="\n".join(short)) is None
    assert sum(map(len, short)) < MIN_REPEAT_CHARACTERS


def test_many_blank_lines_are_no_repeat_worth_a_word() -> None:
    assert fold("\n" * 5000, text="\n" * 5000) is None


def test_what_was_folded_is_found_where_it_stands() -> None:
    shown = ShownLines()
    text, more = "\n".join(FILE[:20]), "\n".join([*FILE[:20], *FILE[40:50]])
    shown.add_text(text)
    assert shown.remove_repeats(more) is not None
    again = shown.remove_repeats(more)
    assert again is not None
    assert again.parts == (FILE[0], Gap(19, REPEAT_UNIT), FILE[40], Gap(9, REPEAT_UNIT))


@settings(deadline=None)
@given(before=st.lists(texts, max_size=4), text=texts)
def test_nothing_is_lost_and_all_of_it_adds_up(before: list[str], text: str) -> None:
    folded = fold(*before, text=text)
    if folded is None:
        return
    gaps = [part for part in folded.parts if isinstance(part, Gap)]
    kept = [part for part in folded.parts if isinstance(part, str)]
    assert sum(gap.left_out for gap in gaps) + sum(part.count("\n") + 1 for part in kept) == folded.total
    assert folded.total == text.count("\n") + 1
    at = 0
    for part in kept:
        at = text.index(part, at) + len(part)
    lines = text.split("\n")
    place = 0
    for piece in folded.parts:
        if isinstance(piece, Gap):
            run = "\n".join(lines[place - 1 : place + piece.left_out])
            assert any(f"\n{run}\n" in f"\n{one}\n" for one in before)
            place += piece.left_out
        else:
            place += piece.count("\n") + 1


@settings(deadline=None)
@given(before=st.lists(texts, min_size=1, max_size=3), text=texts)
def test_the_same_was_shown_the_same_is_folded(before: list[str], text: str) -> None:
    assert fold(*before, text=text) == fold(*before, text=text)
