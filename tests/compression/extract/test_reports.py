"""What test runs, builds and crashes of many tools leave behind when they are shortened."""

import pytest

from clara_proxy.compression import registry

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
    assert registry.find(text).name == "report"
    out = shortened("report", text, "", ratio=8)
    for line in kept:
        assert line in out
