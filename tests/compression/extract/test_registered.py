"""Every compressor in the registry, on hostile text: verbatim, in order, counted, in proportion, never an exception.

JSON is laid out anew, so of it the literals are verbatim and in order (`test_json_data`).
"""

import gc
import json
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Compressor, Gap
from clara_proxy.compression.markers import render

from .samples import SAMPLES, condense, count, left_out, pieces
from .test_html import PAGE
from .test_tables import FORMS

EVERY = pytest.mark.parametrize("compressor", registry.list_compressors(), ids=lambda compressor: compressor.name)
TEXTS = [*SAMPLES.values(), *FORMS.values(), PAGE]
RUBBISH = st.text(
    st.sampled_from("abz019 \t\r\n.,:;!?\"'{}[]()<>/\\-_=#|+*@$%äß。日本\x00\x1b\u2028\ud800İ"), max_size=60
)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """Cut samples up, put rubbish between, repeat and join."""
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 4))):
        sample = draw(st.sampled_from(TEXTS))
        start = draw(st.integers(0, len(sample)))
        parts += [sample[start : start + draw(st.integers(0, 3000))], draw(RUBBISH) * draw(st.sampled_from((1, 1, 40)))]
    return draw(st.sampled_from(("", "\n", "\r\n"))).join(parts)


@EVERY
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=st.one_of(mangled(), RUBBISH),
    question=st.one_of(RUBBISH, st.sampled_from(("", "order 1077", "$[3].owner.login", "the links of hive 13"))),
    ratio=st.sampled_from((1.2, 3.0, 10.0, 1000.0)),
)
def test_the_laws_hold(compressor: Compressor, text: str, question: str, ratio: float) -> None:
    compressor.recognises(text)
    condensed = condense(compressor, text, question, ratio)
    if condensed is None:
        return
    assert condensed == condense(compressor, text, question, ratio)
    assert count(render(condensed, None)) < count(text)
    assert 0 <= left_out(condensed) <= condensed.total
    assert all(part.left_out > 0 for part in condensed.parts if isinstance(part, Gap))
    at = 0
    for piece in pieces(condensed) if compressor.name != "json" else ():
        found = text.find(piece, at)
        assert found >= 0
        at = found + len(piece)


HOSTILE: dict[str, Callable[[int], str]] = {
    "broken JSON": lambda size: '[{"a": 1, "b": [2, 3]}, ' * (size // 24),
    "broken JSON at its end": lambda size: json.dumps([{"a": at, "b": "x"} for at in range(size // 20)])[:-1] + "}",
    "one line of JSON": lambda size: json.dumps({"a": [{"b": at, "c": {"d": [at]}} for at in range(size // 28)]}),
    "an array of numbers": lambda size: json.dumps(list(range(size // 8))),
    "an object of numbers": lambda size: json.dumps({f"k{at}": at for at in range(size // 16)}),
    "arrays of arrays": lambda size: json.dumps([[at, [at]] for at in range(size // 16)]),
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
    "a wide header": lambda size: ",".join(f"c{at}" for at in range(size // 16)) + "\n" + ",\n" * 9,
}


@pytest.mark.parametrize("kind", HOSTILE)
@EVERY
def test_hostile_texts_take_work_in_proportion(compressor: Compressor, kind: str) -> None:
    """Twenty times the text may take twenty times the work, and room for noise; four hundred times would be a trap."""
    gc.collect()
    gc.disable()  # what else lives in this process is none of the compressor's work
    try:
        small, large = (
            min(_seconds(compressor, text) for _ in range(3)) for text in map(HOSTILE[kind], (10_000, 200_000))
        )
    finally:
        gc.enable()
    assert large < 130 * max(small, 0.001)  # what is done in no time tells nothing


def _seconds(compressor: Compressor, text: str) -> float:
    began = process_time()
    compressor.recognises(text)
    condense(compressor, text, "error in 1 passed x")
    return process_time() - began
