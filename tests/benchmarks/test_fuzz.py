"""The fuzzer reports violated invariants, and generates the same texts for the same seed."""

from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.benchmarks import fuzz
from clara_proxy.compression import registry
from clara_proxy.compression.compressor import CompressedPassage, Gap, Task

CompressFunction = Callable[[Task], CompressedPassage | None]
TEXT = "\n".join(f"line {index} of a text" for index in range(60))


class StubCompressor:
    """A compressor with the given output and quadratic work."""

    name = "stub"

    def __init__(self, compress: CompressFunction, work: int = 0) -> None:
        self.output = compress
        self.work = work

    def recognises(self, text: str) -> bool:
        return sum(1 for _ in range(self.work * len(text) ** 2)) >= 0

    def compress(self, task: Task) -> CompressedPassage | None:
        return self.output(task)


def _breach(compress: CompressFunction) -> str:
    return fuzz.find_breach(fuzz.Trial(StubCompressor(compress), TEXT, "", 4.0))


def _raising(task: Task) -> CompressedPassage | None:
    raise IndexError(len(task.text))


BREACHES: list[tuple[CompressFunction, str]] = [
    (_raising, "raised IndexError"),
    (lambda _: CompressedPassage(("of our own",), 60, "lines"), "not verbatim"),
    (lambda _: CompressedPassage(("line 9", "line 8 "), 60, "lines"), "not in order"),
    (lambda task: CompressedPassage((task.text, Gap(1, "lines")), 60, "lines"), "no shorter"),
    (lambda _: CompressedPassage(("line 9", Gap(61, "lines")), 60, "lines"), "gaps"),
    (lambda _: CompressedPassage(("line 9", Gap(0, "lines")), 60, "lines"), "gaps"),
]


def test_a_correct_compressor_has_no_violation() -> None:
    assert not _breach(lambda task: CompressedPassage((task.text[:100], Gap(55, "lines")), 60, "lines"))
    assert not _breach(lambda _: None)


@pytest.mark.parametrize(("compress", "description"), BREACHES)
def test_a_violation_is_described(compress: CompressFunction, description: str) -> None:
    assert description in _breach(compress)


def test_a_nondeterministic_output_is_a_violation() -> None:
    calls: Iterator[int] = iter(range(9))
    assert "not deterministic" in _breach(lambda task: CompressedPassage((task.text[: 10 + next(calls)],), 60, "lines"))


def test_quadratic_time_is_a_violation() -> None:
    assert fuzz.check_growth(fuzz.Trial(StubCompressor(lambda _: None, work=1), "x" * 240, "", 4.0))
    assert not fuzz.check_growth(fuzz.Trial(StubCompressor(lambda _: None), "x" * 240, "", 4.0))


@given(data=st.binary(max_size=400))
def test_any_bytes_decode_to_a_trial_without_an_exception(data: bytes) -> None:
    trial = fuzz.decode_trial(data)
    assert trial.compressor in registry.list_compressors()
    assert "raised" not in fuzz.find_breach(trial)


def test_a_seed_always_generates_the_same_texts() -> None:
    compress = [
        [fuzz.mutate_text(rng, [TEXT, "other"]) for _ in range(20)] for rng in (Random(1), Random(1), Random(2))
    ]
    assert compress[0] == compress[1]
    assert compress[0] != compress[2]
    assert max(map(len, compress[0])) <= fuzz.MAX_TEXT_CHARS
