"""Outputs of many tools keep what the answer to a question needs, with the record that it belongs to."""

import re

import pytest

from clara_proxy.compression.policy import compute_kind_target
from clara_proxy.compression.registry import find_compressor

from .developer_outputs import DEVELOPER
from .operations_outputs import OPERATIONS
from .samples import count, run_compressor
from .tool_outputs import OUTPUTS

ALL_OUTPUTS = OUTPUTS | OPERATIONS | DEVELOPER
RATIO = 4.0


def find_default_ratio(text: str) -> float | None:
    """Return the compression ratio by content type and size, None if the output is kept whole."""
    target = compute_kind_target(find_compressor(text).name, count(text))
    return target and count(text) / target


DEFAULT_RATIOS = {name: find_default_ratio(output.write()) for name, output in ALL_OUTPUTS.items()}
CASES = [
    pytest.param(name, ratio, ratio is RATIO, id=f"{name}-{'4x' if ratio is RATIO else 'default'}")
    for name, default in DEFAULT_RATIOS.items()
    for ratio in (default, RATIO)
    if ratio is not None
]


@pytest.mark.parametrize(("name", "ratio", "fills_target"), CASES)
def test_an_output_keeps_what_the_answer_needs(name: str, ratio: float, fills_target: bool) -> None:
    output = ALL_OUTPUTS[name]
    text = output.write()
    assert all(re.search(needle, text, re.MULTILINE) for needle in output.needles)
    passage = run_compressor(find_compressor(text), text, output.question, ratio, fills_target=fills_target)
    assert passage is not None
    out = "\n".join(part if isinstance(part, str) else "" for part in passage.parts)
    assert count(out) < 0.75 * count(text)
    assert not [needle for needle in output.needles if not re.search(needle, out, re.MULTILINE)], out
