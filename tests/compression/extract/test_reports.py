"""The output of test runs, builds and crashes of many tools."""

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.extract.core import lines, severity
from clara_proxy.compression.extract.reports import DEFAULT_REPORT_WEIGHTS

from .samples import CRASH, TESTS, compress_text

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
        + "".join(f"    at layer{index} (/app/node_modules/web/layer{index}.js:{index}:9)\n" for index in range(30)),
        "served part {}",
        "\nNode.js v22.1.0",
        ("TypeError: Cannot read properties of undefined", "total (/app/src/cart.js:14:20)"),
    ),
}


@pytest.mark.parametrize("tool", RUNS)
def test_failures_and_summaries_of_every_tool_are_kept(tool: str) -> None:
    failed, passed, summary, kept_lines = RUNS[tool]
    noise = [passed.replace("{}", str(index)) for index in range(80)]
    text = "\n".join([*noise[:40], failed, *noise[40:]]) + summary
    assert registry.find_compressor(text).name == "report"
    out = compress_text("report", text, "", ratio=8)
    for line in kept_lines:
        assert line in out


@pytest.mark.parametrize(
    "line", ["Internal Server Error: /orders/17/", "Bad Gateway Error: no route", "shop.Failure: 9"]
)
def test_an_error_line_of_a_few_words_is_a_verdict(line: str) -> None:
    noise = "\n".join(f"worker {index}: page {index * 7} served without an error" for index in range(300))
    text = f"{noise}\n{line}\n{noise}\nRan 3 tests in 0.1s\n\nOK"
    out = compress_text("report", text, "how many pages were served?", 30)
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
def test_ok_is_a_verdict_at_the_start_of_a_line(line: str, grade: int) -> None:
    text = f"first\n{line}\nlast"
    spans = [(0, 5), (6 + line.rfind("\r") + 1, 6 + len(line)), (7 + len(line), len(text))]
    assert severity.grade_lines(text, spans) == [0, grade, 0]


def test_a_warning_comment_is_a_whole_word() -> None:
    text = "FIXME now\nnot_FIXME\nthe BUG here\nDEBUG line\nXXXL size"
    spans = [(0, 9), (10, 19), (20, 32), (33, 43), (44, 53)]
    assert severity.find_warning_comments(text, spans) == [0, 2]


CRASHES = {
    "dotnet": """\
Shop.PriceMissing: MESSAGE
   at Shop.Cart.Total(Int32 row) in /src/Cart.cs:line NUMBER
   at Shop.Run.Main() in /src/Run.cs:line 9""",
    "ruby": """\
/srv/part_NUMBER.rb:31:in `total': MESSAGE (PriceMissing)
\tfrom /srv/run.rb:3:in `main'
\tfrom /srv/run.rb:1:in `<main>'""",
    "rust": """\
thread 'main' panicked at src/part_NUMBER.rs:31:9:
MESSAGE
stack backtrace:
   0: shop::total
             at ./src/cart.rs:1:1""",
}


@pytest.mark.parametrize("language", CRASHES)
def test_the_crash_with_a_different_message_is_kept(language: str) -> None:
    messages = ["the ledger is locked" if index == 93 else "no price" for index in range(200)]
    text = "\n".join(
        CRASHES[language].replace("MESSAGE", message).replace("NUMBER", str(index))
        for index, message in enumerate(messages)
    )
    assert registry.find_compressor(text).name == "report"
    out = compress_text("report", text, "", ratio=20)
    assert "the ledger is locked" in out
    assert len(out) < len(text) / 10


def test_every_error_of_kotlin_is_kept_among_warnings() -> None:
    warnings = [
        f"w: file:///app/src/shop/{name}Service.kt:{20 + index}:9 'fun legacy{name}(): Unit' is deprecated."
        for index, name in enumerate(
            f"{first}{second}" for first in ("Cart", "Tax", "Order", "Price") for second in "ABCDEFGHIJ"
        )
    ]
    errors = [
        "e: file:///app/src/shop/RefundService.kt:88:21 Type mismatch: inferred type is Money? but Money was expected",
        "e: file:///app/src/shop/TaxService.kt:14:30 Unresolved reference: rateFor",
    ]
    text = "\n".join(
        [*warnings[:18], errors[0], *warnings[18:30], errors[1], *warnings[30:], "", "BUILD FAILED in 14s"]
    )
    out = compress_text("report", text, "Fix the compile errors.", 4)
    assert all(error in out for error in [*errors, "BUILD FAILED in 14s"])


def test_values_of_a_failed_assertion_are_kept() -> None:
    passed = [f"[ RUN      ] Rates.Country{index}\n[       OK ] Rates.Country{index} (0 ms)" for index in range(40)]
    failure = (
        "[ RUN      ] Rates.NorthernIreland\nservices/rates_test.cc:212: Failure\nExpected equality of these values:\n"
        '  rates.For("XI")\n    Which is: 0\n  20\nNo entry for XI\n[  FAILED  ] Rates.NorthernIreland (0 ms)'
    )
    names = [f"{first}{second}" for first in ("cart", "order", "price", "stock", "tax") for second in "abcdef"]
    others = [f"//services/{name}:{name}_test                              PASSED in 0.2s" for name in names]
    text = "\n".join(
        [
            "INFO: Found 60 targets and 30 test targets...",
            "FAIL: //services/tax:rates_test (see /cache/testlogs/services/tax/rates_test/test.log)",
            *passed,
            failure,
            "[  PASSED  ] 40 tests.\n[  FAILED  ] 1 test, listed below:\n[  FAILED  ] Rates.NorthernIreland",
            *others,
            "//services/tax:rates_test                                     FAILED in 0.4s",
            "Executed 30 out of 30 tests: 29 tests pass and 1 fails locally.",
        ]
    )
    out = compress_text("report", text, "What did the failing assertion compare?", 7)
    assert 'rates.For("XI")\n    Which is: 0\n' in out


def test_alike_verdicts_do_not_use_up_the_budget() -> None:
    alike = [
        f"thread 'worker-{index % 9}' panicked at src/{chr(97 + index % 26)}.rs:{index}:9:" for index in range(300)
    ]
    text = "\n".join([*alike, "ERROR: the disk is full", "FAILED test_total", "FAILED test_tax"])
    spans = lines.find_line_spans(text)
    kept_lines = [
        text[slice(*spans[index])]
        for index in lines.select_verdicts(text, spans, severity.grade_lines(text, spans), DEFAULT_REPORT_WEIGHTS)
    ]
    assert kept_lines[-3:] == ["ERROR: the disk is full", "FAILED test_total", "FAILED test_tax"]
    assert len(kept_lines) == DEFAULT_REPORT_WEIGHTS.max_alike_verdicts + 3


def test_failures_reasons_and_the_summary_of_a_test_run_are_kept() -> None:
    out = compress_text("report", TESTS, "", ratio=12)
    for line in TESTS.split("\n"):
        if line.startswith(("E  ", "FAILED", "=", "tests/test_3.py:9")) and "session starts" not in line:
            assert line in out
    assert "similar lines left out" in out


def test_both_ends_of_a_trace_and_its_message_are_kept() -> None:
    out = compress_text("report", CRASH, "", ratio=8)
    assert "run.py" in out
    assert 'orders.py", line 88, in total\n    return sum(row.price for row in rows)' in out
    assert out.endswith("shop.errors.PriceMissing: row 17 has no price")
    assert "layer_9" not in out
    assert "^^^^" not in out


def test_a_frame_named_in_the_question_is_kept() -> None:
    assert "layer_7" in compress_text("report", CRASH, "what does inner_7 do in layer_7?", ratio=5)


FAILURES = {
    "pytest": "\n".join(
        f"{f' test_part_{index} ':_^78}\n\n    def test_part_{index}():\n        cart = make_cart({index})\n"
        f">       assert cart.total == {index}.5\nE       AssertionError: assert {index * 3} == {index}.5\n"
        f"E        +  where {index * 3} = <Cart {index}>.total\n\ntests/test_cart.py:{index + 20}: AssertionError"
        for index in range(9)
    )
    + "\n========================= short test summary info ==========================\n"
    + "\n".join(f"FAILED tests/test_cart.py::test_part_{index} - AssertionError" for index in range(9))
    + "\n=================== 9 failed, 80 passed in 1.02s ===================",
    "jest": "\n".join(
        f"  ● cart › part {index}\n\n    expect(received).toBe(expected) // Object.is equality\n\n"
        f"    Expected: {index}.5\n    Received: {index * 3}\n\n"
        + "".join(f"      {line} |   const row{line} = rows[{line}];\n" for line in range(4))
        + f"\n      at Object.toBe (src/cart.test.js:{index + 20}:9)\n"
        f"      at Promise.then (node_modules/jest-circus/build/run.js:{index}:9)\n"
        for index in range(9)
    )
    + "\nTests:       9 failed, 80 passed, 89 total",
}


@pytest.mark.parametrize("tool", FAILURES)
def test_every_reason_stands_between_its_title_and_its_place(tool: str) -> None:
    out = compress_text("report", FAILURES[tool], "Fix the failing tests", ratio=2)
    titles, reasons, places = {
        "pytest": ("_ test_part_{} _", "assert {three} == {}.5", "tests/test_cart.py:{line}: AssertionError"),
        "jest": ("● cart › part {}", "Expected: {}.5\n    Received: {three}\n", "src/cart.test.js:{line}:9"),
    }[tool]
    position = 0
    for index in range(9):
        for pattern in (titles, reasons, places):
            piece = pattern.format(index, three=index * 3, line=index + 20)
            assert piece in out[position:], piece
            position = out.index(piece, position)


@pytest.mark.parametrize("ratio", [2, 3, 4, 6, 10])
def test_both_values_of_a_pair_are_kept_or_neither(ratio: float) -> None:
    out = compress_text("report", FAILURES["jest"], "Fix the failing tests", ratio=ratio)
    for index in range(9):
        assert (f"Expected: {index}.5" in out) == (f"Received: {index * 3}\n" in out)


def test_innermost_frame_of_the_project_is_kept_below_many_library_frames() -> None:
    frames = "\n".join(f"/app/vendor/orm/src/Part{index}.php:{index + 5}" for index in range(40))
    text = (
        "There was 1 error:\n\n1) ShopTest::testRun\nPDOException: no such column\n\n"
        f"{frames}\n/app/src/Shop.php:71\n/app/tests/ShopTest.php:22\n\nERRORS!\nTests: 190, Errors: 1."
    )
    out = compress_text("report", text, "", ratio=5)
    assert "/app/src/Shop.php:71" in out


def test_both_sides_of_a_difference_are_kept() -> None:
    rows = [f"      row{index}: {index}," for index in range(40)]
    rows[17] = '-     currency: "USD",\n+     currency: "EUR",'
    text = "FAIL src/a.test.js\n  ● a › b\n\n    - Expected  - 1\n    + Received  + 1\n\n" + "\n".join(rows)
    text += "\n\nTests:       1 failed, 3 passed, 4 total"
    out = compress_text("report", text, "", ratio=2.5)
    assert "- Expected" in out
    assert '+     currency: "EUR",' in out
    assert '-     currency: "USD",' in out
