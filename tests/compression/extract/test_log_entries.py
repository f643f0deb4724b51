"""The entries of logs: every line is in one piece, long traces are in several, and logs of them stay logs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.extract import lines, log_entries

from .samples import LOG, shortened
from .test_stack_traces import TEXTS

LINES = ["2026-03-01 10:00:00 INFO ready", "ERROR broke", "", "  ", "plain words", "    at a.b (c.js:1:2)", "said: why"]
LONG = {
    "python": "".join(f'  File "/srv/part{at}.py", line {at}, in call\n    go()\n' for at in range(9)),
    "java": "".join(f"\tat shop.Part{at}.call(Part{at}.java:{at})\n" for at in range(9)),
    "go": "goroutine 7 [running]:\n"
    + "".join(f"example.com/part{at}.Call(0xc0{at})\n\t/srv/part{at}.go:{at} +0x1d\n" for at in range(9)),
    "rust": "stack backtrace:\n"
    + "".join(f"   {at}: part{at}::call\n             at ./p.rs:{at}:1\n" for at in range(9)),
}


def trace(language: str, said: str) -> str:
    frames = LONG[language]
    head = "Traceback (most recent call last):\n"
    return f"{head}{frames}Refused: {said}\n" if language == "python" else f"Refused: {said}\n{frames}"


def log(language: str, quiet: int) -> str:
    """Return a log in which so many quiet lines stand before each trace, one of them unlike all others."""
    return "".join(
        "".join(f"2026-03-01 10:{at % 60:02}:{more:02} INFO order {at} booked\n" for more in range(quiet))
        + f"2026-03-01 10:{at % 60:02}:59 ERROR order {at} was not booked\n"
        + trace(language, "ledger locked by the auditor" if at == 77 else "timed out")
        for at in range(160)
    )


@given(st.lists(st.sampled_from(LINES), max_size=120))
def test_every_line_is_in_one_piece(chosen: list[str]) -> None:
    text = "\n".join(chosen)
    found = log_entries.parse_entries(text)
    assert sum(found.sizes) == len(lines.find_line_spans(text))
    assert all(this[1] < that[0] for this, that in zip(found.spans, found.spans[1:], strict=False))
    shown = "\n".join(text[start:end] for start, end in found.spans)
    assert [line for line in shown.split("\n") if line.strip()] == [line for line in chosen if line.strip()]
    assert len(found.shares) == len(found.spans)
    assert len(log_entries.extract_entry_templates(text, found)) == len(found.first_pieces)


def test_a_log_without_long_traces_is_in_one_piece_an_entry() -> None:
    found = log_entries.parse_entries(LOG)
    assert len(found.spans) == len(found.first_pieces)


@pytest.mark.parametrize("quiet", [0, 1, 5])
@pytest.mark.parametrize("language", LONG)
def test_a_log_of_traces_is_a_log_however_many_there_are(language: str, quiet: int) -> None:
    assert registry.find_compressor(log(language, quiet)).name == "log"


@pytest.mark.parametrize("language", TEXTS)
def test_a_trace_by_itself_is_no_log(language: str) -> None:
    assert registry.find_compressor(f"the server started\nat 10:00:00\n{TEXTS[language]}\n").name != "log"


@pytest.mark.parametrize("quiet", [0, 1, 5])
@pytest.mark.parametrize("language", LONG)
def test_the_trace_that_says_something_else_stays(language: str, quiet: int) -> None:
    out = shortened("log", log(language, quiet), "", ratio=25)
    assert "order 77 was not booked" in out
    assert "ledger locked by the auditor" in out


def test_an_entry_that_is_kept_shows_what_happened_before_where() -> None:
    out = shortened("log", log("java", 2), "Why was order 77 not booked?", ratio=60)
    assert "ledger locked by the auditor\n\tat shop.Part0.call" in out
