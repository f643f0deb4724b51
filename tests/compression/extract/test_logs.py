"""Logs: entries, stack traces in entries, and the entries that are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Gap
from clara_proxy.compression.extract import log_entries
from clara_proxy.compression.extract.core import lines, severity
from clara_proxy.compression.extract.logs import DEFAULT_LOG_WEIGHTS

from .core.test_stack_traces import TEXTS
from .samples import BY_NAME, LOG, compress_text, list_pieces, run_compressor

LINES = ["2026-03-01 10:00:00 INFO ready", "ERROR broke", "", "  ", "plain words", "    at a.b (c.js:1:2)", "said: why"]
LONG_TRACES = {
    "python": "".join(f'  File "/srv/part{index}.py", line {index}, in call\n    go()\n' for index in range(9)),
    "java": "".join(f"\tat shop.Part{index}.call(Part{index}.java:{index})\n" for index in range(9)),
    "go": "goroutine 7 [running]:\n"
    + "".join(
        f"example.com/part{index}.Call(0xc0{index})\n\t/srv/part{index}.go:{index} +0x1d\n" for index in range(9)
    ),
    "rust": "stack backtrace:\n"
    + "".join(f"   {index}: part{index}::call\n             at ./p.rs:{index}:1\n" for index in range(9)),
}


def make_trace(language: str, message: str) -> str:
    frames = LONG_TRACES[language]
    header = "Traceback (most recent call last):\n"
    return f"{header}{frames}Refused: {message}\n" if language == "python" else f"Refused: {message}\n{frames}"


def make_log(language: str, quiet_lines: int) -> str:
    """Return a log with so many lines before each trace; one trace has a different message."""
    return "".join(
        "".join(
            f"2026-03-01 10:{index % 60:02}:{second:02} INFO order {index} booked\n" for second in range(quiet_lines)
        )
        + f"2026-03-01 10:{index % 60:02}:59 ERROR order {index} was not booked\n"
        + make_trace(language, "ledger locked by the auditor" if index == 77 else "timed out")
        for index in range(160)
    )


@given(st.lists(st.sampled_from(LINES), max_size=120))
def test_every_line_is_in_exactly_one_piece(chosen_lines: list[str]) -> None:
    text = "\n".join(chosen_lines)
    entries = log_entries.parse_entries(text, DEFAULT_LOG_WEIGHTS)
    assert sum(entries.sizes) == len(lines.find_line_spans(text))
    assert all(previous[1] < span[0] for previous, span in zip(entries.spans, entries.spans[1:], strict=False))
    joined = "\n".join(text[start:end] for start, end in entries.spans)
    assert [line for line in joined.split("\n") if line.strip()] == [line for line in chosen_lines if line.strip()]
    assert len(entries.shares) == len(entries.spans)
    assert len(log_entries.extract_entry_templates(text, entries, DEFAULT_LOG_WEIGHTS)) == len(entries.first_pieces)


def test_an_entry_without_a_long_trace_is_one_piece() -> None:
    entries = log_entries.parse_entries(LOG, DEFAULT_LOG_WEIGHTS)
    assert len(entries.spans) == len(entries.first_pieces)


@pytest.mark.parametrize("quiet_lines", [0, 1, 5])
@pytest.mark.parametrize("language", LONG_TRACES)
def test_a_log_is_recognised_with_any_number_of_traces(language: str, quiet_lines: int) -> None:
    assert registry.find_compressor(make_log(language, quiet_lines)).name == "log"


@pytest.mark.parametrize("language", TEXTS)
def test_a_single_trace_is_not_recognised_as_a_log(language: str) -> None:
    assert registry.find_compressor(f"the server started\nat 10:00:00\n{TEXTS[language]}\n").name != "log"


@pytest.mark.parametrize("quiet_lines", [0, 1, 5])
@pytest.mark.parametrize("language", LONG_TRACES)
def test_the_trace_with_a_different_message_is_kept(language: str, quiet_lines: int) -> None:
    out = compress_text("log", make_log(language, quiet_lines), "", ratio=25)
    assert "order 77 was not booked" in out
    assert "ledger locked by the auditor" in out


def test_a_kept_entry_shows_its_message_before_its_frames() -> None:
    out = compress_text("log", make_log("java", 2), "Why was order 77 not booked?", ratio=60)
    assert "ledger locked by the auditor\n\tat shop.Part0.call" in out


def test_an_error_with_its_whole_trace_and_both_ends_are_kept() -> None:
    out = compress_text("log", LOG, "", ratio=15)
    assert "job 861 failed\njava.io.IOException: disk full\n\tat store.Disk.write" in out
    assert "Caused by: quota of 5 GB reached" in out
    assert out.startswith(LOG.split("\n", maxsplit=1)[0])
    assert LOG.rsplit("\n", maxsplit=1)[1] in out


def test_an_entry_matching_the_question_is_kept_and_others_are_folded() -> None:
    passage = run_compressor(BY_NAME["log"], LOG, "How long did job 1407 take?", 15)
    assert passage is not None
    assert any("processed job 1407 in" in piece for piece in list_pieces(passage))
    assert any(isinstance(part, Gap) and part.unit == "similar lines" for part in passage.parts)


@pytest.mark.parametrize(
    ("line", "grade"),
    [
        ('10.1.2.3 - - [05/Mar/2024:10:00:00 +0100] "POST /pay HTTP/1.1" 503 17', severity.ERROR),
        ('10.1.2.3 - - [05/Mar/2024:10:00:00 +0100] "GET /a HTTP/2" 404 0', severity.WARNING),
        ('10.1.2.3 - - [05/Mar/2024:10:00:00 +0100] "GET /a HTTP/1.1" 200 500', 0),
        ("level=info path=/pay status=502 took=3ms", severity.ERROR),
        ('{"path": "/pay", "statusCode": 500}', severity.ERROR),
        ("status: 201", 0),
        ("worker exited with code 137", severity.ERROR),
        ("exit status 1", severity.ERROR),
        ("exited with code 0", 0),
        ("    Restart Count:  47", severity.ERROR),
        ("    Restart Count:  0", 0),
    ],
)
def test_status_of_a_request_or_process_is_a_severity(line: str, grade: int) -> None:
    assert severity.grade_lines(line, [(0, len(line))]) == [grade]


def test_server_errors_are_not_folded_with_successes() -> None:
    text = "\n".join(
        f'10.0.0.{index % 9} - - [05/Mar/2024:10:{index // 60:02}:{index % 60:02} +0100] "GET /cart/{index} HTTP/1.1" '
        f"{502 if index == 431 else 200} {index * 3}"
        for index in range(900)
    )
    assert '"GET /cart/431 HTTP/1.1" 502' in compress_text("log", text, "What went wrong in the shop?", ratio=40)


@pytest.mark.parametrize(
    "start", ["{}.{:03} 12 TCP_MISS/200", "- {} 2005.06.03 R02-M1", "{}{:03} worker-3"], ids=["seconds", "flag", "ms"]
)
def test_lines_that_begin_with_unix_time_are_a_log(start: str) -> None:
    text = "\n".join(f"{start.format(1117838570 + number, number)} request {number} served" for number in range(100))
    assert registry.find_compressor(text).name == "log"


def test_long_numbers_in_front_of_a_line_are_no_log() -> None:
    text = "\n".join(f"{2117838570 + number} and {number} more words of a line" for number in range(100))
    assert registry.find_compressor(text).name != "log"


def test_errors_are_kept_if_the_words_of_the_question_are_in_all_other_entries() -> None:
    lines = [f"2026-05-01T10:{i // 60:02}:{i % 60:02} gateway handled requests batch={i * 7 % 997}" for i in range(400)]
    failures = {
        97: "ERROR upstream pool exhausted",
        211: "FATAL worker killed by signal 9",
        300: "ERROR quota exceeded",
    }
    for index, message in failures.items():
        lines[index] = f"{lines[index][:19]} {message}"
    out = compress_text("log", "\n".join(lines), "Why did the requests fail?", ratio=10)
    assert all(message in out for message in failures.values())
