"""Outputs of many tools keep what the answer to a question needs, with the record that it belongs to."""

import re

import pytest

from clara_proxy.compression.policy import compute_kind_target
from clara_proxy.compression.registry import find_compressor

from .operations_outputs import OPERATIONS
from .samples import count, run_compressor
from .tool_outputs import OUTPUTS

ALL_OUTPUTS = OUTPUTS | OPERATIONS


@pytest.mark.parametrize("ratio", [None, 4.0], ids=["default", "4x"])
@pytest.mark.parametrize("name", ALL_OUTPUTS)
def test_an_output_keeps_what_the_answer_needs(name: str, ratio: float | None) -> None:
    output = ALL_OUTPUTS[name]
    text = output.write()
    assert all(re.search(needle, text, re.MULTILINE) for needle in output.needles)
    compressor = find_compressor(text)
    size = ratio or count(text) / (compute_kind_target(compressor.name, count(text)) or count(text))
    passage = run_compressor(compressor, text, output.question, size, fills_target=ratio is not None)
    assert passage is not None
    out = "\n".join(part if isinstance(part, str) else "" for part in passage.parts)
    assert count(out) < 0.75 * count(text)
    assert not [needle for needle in output.needles if not re.search(needle, out, re.MULTILINE)], out
