"""What stays of lines that nothing else recognises: the last state of a progress bar, and what begins oddly."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract import lines

from .samples import shortened

STEPS = [f"  {at}%|{'█' * (at // 10):10}| {at}/100 [00:{at:02}<00:10]" for at in range(0, 101, 5)]
CHECKS = [f"Checking   sum of {at}" if at % 2 else f"Installing part{at % 7}, number {at}" for at in range(300)]
AGAIN = [f"Installing again {chr(97 + at % 26)}{chr(97 + at // 26)} number {at}" for at in range(300)]


def shown(text: str) -> list[str]:
    return [text[start:end] for start, end in lines.find_line_spans(text)]


def test_of_a_progress_bar_the_last_state_is_a_line() -> None:
    assert shown("\r".join(STEPS) + "\r\ndone\r") == [f"{STEPS[-1]}\r", "done\r"]
    assert shown("\r" + "\r".join(STEPS)) == [STEPS[-1]]


def test_lines_that_only_old_machines_part_are_no_progress() -> None:
    text = "first of all\rthe second says more\rand a third one"
    assert shown(text) == [text]


@given(st.lists(st.text(st.sampled_from("a 5%\r/"), max_size=30), max_size=6).map("\n".join))
def test_no_line_loses_all_that_can_be_read(text: str) -> None:
    found = lines.find_line_spans(text)
    assert len(found) == sum(bool(line and not line.isspace()) for line in text.split("\n"))
    assert all(text[start:end].strip() for start, end in found)
    assert all(one[1] <= other[0] for one, other in pairwise(found))


def test_a_line_that_begins_as_no_other_does_stays() -> None:
    text = "\n".join([*CHECKS, "Note: lumen does not provide the extra gpu", *AGAIN])
    assert "does not provide the extra gpu" in shortened("lines", text, "Which part was installed, number 7?", ratio=12)


def test_nothing_begins_oddly_where_nothing_begins_alike() -> None:
    text = "\n".join(f"{chr(97 + at % 26)}{chr(97 + at // 26)}word {at}" for at in range(200))
    assert not lines.find_odd_openings(text, lines.find_line_spans(text))
    assert not lines.find_odd_openings("\n".join(["same"] * 9 + ["other"]), [(at * 5, at * 5 + 4) for at in range(10)])
