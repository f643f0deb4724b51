"""Text inside JSON, as shells, MCP servers and agent frameworks return it."""

import json
import time
from typing import Any

import pytest

from clara_proxy.compression import markers, registry
from clara_proxy.compression.compressor import Task
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.tests.compression.extract.samples import CODE, LOG, PROSE, ROWS

COUNT = get_token_counter("gpt-4o").count
FAILURE = "2024-05-01T10:00:00Z ERROR disk full on /dev/sda7"
OUTPUT = f"{LOG}\n{FAILURE}\n{LOG}"
SHAPES: dict[str, Any] = {
    "mini-swe-agent": {"returncode": 137, "output": OUTPUT},
    "mini-swe-agent, long": {
        "returncode": 137,
        "output_head": OUTPUT,
        "output_tail": LOG,
        "elided_chars": 4711,
        "warning": "Output too long.",
    },
    "streams": {"stdout": OUTPUT, "stderr": "", "exit_code": 137},
    "both streams": {"stdout": LOG, "stderr": OUTPUT, "exit_code": 137, "duration_ms": 4711},
    "Codex": {"output": OUTPUT, "metadata": {"exit_code": 137, "duration_seconds": 0.4711}},
    "MCP": [{"type": "text", "text": OUTPUT}],
    "MCP parts": [{"type": "text", "text": text} for text in (OUTPUT, *[LOG] * 6)],
    "nested": {"result": {"content": [{"type": "text", "text": json.dumps({"stdout": OUTPUT, "exit_code": 137})}]}},
    "not ASCII": {"output": f"Grüße 漢字\n{OUTPUT}", "returncode": 137},
}


def dump_indented(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


DUMPS = [json.dumps, dump_indented]


def compress(text: str, ratio: float = 6) -> str:
    compressed = registry.find_compressor(text).compress(
        Task(text, "Why did it stop?", int(COUNT(text) / ratio), COUNT)
    )
    assert compressed is not None
    return markers.render(compressed, "clara_expand 0123456789ab")


@pytest.mark.parametrize("dump", DUMPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_text_inside_json_is_compressed_and_small_fields_stay(shape: str, dump: Any) -> None:
    text = dump(SHAPES[shape])
    out = compress(text)
    assert FAILURE in out
    assert COUNT(out) < COUNT(text) / 2
    for field in ('"returncode": 137', '"exit_code": 137', "4711", '"warning": "Output too long."', '"type": "text"'):
        assert text.count(field) <= out.count(field) or shape == "nested"
    assert out.count("clara_expand") == 1
    assert set(out.replace("\\", "").split("\n")) & set(LOG.split("\n"))


def test_nested_json_keeps_the_inner_fields() -> None:
    assert '"exit_code": 137' in compress(json.dumps(SHAPES["nested"])).replace("\\", "")


@pytest.mark.parametrize(("content", "kind"), [(LOG, "log"), (CODE, "code"), (PROSE, "prose"), (ROWS, "json")])
def test_kind_is_that_of_the_text_inside(content: str, kind: str) -> None:
    assert registry.classify_content(json.dumps({"output": content + "\n" * 3, "returncode": 0})) == kind


@pytest.mark.parametrize("unit", ['"', '\\"', "\\n", '{"a":"\\n', '["\\n",', "[", "\\"])
def test_hostile_json_takes_linear_time(unit: str) -> None:
    started = time.thread_time()
    registry.find_compressor('{"a": "' + unit * (400_000 // len(unit)))
    assert time.thread_time() - started < 2
