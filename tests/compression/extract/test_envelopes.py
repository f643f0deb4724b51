"""Text inside other text: build logs with prefixes, and long strings inside JSON."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Gap
from clara_proxy.compression.extract import envelopes
from clara_proxy.compression.markers import render

from .samples import CODE, CRASH, LOG, TESTS, count, count_left_out, list_pieces, run_compressor

PREFIXES = {
    "job and step": "unit (3.12)\tRun tests\t2026-03-05T10:01:{:02}.2234567Z ",
    "time": "2026-03-05T10:01:{:02}.2234567Z ",
    "clock": "[10:01:{:02}] ",
    "image build": "#12 3.{:02} ",
    "service": "web-1  | ",
}


def add_prefixes(prefix: str, text: str) -> str:
    return "\n".join(prefix.format(index % 60) + line for index, line in enumerate(text.split("\n")))


def compress(text: str, question: str = "Why did it fail?", ratio: float = 4.0) -> str:
    passage = run_compressor(registry.find_compressor(text), text, question, ratio)
    assert passage is not None
    return render(passage, None)


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_a_test_run_behind_prefixes_is_compressed_as_a_test_run(prefix: str) -> None:
    text = add_prefixes(prefix, TESTS)
    assert registry.find_compressor(text).name == "report"
    out = compress(text)
    assert "E       assert 3 == 4\n" in out
    assert "FAILED tests/test_3.py::test_total" in out


@pytest.mark.parametrize("kind", ["job and step", "time", "clock", "image build"])
def test_kept_lines_are_verbatim_from_their_time_on(kind: str) -> None:
    text = add_prefixes(PREFIXES[kind], TESTS)
    outer = text.split("\n")
    kept = [line for line in compress(text).split("\n") if not line.endswith("left out]")]
    names = {"unit (3.12)\tRun tests", "#12"}
    positions = [next((row for row, line in enumerate(outer) if line.endswith(piece)), -1) for piece in kept]
    assert all(row >= 0 or piece in names for row, piece in zip(positions, kept, strict=True))
    assert len(kept) > 5


def test_times_of_a_log_are_kept() -> None:
    text = "\n".join(f"2026-03-05T10:01:{index % 60:02}.123456Z order {index} was booked" for index in range(300))
    assert envelopes.open_envelope(text) is None


def test_each_step_is_named_before_its_lines() -> None:
    text = add_prefixes("build\tcompile\t2026-03-05T10:00:{:02}.1234567Z ", LOG)
    text += "\n" + add_prefixes("build\ttest\t2026-03-05T10:01:{:02}.1234567Z ", TESTS)
    out = compress(text)
    assert out.startswith("build\tcompile\n")
    assert out.index("build\ttest\n") < out.index("E       assert 3 == 4")


def test_lines_of_interleaved_services_keep_their_prefixes() -> None:
    text = "\n".join(f"{('web', 'db', 'jobs')[index % 3]}-1  | step {index}" for index in range(300))
    assert envelopes.open_envelope(text) is None


@pytest.mark.parametrize(
    "template",
    [
        '{"stdout": TEXT, "stderr": "", "exit_code": 17}',
        '{"returncode": 17, "output": TEXT}',
        '[{"type": "text", "text": TEXT}, {"code": 17}]',
        '{"content": [{"type": "text", "text": "{\\"code\\": 17, \\"log\\": TEXT}"}]}',
    ],
)
@pytest.mark.parametrize(("text", "kind", "needle"), [(TESTS, "report", "E       assert 3 == 4"), (LOG, "log", "861")])
def test_strings_inside_json_are_compressed_as_their_own_kind(template: str, text: str, kind: str, needle: str) -> None:
    literal = json.dumps(text)
    wrapped = template.replace("TEXT", json.dumps(literal)[1:-1] if "\\" in template else literal)
    assert registry.find_compressor(wrapped).name == kind
    out = compress(wrapped)
    assert needle in out
    assert "17" in out


@pytest.mark.parametrize(
    "template",
    [
        "{'returncode': 17, 'output': REPR}",
        "{'stdout': REPR, 'stderr': '', 'exit_code': 17}",
        "[{'type': 'text', 'text': REPR}, 17]",
        "<returncode>17</returncode>\n<output>\nTEXT\n</output>",
        (
            "<returncode>17</returncode>\n<warning>\nToo long.\n</warning><output_head>\nTEXT\n</output_head>\n"
            "<elided_chars>\n99 characters elided\n</elided_chars>\n<output_tail>\nTEXT\n</output_tail>"
        ),
    ],
)
@pytest.mark.parametrize(("text", "kind", "needle"), [(TESTS, "report", "E       assert 3 == 4"), (LOG, "log", "861")])
def test_outputs_in_python_notation_and_in_tags_are_opened(template: str, text: str, kind: str, needle: str) -> None:
    wrapped = template.replace("REPR", repr(text)).replace("TEXT", text)
    assert registry.find_compressor(wrapped).name == kind
    out = compress(wrapped)
    assert needle in out
    assert "17" in out


@pytest.mark.parametrize("unit", ["{'a': ", "<output>", "<returncode>", "'a", "</output><output>", "{'a': 'b\\n"])
def test_hostile_envelopes_take_linear_time(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    started = time.thread_time()
    for start in ("", "{", "<output>"):
        envelopes.open_envelope(start + text)
    assert time.thread_time() - started < 5


def test_code_inside_json_is_recognised_as_code() -> None:
    assert registry.find_compressor(json.dumps({"path": "store.py", "content": CODE})).name == "code"


def test_a_document_with_much_more_than_its_long_strings_is_json() -> None:
    rows = [{"id": index, "name": f"part {index}"} for index in range(200)]
    assert registry.find_compressor(json.dumps({"log": TESTS, "rows": rows})).name == "json"


@settings(max_examples=60)
@given(
    text=st.sampled_from([TESTS, LOG, CRASH]),
    prefix=st.sampled_from([*PREFIXES.values(), "json"]),
    ratio=st.sampled_from((1.2, 3.0, 10.0, 1000.0)),
)
def test_pieces_are_lines_of_the_text_inside_and_gaps_add_up(text: str, prefix: str, ratio: float) -> None:
    wrapped = json.dumps({"code": 1, "out": text}) if prefix == "json" else add_prefixes(prefix, text)
    passage = run_compressor(registry.find_compressor(wrapped), wrapped, "failed", ratio)
    if passage is None:
        return
    assert count(render(passage, None)) < count(wrapped)
    assert count_left_out(passage) <= passage.total
    assert all(part.left_out > 0 for part in passage.parts if isinstance(part, Gap))
    end = 0
    for line in "\n".join(list_pieces(passage)).split("\n"):
        if line in text:
            start = text.find(line, end)
            assert start >= 0
            end = start + len(line)
        else:
            assert line in wrapped


BOOKINGS = [
    {"id": 9000 + index, "guest": f"guest {index}", "state": "cancelled" if index == 61 else "booked"}
    for index in range(120)
]


def test_the_body_behind_http_headers_is_compressed_as_its_own_kind() -> None:
    text = "HTTP/1.1 301 Moved\r\nlocation: /b\r\n\r\nHTTP/1.1 200 OK\r\n" + "".join(
        f"x-trace-{index}: {index * 7919:x}\r\n" for index in range(30)
    )
    text += "content-type: application/json\r\n\r\n" + json.dumps({"bookings": BOOKINGS})
    assert registry.find_compressor(text).name == "json"
    out = compress(text, "Which booking was cancelled?")
    assert '9061,"guest 61","cancelled"' in out
    assert "HTTP/1.1 301 Moved" in out


def test_documents_between_other_lines_are_compressed_as_json() -> None:
    text = "\n".join(
        f"GET /bookings?page={page}\n{json.dumps(BOOKINGS[first : first + 60], indent=2)}"
        for page, first in enumerate((0, 60))
    )
    assert registry.find_compressor(text).name == "json"
    out = compress(text, "Which booking was cancelled?")
    assert out.index("GET /bookings?page=1") < out.index('9061,"guest 61","cancelled"')


def test_a_program_with_a_little_json_is_no_envelope() -> None:
    assert envelopes.open_envelope(f"{CODE}\n{json.dumps(BOOKINGS[:20])}\n{CODE}") is None
