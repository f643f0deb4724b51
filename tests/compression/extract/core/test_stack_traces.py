"""Stack traces of nine languages and tools: frames, the innermost frame, the message."""

import pytest

from clara_proxy.compression.extract.core import lines, stack_traces
from clara_proxy.compression.extract.core.stack_traces import (
    INNERMOST_FIRST,
    INNERMOST_LAST,
    NOT_A_FRAME,
    TraceLines,
    TraceWeights,
)

from ..samples import compress_text

TEXTS = {
    "python": """\
Traceback (most recent call last):
  File "/srv/run.py", line 3, in <module>
    main()
    ^^^^^^
  File "/srv/shop.py", line 9, in main
    return total(cart)
shop.PriceMissing: row 17 has no price""",
    "pytest": """\
tests/test_shop.py:12: in test_total
    total(cart)
shop.py:9: in total
    raise PriceMissing
E   PriceMissing""",
    "java": """\
shop.PriceMissing: row 17
\tat shop.Cart.total(Cart.java:31)
\tat java.base/java.lang.Thread.run(Thread.java:840)
Caused by: shop.RowMissing: 17
\tat shop.Rows.get(Rows.java:9)
\t... 12 more""",
    "node": """\
PriceMissing: row 17
    at Cart.total (/srv/cart.js:31:7)
    at async /srv/run.js:3:1
    at node:internal/main:9:1""",
    "dotnet": """\
Shop.PriceMissing: row 17
   at Shop.Cart.Total(List`1 rows, Int32 at) in /src/My Shop/Cart.cs:line 31
   at System.Threading.Thread.Run()""",
    "go": """\
panic: row 17 has no price

goroutine 7 [running]:
example.com/shop.(*Cart).Total(0xc00001)
\t/srv/cart.go:31 +0x1d
main.main()
\t/srv/main.go:9 +0x2e""",
    "rust": """\
thread 'main' panicked at src/cart.rs:31:9:
row 17 has no price
stack backtrace:
   0: shop::cart::total
             at ./src/cart.rs:31:9
   1: <shop::Cart as core::ops::Add<i64>>::add
             at ./src/add.rs:2:1""",
    "ruby": """\
/srv/cart.rb:31:in `total': row 17 (PriceMissing)
\tfrom /srv/run.rb:3:in `block in main'
\tfrom /srv/run.rb:1:in '<main>'""",
    "php": """\
PHP Fatal error:  Uncaught PriceMissing: row 17 in /srv/cart.php:31
Stack trace:
#0 /srv/run.php(3): total(Array)
#1 {main}""",
    "gdb": """\
Program received signal SIGSEGV
#0  0x00007ffff7a in total (cart=0x0) at cart.c:31
#1  main () at run.c:3""",
    "sanitizer": (
        "READ of size 17 at 0x60400030 thread T0\n    #0 0x55fb36 in count_lines /src/cart.c:6\n"
        "    #1 main /src/cart.c:7 (cart+0x1380)"
    ),
    "valgrind": (
        "==7== Invalid read of size 17\n==7==    at 0x1091E0: total (cart.c:5)\n==7==    by 0x1091D3: main (cart.c:9)"
    ),
    "vitest": (
        "TypeError: no price for item 17\n ❯ Cart.total src/cart.ts:48:22\n     48|   return sum(lines);\n"
        " ❯ test/cart.test.ts:36:17"
    ),
}
FRAMES = {
    "python": [NOT_A_FRAME, INNERMOST_LAST, INNERMOST_LAST, NOT_A_FRAME],
    "pytest": [INNERMOST_LAST, INNERMOST_LAST, NOT_A_FRAME],
    "java": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST, NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "node": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST, INNERMOST_FIRST],
    "dotnet": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "go": [NOT_A_FRAME, NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "rust": [NOT_A_FRAME, NOT_A_FRAME, NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "ruby": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "php": [NOT_A_FRAME, NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "gdb": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "sanitizer": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "valgrind": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
    "vitest": [NOT_A_FRAME, INNERMOST_FIRST, INNERMOST_FIRST],
}
EVERY_LANGUAGE = pytest.mark.parametrize("language", TEXTS)


def group(text: str, *, carets: bool = False) -> TraceLines:
    return stack_traces.group_frames(text, lines.find_line_spans(text), keep_carets=carets)


@EVERY_LANGUAGE
def test_frames_of_every_language_are_found(language: str) -> None:
    text, frames = TEXTS[language], FRAMES[language]
    assert group(text).frames == frames


@EVERY_LANGUAGE
def test_the_innermost_frame_has_the_best_score(language: str) -> None:
    text, frames = TEXTS[language], FRAMES[language]
    scores = stack_traces.score_frames(group(text), range(len(frames)), TraceWeights())
    for first, after in group(text).traces:
        innermost = after - 1 if frames[first] == INNERMOST_LAST else first
        assert max(range(first, after), key=scores.__getitem__) == innermost
    assert [bool(score) for score in scores] == [bool(frame) for frame in frames]


@EVERY_LANGUAGE
def test_the_message_belongs_to_its_trace(language: str) -> None:
    text, frames = TEXTS[language], FRAMES[language]
    trace = group(text)
    messages = [text[slice(*trace.spans[index])] for index in stack_traces.find_trace_lines(trace) if not frames[index]]
    assert any("17" in line or "PriceMissing" in line or "SIGSEGV" in line for line in messages)
    assert bool(stack_traces.find_message_lines(trace)) == (INNERMOST_FIRST in frames)


def test_a_frame_includes_its_code_and_carets_only_on_request() -> None:
    text = TEXTS["python"]
    without_carets, with_carets = group(text), group(text, carets=True)
    assert text[slice(*without_carets.spans[1])].endswith("    main()")
    assert text[slice(*with_carets.spans[1])].endswith("    ^^^^^^")
    assert sum(with_carets.sizes) == len(lines.find_line_spans(text)) == sum(without_carets.sizes) + 1


@pytest.mark.parametrize(
    "line",
    ["    at the house (which was old)\n", "  from here on:\n", "  12: done\nmore", "#1 in the list\n", "a.b: in c"],
)
def test_text_that_begins_like_a_frame_is_matched_as_a_whole(line: str) -> None:
    frames = group(f"said\n{line}").frames
    assert frames[0] == NOT_A_FRAME
    if "12:" not in line and "house" not in line:  # these two look like frames
        assert set(frames) == {NOT_A_FRAME}


def test_a_frame_in_a_library_scores_less() -> None:
    text = (
        "X: y\n\tat java.util.List.get(List.java:9)\n\tat shop.Cart.total(Cart.java:31)\n\tat shop.Run.main(Run.java:3)"
    )
    scores = stack_traces.score_frames(group(text), range(4), TraceWeights())
    assert scores[1] < scores[2]


def test_thousands_of_frames_are_compressed_without_an_error() -> None:
    frames = "".join(f"\tat shop.Cart.total(Cart.java:{index})\n" for index in range(3000))
    out = compress_text("report", f"{frames}java.lang.StackOverflowError: too deep\n{frames}", "", ratio=10)
    assert "java.lang.StackOverflowError: too deep" in out


def test_frames_of_a_repeated_message_score_less() -> None:
    text = "X: y\n\tat shop.A.a(A.java:1)\nX: y\n\tat shop.B.b(B.java:2)\nZ: y\n\tat shop.C.c(C.java:3)"
    trace = group(text)
    scores = stack_traces.score_frames(trace, lines.extract_templates(text, trace.spans), TraceWeights())
    first, repeated, other = filter(None, scores)
    assert first == other > repeated
