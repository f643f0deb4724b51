"""The search for breaches of the laws: it sees them, and it is the same for the same seed."""

from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.benchmarks import fuzz
from clara_proxy.compression import registry
from clara_proxy.compression.compressor import CompressedPassage, Gap, Task

Made = Callable[[Task], CompressedPassage | None]
TEXT = "\n".join(f"line {at} of a text" for at in range(60))


class Breaking:
    """A compressor that does what it is told."""

    name = "breaking"

    def __init__(self, made: Made, work: int = 0) -> None:
        self.made = made
        self.work = work

    def recognises(self, text: str) -> bool:
        return sum(1 for _ in range(self.work * len(text) ** 2)) >= 0

    def compress(self, task: Task) -> CompressedPassage | None:
        return self.made(task)


def _breach(made: Made) -> str:
    return fuzz.find_breach(fuzz.Trial(Breaking(made), TEXT, "", 4.0))


def _raising(task: Task) -> CompressedPassage | None:
    raise IndexError(len(task.text))


BREACHES: list[tuple[Made, str]] = [
    (_raising, "raised IndexError"),
    (lambda _: CompressedPassage(("of our own",), 60, "lines"), "not verbatim"),
    (lambda _: CompressedPassage(("line 9", "line 8 "), 60, "lines"), "not in order"),
    (lambda task: CompressedPassage((task.text, Gap(1, "lines")), 60, "lines"), "no shorter"),
    (lambda _: CompressedPassage(("line 9", Gap(61, "lines")), 60, "lines"), "gaps"),
    (lambda _: CompressedPassage(("line 9", Gap(0, "lines")), 60, "lines"), "gaps"),
]


def test_a_lawful_compressor_is_left_in_peace() -> None:
    assert not _breach(lambda task: CompressedPassage((task.text[:100], Gap(55, "lines")), 60, "lines"))
    assert not _breach(lambda _: None)


@pytest.mark.parametrize(("made", "said"), BREACHES)
def test_a_breach_is_named(made: Made, said: str) -> None:
    assert said in _breach(made)


def test_what_changes_from_call_to_call_is_a_breach() -> None:
    calls: Iterator[int] = iter(range(9))
    assert "not the same twice" in _breach(
        lambda task: CompressedPassage((task.text[: 10 + next(calls)],), 60, "lines")
    )


def test_work_that_grows_with_the_square_is_seen() -> None:
    assert fuzz.check_growth(fuzz.Trial(Breaking(lambda _: None, work=1), "x" * 120, "", 4.0))
    assert not fuzz.check_growth(fuzz.Trial(Breaking(lambda _: None), "x" * 120, "", 4.0))


@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_trial_that_breaks_no_law(data: bytes) -> None:
    one = fuzz.decode_trial(data)
    assert one.compressor in registry.list_compressors()
    assert "raised" not in fuzz.find_breach(one)


def test_a_seed_always_makes_the_same_texts() -> None:
    made = [
        [fuzz.mutate_text(chance, [TEXT, "other"]) for _ in range(20)] for chance in (Random(1), Random(1), Random(2))
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert max(map(len, made[0])) <= fuzz.MAX_TEXT_CHARS
