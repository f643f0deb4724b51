"""What test runs, builds and crashes of many tools leave behind when they are shortened."""

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.extract import lines
from clara_proxy.compression.extract.core import severity

from .samples import shortened

JAVA = (
    "java.lang.AssertionError: expected:<12>\n\tat org.junit.Assert.fail(Assert.java:89)\n"
    "\tat shop.CartTest.total(CartTest.java:31)"
)
RUNS = {
    "jest": (
        "FAIL src/cart.test.js\n  ● adds up › with tax\n    expect(received).toBe(expected)\n    Expected: 12\n",
        "PASS src/part{}.test.js",
        "\nTests:       1 failed, 80 passed, 81 total",
        ("FAIL src/cart.test.js", "● adds up › with tax", "Expected: 12", "Tests:       1 failed"),
    ),
    "go": (
        "--- FAIL: TestTotal (0.00s)\n    cart_test.go:31: total = 10, want 12\n",
        "--- PASS: TestPart{} (0.00s)",
        "\nFAIL\nFAIL\texample.com/cart\t0.012s",
        ("--- FAIL: TestTotal", "cart_test.go:31: total = 10, want 12", "FAIL\texample.com/cart"),
    ),
    "cargo": (
        "error[E0308]: mismatched types\n  --> src/cart.rs:14:9\n   |\n14 |         total\n",
        "   Compiling part{} v0.1.0",
        "\nerror: could not compile `cart` (lib) due to 1 previous error",
        ("error[E0308]: mismatched types", "--> src/cart.rs:14:9", "error: could not compile `cart`"),
    ),
    "gcc": (
        "cart.c:14:9: error: 'total' undeclared (first use in this function)\n",
        "cc -O2 -c part{}.c -o build/part{}.o",
        "\nmake: *** [Makefile:9: build/cart.o] Error 1",
        ("cart.c:14:9: error: 'total' undeclared", "make: *** [Makefile:9"),
    ),
    "maven": (
        f"[ERROR] Tests run: 3, Failures: 1 <<< FAILURE! - in CartTest\n{JAVA}\n",
        "[INFO] Tests run: {}, Failures: 0, Errors: 0, Skipped: 0, Time elapsed: 0.0{} s - in Part{}Test",
        "\n[INFO] BUILD FAILURE",
        ("<<< FAILURE! - in CartTest", "expected:<12>", "CartTest.java:31", "BUILD FAILURE"),
    ),
    "node": (
        "TypeError: Cannot read properties of undefined (reading 'price')\n    at total (/app/src/cart.js:14:20)\n"
        + "".join(f"    at layer{at} (/app/node_modules/web/layer{at}.js:{at}:9)\n" for at in range(30)),
        "served part {}",
        "\nNode.js v22.1.0",
        ("TypeError: Cannot read properties of undefined", "total (/app/src/cart.js:14:20)"),
    ),
}


@pytest.mark.parametrize("tool", RUNS)
def test_every_tools_failures_and_summary_stay(tool: str) -> None:
    failed, passed, summary, kept = RUNS[tool]
    noise = [passed.replace("{}", str(at)) for at in range(80)]
    text = "\n".join([*noise[:40], failed, *noise[40:]]) + summary
    assert registry.find_compressor(text).name == "report"
    out = shortened("report", text, "", ratio=8)
    for line in kept:
        assert line in out


@pytest.mark.parametrize(
    "line", ["Internal Server Error: /orders/17/", "Bad Gateway Error: no route", "shop.Failure: 9"]
)
def test_an_error_of_a_few_words_is_a_verdict(line: str) -> None:
    noise = "\n".join(f"worker {at}: page {at * 7} served without an error" for at in range(300))
    text = f"{noise}\n{line}\n{noise}\nRan 3 tests in 0.1s\n\nOK"
    out = shortened("report", text, "how many pages were served?", 30)
    assert line in out
    assert "Ran 3 tests" in out


@pytest.mark.parametrize(
    ("line", "grade"),
    [
        ("OK", severity.VERDICT),
        ("  OK (skipped=3)", severity.VERDICT),
        ("\x1b[32mOK", severity.VERDICT),
        ("not ok 3 - total", severity.VERDICT),
        ("test result: ok. 3 passed", severity.VERDICT),
        ("Summary: ok", severity.VERDICT),
        ("12 of 99\rOK", severity.VERDICT),
        ("order 12, ok", 0),
        ("the book says ok", 0),
    ],
)
def test_ok_is_a_verdict_where_a_line_begins_with_it(line: str, grade: int) -> None:
    text = f"first\n{line}\nlast"
    spans = [(0, 5), (6 + line.rfind("\r") + 1, 6 + len(line)), (7 + len(line), len(text))]
    assert severity.grade_lines(text, spans) == [0, grade, 0]


def test_an_authors_warning_is_a_word_of_its_own() -> None:
    text = "FIXME now\nnot_FIXME\nthe BUG here\nDEBUG line\nXXXL size"
    spans = [(0, 9), (10, 19), (20, 32), (33, 43), (44, 53)]
    assert severity.find_warning_comments(text, spans) == [0, 2]


CRASHES = {
    "dotnet": """\
Shop.PriceMissing: SAID
   at Shop.Cart.Total(Int32 row) in /src/Cart.cs:line AT
   at Shop.Run.Main() in /src/Run.cs:line 9""",
    "ruby": """\
/srv/part_AT.rb:31:in `total': SAID (PriceMissing)
\tfrom /srv/run.rb:3:in `main'
\tfrom /srv/run.rb:1:in `<main>'""",
    "rust": """\
thread 'main' panicked at src/part_AT.rs:31:9:
SAID
stack backtrace:
   0: shop::total
             at ./src/cart.rs:1:1""",
}


@pytest.mark.parametrize("language", CRASHES)
def test_of_many_crashes_the_one_that_says_something_else_stays(language: str) -> None:
    said = ["the ledger is locked" if at == 93 else "no price" for at in range(200)]
    text = "\n".join(CRASHES[language].replace("SAID", one).replace("AT", str(at)) for at, one in enumerate(said))
    assert registry.find_compressor(text).name == "report"
    out = shortened("report", text, "", ratio=20)
    assert "the ledger is locked" in out
    assert len(out) < len(text) / 10


def test_verdicts_that_differ_in_places_and_numbers_alone_do_not_fill_the_room() -> None:
    alike = [f"thread 'worker-{at % 9}' panicked at src/{chr(97 + at % 26)}.rs:{at}:9:" for at in range(300)]
    text = "\n".join([*alike, "ERROR: the disk is full", "FAILED test_total", "FAILED test_tax"])
    found = lines.find_line_spans(text)
    kept = [text[slice(*found[at])] for at in lines.select_verdicts(text, found, severity.grade_lines(text, found))]
    assert kept[-3:] == ["ERROR: the disk is full", "FAILED test_total", "FAILED test_tax"]
    assert len(kept) == lines.MAX_ALIKE_VERDICTS + 3
