"""Stack traces as nine languages and tools print them: what is a frame, which one broke, what says why."""

import pytest

from clara_proxy.compression.extract import lines, stack_traces
from clara_proxy.compression.extract.stack_traces import INNERMOST_FIRST, INNERMOST_LAST, NOT_A_FRAME, TraceLines

from .samples import shortened

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
}
EVERY = pytest.mark.parametrize("language", TEXTS)


def cut(text: str, *, carets: bool = False) -> TraceLines:
    return stack_traces.group_frames(text, lines.find_line_spans(text), keep_carets=carets)


@EVERY
def test_every_languages_frames_are_found(language: str) -> None:
    text, frames = TEXTS[language], FRAMES[language]
    assert cut(text).frames == frames


@EVERY
def test_the_frame_that_broke_is_worth_most(language: str) -> None:
    text, frames = TEXTS[language], FRAMES[language]
    worth = stack_traces.score_frames(text, cut(text), range(len(frames)))
    for first, after in stack_traces.find_traces(frames):
        broke = after - 1 if frames[first] == INNERMOST_LAST else first
        assert max(range(first, after), key=worth.__getitem__) == broke
    assert [bool(one) for one in worth] == [bool(frame) for frame in frames]


@EVERY
def test_what_says_why_is_near_its_trace(language: str) -> None:
    text, frames = TEXTS[language], FRAMES[language]
    own = cut(text)
    told = [text[slice(*own.spans[at])] for at in stack_traces.find_trace_lines(own) if not frames[at]]
    assert any("17" in line or "PriceMissing" in line or "SIGSEGV" in line for line in told)
    assert bool(stack_traces.find_message_lines(own)) == (INNERMOST_FIRST in frames)


def test_code_belongs_to_its_frame_and_carets_only_where_they_count() -> None:
    text = TEXTS["python"]
    without, whole = cut(text), cut(text, carets=True)
    assert text[slice(*without.spans[1])].endswith("    main()")
    assert text[slice(*whole.spans[1])].endswith("    ^^^^^^")
    assert sum(whole.sizes) == len(lines.find_line_spans(text)) == sum(without.sizes) + 1


@pytest.mark.parametrize(
    "line",
    ["    at the house (which was old)\n", "  from here on:\n", "  12: done\nmore", "#1 in the list\n", "a.b: in c"],
)
def test_what_merely_begins_like_a_frame_in_running_text_is_judged_by_all_of_it(line: str) -> None:
    found = cut(f"said\n{line}").frames
    assert found[0] == NOT_A_FRAME
    if "12:" not in line and "house" not in line:  # these two are frames by their look
        assert set(found) == {NOT_A_FRAME}


def test_a_frame_in_a_library_is_worth_less() -> None:
    text = (
        "X: y\n\tat java.util.List.get(List.java:9)\n\tat shop.Cart.total(Cart.java:31)\n\tat shop.Run.main(Run.java:3)"
    )
    worth = stack_traces.score_frames(text, cut(text), range(4))
    assert worth[1] < worth[2]


def test_a_recursion_of_thousands_of_frames_is_no_error() -> None:
    frames = "".join(f"\tat shop.Cart.total(Cart.java:{at})\n" for at in range(3000))
    out = shortened("report", f"{frames}java.lang.StackOverflowError: too deep\n{frames}", "", ratio=10)
    assert "java.lang.StackOverflowError: too deep" in out


def test_the_more_often_the_same_broke_the_less_its_frames_are_worth() -> None:
    text = "X: y\n\tat shop.A.a(A.java:1)\nX: y\n\tat shop.B.b(B.java:2)\nZ: y\n\tat shop.C.c(C.java:3)"
    own = cut(text)
    first, again, other = (
        one for one in stack_traces.score_frames(text, own, lines.extract_templates(text, own.spans)) if one
    )
    assert first == other > again
