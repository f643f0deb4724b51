"""What holds for every compressor and every text: verbatim, in order, counted, deterministic, never an exception."""

from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression.compressor import Compressor
from clara_proxy.compression.extract.core.selection import Units, choose_units, write_units
from clara_proxy.compression.markers import render

from .samples import COMPRESSORS, SAMPLES, condense, count, left_out, pieces

EVERY = pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda compressor: compressor.name)
WORDS = st.text(st.sampled_from("abz019 \t\r\n.,:;!?\"'{}[]()<>/\\-_=#|`*@$%äß。日本\x00\x1b\u2028\ud800"), max_size=40)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """Take samples apart, put rubbish between, repeat and join: what tools print when something goes wrong."""
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        sample = draw(st.sampled_from(list(SAMPLES.values())))
        start = draw(st.integers(0, len(sample)))
        parts += [sample[start : start + draw(st.integers(0, 3000))], draw(WORDS) * draw(st.sampled_from((1, 1, 50)))]
    return draw(st.sampled_from(("", "\n", "\r\n"))).join(parts)


TEXTS = st.one_of(mangled(), WORDS, st.sampled_from(list(SAMPLES.values())))
QUESTIONS = st.one_of(
    WORDS, st.sampled_from(("", "Which job failed in valley 5?", "$[3].owner.login", "read_all src/core"))
)
RATIOS = st.sampled_from((1.2, 2.0, 4.0, 10.0, 1000.0))
OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@EVERY
@OFTEN
@given(text=TEXTS, question=QUESTIONS, ratio=RATIOS)
def test_compressors_never_raise_and_are_deterministic(
    compressor: Compressor, text: str, question: str, ratio: float
) -> None:
    assert compressor.recognises(text) == compressor.recognises(text)
    assert condense(compressor, text, question, ratio) == condense(compressor, text, question, ratio)


@pytest.mark.parametrize("compressor", COMPRESSORS[1:], ids=lambda compressor: compressor.name)
@OFTEN
@given(text=TEXTS, question=QUESTIONS, ratio=RATIOS)
def test_pieces_are_verbatim_in_order_and_apart(compressor: Compressor, text: str, question: str, ratio: float) -> None:
    condensed = condense(compressor, text, question, ratio)
    at = 0
    for piece in pieces(condensed) if condensed is not None else ():
        found = text.find(piece, at)
        assert found >= 0
        at = found + len(piece)


@EVERY
@OFTEN
@given(text=TEXTS, question=QUESTIONS, ratio=RATIOS)
def test_the_outcome_is_shorter_and_its_gaps_are_no_more_than_there_was(
    compressor: Compressor, text: str, question: str, ratio: float
) -> None:
    condensed = condense(compressor, text, question, ratio)
    if condensed is not None:
        assert count(render(condensed, None)) < count(text)
        assert 0 <= left_out(condensed) <= condensed.total


@pytest.mark.parametrize("name", ["log", "search", "code", "diff", "lines"])
@OFTEN
@given(text=TEXTS, question=QUESTIONS, ratio=RATIOS)
def test_kept_and_left_out_lines_add_up(name: str, text: str, question: str, ratio: float) -> None:
    compressor = next(one for one in COMPRESSORS if one.name == name)
    lines = [line for line in text.split("\n") if line.strip()]
    condensed = condense(compressor, text, question, ratio)
    if condensed is not None and all(len(line) < 300 for line in lines):
        kept = sum(1 for piece in pieces(condensed) for line in piece.split("\n") if line.strip())
        assert condensed.total == len(lines)
        assert kept + left_out(condensed) == condensed.total


@given(data=st.data())
def test_written_units_add_up_whatever_was_chosen(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 30))
    lengths = data.draw(st.lists(st.integers(0, 60), min_size=total, max_size=total))
    words = [f"{at}{'x' * length}" for at, length in enumerate(lengths)]
    text = ""
    spans: list[tuple[int, int]] = []
    for word in words:
        spans.append((len(text), len(text) + len(word)))
        text += word + data.draw(st.sampled_from((" ", "\n", "\n" * 12)))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=total, max_size=total))
    kept = bytearray(data.draw(st.lists(st.integers(0, 1), min_size=total, max_size=total)))
    condensed = write_units(Units(text, spans, [0.0] * total, "things", sizes=sizes), kept)
    shown = set(" ".join(pieces(condensed)).split())
    assert shown >= {words[at] for at in range(total) if kept[at]}
    assert (
        sum(sizes[at] for at in range(total) if words[at] in shown) + left_out(condensed)
        == condensed.total
        == sum(sizes)
    )


@given(
    scores=st.lists(st.floats(0, 9), min_size=1, max_size=40),
    budget=st.integers(0, 900),
    data=st.data(),
)
def test_what_is_chosen_stands_under_what_it_belongs_to_and_fits(
    scores: list[float], budget: int, data: st.DataObject
) -> None:
    spans = [(at * 11, at * 11 + 10) for at in range(len(scores))]
    parents = [data.draw(st.integers(-1, at - 1)) for at in range(len(scores))]
    kept = choose_units(Units("x" * 11 * len(scores), spans, scores, "things", parents=parents, marker_cost=0), budget)
    assert all(parents[at] < 0 or kept[parents[at]] for at in range(len(scores)) if kept[at])
    best = max(range(len(scores)), key=lambda at: (scores[at], -at))
    chain = [best]
    while parents[chain[-1]] >= 0:
        chain.append(parents[chain[-1]])
    assert all(kept[at] for at in chain)
    assert sum(kept) * 11 <= max(budget, 11 * len(chain))


LARGE: dict[str, Callable[[int], str]] = {
    "one letter": lambda size: "a" * size,
    "one line": lambda size: "lorem ipsum " * (size // 12),
    "blanks": lambda size: " " * size + "x",
    "blank lines": lambda size: "\n" * size + "x",
    "quotes": lambda size: '{"' + '"' * size,
    "escapes": lambda size: '{"' + "\\" * size,
    "opened": lambda size: "[" * size,
    "nested": lambda size: '{"a":[' * (size // 12) + "]}" * (size // 12),
    "dots": lambda size: "." * size,
    "ellipses": lambda size: "... " * (size // 4),
    "digits": lambda size: "1" * size,
    "hexadecimal": lambda size: "abcdef" * (size // 6),
    "stars": lambda size: "* " * (size // 2) + "\n",
    "equals": lambda size: "= " * (size // 2) + "passed",
    "slashes": lambda size: "a/" * (size // 2) + ":",
    "short lines": lambda size: "1.\n" * (size // 3),
    "carriage returns": lambda size: "error\r\n" * (size // 7),
    "open tags": lambda size: "<document " * (size // 10),
    "indented deeper and deeper": lambda size: "\n".join(" " * at + "if x:" for at in range(int((2 * size) ** 0.5))),
}


@pytest.mark.parametrize("kind", LARGE)
@EVERY
def test_hostile_texts_take_time_in_proportion(compressor: Compressor, kind: str) -> None:
    """Ten times the text may take ten times the time, and room for noise; a hundred times would be a trap."""
    small, large = (_seconds(compressor, LARGE[kind](size)) for size in (20_000, 200_000))
    assert large < max(0.35, 40 * small)


def _seconds(compressor: Compressor, text: str) -> float:
    began = process_time()
    compressor.recognises(text)
    condense(compressor, text, "error in 1 passed x")
    return process_time() - began


@EVERY
@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\r\n", "\x00", "\ud800", "x"])
def test_next_to_nothing_is_left_as_it_is(compressor: Compressor, text: str) -> None:
    assert condense(compressor, text, "anything") is None
