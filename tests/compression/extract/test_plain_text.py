"""Plain text: progress bars, long lines, repeated lines, and lines with a rare first word."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract.core import lines
from clara_proxy.compression.extract.plain_text import DEFAULT_PLAIN_TEXT_WEIGHTS, find_odd_openings

from .samples import BY_NAME, NOTES, TESTS, compress_text, run_compressor

STEPS = [f"  {index}%|{'█' * (index // 10):10}| {index}/100 [00:{index:02}<00:10]" for index in range(0, 101, 5)]
CHECKS = [
    f"Checking   sum of {index}" if index % 2 else f"Installing part{index % 7}, number {index}" for index in range(300)
]
AGAIN = [f"Installing again {chr(97 + index % 26)}{chr(97 + index // 26)} number {index}" for index in range(300)]


def visible_lines(text: str) -> list[str]:
    return [text[start:end] for start, end in lines.find_line_spans(text)]


def test_only_the_last_state_of_a_progress_bar_is_a_line() -> None:
    assert visible_lines("\r".join(STEPS) + "\r\ndone\r") == [f"{STEPS[-1]}\r", "done\r"]
    assert visible_lines("\r" + "\r".join(STEPS)) == [STEPS[-1]]


def test_text_between_carriage_returns_is_not_a_progress_bar() -> None:
    text = "first of all\rthe second says more\rand a third one"
    assert visible_lines(text) == [text]


@given(st.lists(st.text(st.sampled_from("a 5%\r/"), max_size=30), max_size=6).map("\n".join))
def test_every_line_keeps_some_visible_text(text: str) -> None:
    spans = lines.find_line_spans(text)
    assert len(spans) == sum(bool(line and not line.isspace()) for line in text.split("\n"))
    assert all(text[start:end].strip() for start, end in spans)
    assert all(span[1] <= next_span[0] for span, next_span in pairwise(spans))


def test_a_line_with_a_rare_first_word_is_kept() -> None:
    text = "\n".join([*CHECKS, "Note: lumen does not provide the extra gpu", *AGAIN])
    assert "does not provide the extra gpu" in compress_text(
        "lines", text, "Which part was installed, number 7?", ratio=12
    )


def test_no_first_word_is_rare_if_none_is_common() -> None:
    text = "\n".join(f"{chr(97 + index % 26)}{chr(97 + index // 26)}word {index}" for index in range(200))
    assert not find_odd_openings(text, lines.find_line_spans(text), DEFAULT_PLAIN_TEXT_WEIGHTS)
    assert not find_odd_openings(
        "\n".join(["same"] * 9 + ["other"]),
        [(index * 5, index * 5 + 4) for index in range(10)],
        DEFAULT_PLAIN_TEXT_WEIGHTS,
    )


def test_repeated_lines_are_folded() -> None:
    assert "similar lines left out" in compress_text("lines", NOTES, "", ratio=6)


def test_a_very_long_line_is_cut_into_pieces() -> None:
    text = "alpha beta gamma " * 3000 + "the needle is 4711 " + "delta epsilon " * 3000
    assert "needle is 4711" in compress_text("lines", text, "needle", ratio=20)


def test_blank_lines_at_the_end_are_dropped_without_a_gap() -> None:
    passage = run_compressor(BY_NAME["lines"], TESTS + "\n" * 500, "", 3)
    assert passage is not None
    assert isinstance(passage.parts[-1], str)
    assert passage.parts[-1].endswith("in 0.42s =========================")


def test_the_settings_of_a_failing_part_come_before_digests_and_outlines() -> None:
    parts = [
        f"  part{index}:\n    Image: part@sha256:{index:064x}\n    Port: {8000 + index}\n    State: {state}\n"
        f"    Options:\n      HEAP: {256 * index + 64}m\n"
        for index, state in enumerate(["Running"] * 9 + ["Failed, exit code: 137"] + ["Running"] * 9)
    ]
    text = "Name: api\nQuotas:\n  cpu: 4\nParts:\n" + "".join(parts) + "Zones:\n  a: up\n  b: up"
    out = compress_text("lines", text, "Why does it restart?", ratio=6)
    assert "HEAP: 2368m" in out
    assert "exit code: 137" in out
    assert f"{9:064x}" not in out


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("Which part uses the most memory?", "  memory: 7340 kB"),
        ("Which part has the least memory?", "  memory: 12 kB"),
    ],
)
def test_the_greatest_and_the_least_value_of_a_field_are_kept(question: str, line: str) -> None:
    sizes = [100 + index % 17 for index in range(60)]
    sizes[23], sizes[41] = 7340, 12
    text = "\n".join(f"part p{index}\n  memory: {size} kB\n  ready: yes" for index, size in enumerate(sizes))
    assert line in compress_text("lines", text, question, ratio=10)
