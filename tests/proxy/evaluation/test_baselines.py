"""Baselines keep verbatim text within the target."""

import pytest

from clara_proxy.compression.compressor import Task
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.evaluation.baselines import BASELINES, cut_middle, rank_by_bm25

COUNT = get_token_counter("gpt-4o").count
LINES = [f"Paragraph {number} tells what happened in the year {1800 + number} in the town." for number in range(60)]
PARAGRAPH = " ".join(LINES)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("text", ["\n".join(LINES), PARAGRAPH], ids=["lines", "one line"])
@pytest.mark.parametrize("ratio", [2, 4, 10])
def test_size_is_near_the_target_and_not_above(name: str, text: str, ratio: int) -> None:
    target = COUNT(text) // ratio
    output = BASELINES[name](Task(text, "What happened in 1842?", target, COUNT))
    assert 0.6 * target <= COUNT(output) <= target
    for line in output.splitlines():
        assert line in text or line.endswith("left out]")


def test_bm25_keeps_the_line_of_the_question() -> None:
    assert LINES[42] in rank_by_bm25(Task("\n".join(LINES), "What happened in 1842?", 60, COUNT))


def test_cut_keeps_beginning_and_end() -> None:
    output = cut_middle(Task(PARAGRAPH, "", 100, COUNT))
    assert output.startswith("Paragraph 0 tells")
    assert output.endswith("1859 in the town.")
    assert cut_middle(Task("short text", "", 100, COUNT)) == "short text"


@pytest.mark.parametrize("text", ["", " ", "word", "\n\n", "a" * 5000])
def test_degenerate_texts(text: str) -> None:
    for baseline in BASELINES.values():
        assert len(baseline(Task(text, "", 1, COUNT))) < 100 + len(text)
