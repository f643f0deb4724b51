"""Properties of every compressor on any text: verbatim, ordered, counted, deterministic, linear, without exceptions.

JSON gets a new layout, so its literals are verbatim and ordered instead (`json/test_json.py`).
"""

import json
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import embeddings, registry
from clara_proxy.compression.compressor import Compressor, Gap
from clara_proxy.compression.extract.core.base_weights import ExtractWeights
from clara_proxy.compression.extract.core.selection import Units, choose_units, write_units
from clara_proxy.compression.markers import render
from clara_proxy.tests.compression.measuring import without_garbage_collection

from .samples import SAMPLES, count, count_left_out, list_pieces, run_compressor
from .test_html import PAGE
from .test_tables import FORMATS


@pytest.fixture(autouse=True, scope="module")
def load_embeddings() -> None:
    """Load what the first text would load, so that no measurement includes it."""
    embeddings.embed(["a text"])


EVERY_COMPRESSOR = pytest.mark.parametrize(
    "compressor", registry.list_compressors(), ids=lambda compressor: compressor.name
)
SAMPLE_TEXTS = [*SAMPLES.values(), *FORMATS.values(), PAGE]
NOISE = st.text(
    st.sampled_from("abz019 \t\r\n.,:;!?\"'{}[]()<>/\\-_=#|+`*@$%äß。日本\x00\x1b\u2028\ud800İ"), max_size=60
)


@st.composite
def mangled_texts(draw: st.DrawFn) -> str:
    """Cut samples into pieces, insert noise, repeat and join them."""
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        sample = draw(st.sampled_from(SAMPLE_TEXTS))
        start = draw(st.integers(0, len(sample)))
        parts += [sample[start : start + draw(st.integers(0, 3000))], draw(NOISE) * draw(st.sampled_from((1, 1, 50)))]
    return draw(st.sampled_from(("", "\n", "\r\n"))).join(parts)


TEXTS = st.one_of(mangled_texts(), NOISE, st.sampled_from(SAMPLE_TEXTS))
QUESTIONS = st.one_of(
    NOISE,
    st.sampled_from(
        (
            "",
            "Which job failed in valley 5?",
            "$[3].owner.login",
            "read_all src/core",
            "order 1077",
            "the links of hive 13",
        )
    ),
)
RATIOS = st.sampled_from((1.2, 2.0, 3.0, 4.0, 10.0, 1000.0))
EXAMPLES = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


@EVERY_COMPRESSOR
@EXAMPLES
@given(text=TEXTS, question=QUESTIONS, ratio=RATIOS)
def test_output_is_verbatim_ordered_shorter_counted_and_deterministic(
    compressor: Compressor, text: str, question: str, ratio: float
) -> None:
    assert compressor.recognises(text) == compressor.recognises(text)
    passage = run_compressor(compressor, text, question, ratio)
    assert passage == run_compressor(compressor, text, question, ratio)
    if passage is None:
        return
    assert count(render(passage, None)) < count(text)
    assert 0 <= count_left_out(passage) <= passage.total
    assert all(part.left_out > 0 for part in passage.parts if isinstance(part, Gap))
    end = 0
    for piece in list_pieces(passage) if compressor.name != "json" else ():
        start = text.find(piece, end)
        assert start >= 0
        end = start + len(piece)


@pytest.mark.parametrize("name", ["log", "search", "code", "diff", "lines"])
@EXAMPLES
@given(text=TEXTS, question=QUESTIONS, ratio=RATIOS)
def test_kept_and_left_out_lines_add_up(name: str, text: str, question: str, ratio: float) -> None:
    compressor = next(compressor for compressor in registry.list_compressors() if compressor.name == name)
    lines = [line for line in text.split("\n") if line.strip()]
    passage = run_compressor(compressor, text, question, ratio)
    if passage is not None and all(len(line) < 300 for line in lines):
        kept = sum(1 for piece in list_pieces(passage) for line in piece.split("\n") if line.strip())
        assert passage.total == len(lines)
        assert kept + count_left_out(passage) == passage.total


@given(data=st.data())
def test_written_units_and_gaps_add_up_for_any_selection(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 30))
    lengths = data.draw(st.lists(st.integers(0, 60), min_size=total, max_size=total))
    words = [f"{index}{'x' * length}" for index, length in enumerate(lengths)]
    text = ""
    spans: list[tuple[int, int]] = []
    for word in words:
        spans.append((len(text), len(text) + len(word)))
        text += word + data.draw(st.sampled_from((" ", "\n", "\n" * 12)))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=total, max_size=total))
    kept = bytearray(data.draw(st.lists(st.integers(0, 1), min_size=total, max_size=total)))
    passage = write_units(Units(text, spans, [0.0] * total, "things", ExtractWeights(), sizes=sizes), kept)
    shown = set(" ".join(list_pieces(passage)).split())
    assert shown >= {words[index] for index in range(total) if kept[index]}
    assert (
        sum(sizes[index] for index in range(total) if words[index] in shown) + count_left_out(passage)
        == passage.total
        == sum(sizes)
    )


@given(
    scores=st.lists(st.floats(0, 9), min_size=1, max_size=40),
    budget=st.integers(0, 900),
    data=st.data(),
)
def test_chosen_units_include_their_parents_and_fit_the_budget(
    scores: list[float], budget: int, data: st.DataObject
) -> None:
    spans = [(index * 11, index * 11 + 10) for index in range(len(scores))]
    parents = [data.draw(st.integers(-1, index - 1)) for index in range(len(scores))]
    units = Units("x" * 11 * len(scores), spans, scores, "things", ExtractWeights(marker_cost=0), parents=parents)
    kept = choose_units(units, budget)
    assert all(parents[index] < 0 or kept[parents[index]] for index in range(len(scores)) if kept[index])
    best = max(range(len(scores)), key=lambda index: (scores[index], -index))
    chain = [best]
    while parents[chain[-1]] >= 0:
        chain.append(parents[chain[-1]])
    assert all(kept[index] for index in chain)
    assert sum(kept) * 11 <= max(budget, 11 * len(chain))


ATTEMPTS = 3  # of measuring times: one that a busy machine disturbs is made again
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
    "indented deeper and deeper": lambda size: "\n".join(
        " " * index + "if x:" for index in range(int((2 * size) ** 0.5))
    ),
}


@pytest.mark.parametrize("case", LARGE)
@EVERY_COMPRESSOR
def test_time_is_linear_on_large_monotonous_texts(compressor: Compressor, case: str) -> None:
    """Ten times the text may take 40 times the time (10, and noise); quadratic time would take 100 times."""
    small, large = (LARGE[case](size) for size in (20_000, 200_000))
    assert any(
        _measure_seconds(compressor, large) < 40 * max(_measure_seconds(compressor, small), 0.001)
        for _ in range(ATTEMPTS)
    )


HOSTILE: dict[str, Callable[[int], str]] = {
    "broken JSON": lambda size: '[{"a": 1, "b": [2, 3]}, ' * (size // 24),
    "broken JSON at its end": lambda size: (
        json.dumps([{"a": index, "b": "x"} for index in range(size // 20)])[:-1] + "}"
    ),
    "one line of JSON": lambda size: json.dumps(
        {"a": [{"b": index, "c": {"d": [index]}} for index in range(size // 28)]}
    ),
    "an array of numbers": lambda size: json.dumps(list(range(size // 8))),
    "an object of numbers": lambda size: json.dumps({f"k{index}": index for index in range(size // 16)}),
    "arrays of arrays": lambda size: json.dumps([[index, [index]] for index in range(size // 16)]),
    "nested too deeply": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "nested as deeply as may be": lambda size: json.dumps([json.loads("[" * 900 + "]" * 900)] * (size // 1800)),
    "one string": lambda size: json.dumps(["x" * size, "y"]),
    "escapes": lambda size: json.dumps(['\\"' * (size // 4), {"a": "\\"}]),
    "objects that open": lambda size: '{"a":' * (size // 5),
    "JSON lines": lambda size: '{"a": 1, "b": {"c": [1, 2]}}\n' * (size // 29),
    "JSON lines, one broken": lambda size: '{"a": 1}\n' * (size // 9) + '{"a": ',
    "bytes": lambda size: "\x00\x01\ufffd\x7f" * (size // 4),
    "open tags": lambda size: "<html><body>" + "<div " * (size // 5),
    "open comments": lambda size: "<html><body><p><p><p>" + "<!-- x " * (size // 7),
    "open scripts": lambda size: "<html><body><p><p><p>" + "<script>x" * (size // 9),
    "less than": lambda size: "<html><body><p><p><p>" + "<" * size,
    "open quotes": lambda size: "a,b,c\n" + '1,"2,3\n' * (size // 7),
    "bars": lambda size: "| a | b |\n|---|---|\n" + "|" * size,
    "dashes": lambda size: "a | b\n" + "-" * size + "\n" + "-+-" * 9,
    "a wide header": lambda size: ",".join(f"c{index}" for index in range(size // 16)) + "\n" + ",\n" * 9,
}


@pytest.mark.parametrize("case", HOSTILE)
@EVERY_COMPRESSOR
def test_time_is_linear_on_hostile_texts(compressor: Compressor, case: str) -> None:
    """Twenty times the text may take 130 times the time (20, and noise); quadratic time would take 400 times."""
    small, large = (HOSTILE[case](size) for size in (10_000, 200_000))
    assert any(
        _measure_seconds(compressor, large) < 130 * max(_measure_seconds(compressor, small), 0.001)
        for _ in range(ATTEMPTS)
    )


def _measure_seconds(compressor: Compressor, text: str) -> float:
    with without_garbage_collection():
        start = process_time()
        compressor.recognises(text)
        run_compressor(compressor, text, "error in 1 passed x")
        return process_time() - start


@EVERY_COMPRESSOR
@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\r\n", "\x00", "\ud800", "x"])
def test_a_tiny_text_is_left_unchanged(compressor: Compressor, text: str) -> None:
    assert run_compressor(compressor, text, "anything") is None
