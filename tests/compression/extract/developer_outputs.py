"""Outputs of tools for developers: failures, reports of memory checkers, resolvers of packages, tables, findings."""

from .tool_outputs import ToolOutput

RESOLVER = (
    "\nFAILURE: Build failed with an exception.\n\n* What went wrong:\nExecution failed for task ':app:compileJava'.\n"
    "> Could not resolve all files for configuration ':app:compile'.\n   > Could not resolve com.acme:money:2.\n"
    "     Required by:\n         project :app > com.acme:pricing:7.1\n      > Could not resolve com.acme:money:2.4.\n"
    "         > Could not GET 'https://repo.acme.example/money-2.4.pom'. Received status code 401 from server\n\n"
    "* Try:\n> Run with --stacktrace option to get the stack trace.\n> Run with --scan to get full insights.\n\n"
    "BUILD FAILED in 4s\n"
)
USE_AFTER_FREE = (
    "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x60400030 at pc 0x55fb bp 0x7ffe sp 0x7ffd\n"
    "READ of size 4 at 0x60400030 thread T0\n    #0 0x55fb36 in count_lines /src/cart.c:6\n"
    "    #1 0x55fb3c in main /src/cart.c:7\n    #2 0x7f403b in __libc_start_call_main ../sysdeps/libc_start.h:58\n\n"
    "0x60400030 is located 32 bytes inside of 36-byte region [0x60400010,0x60400034)\nfreed by thread T0 here:\n"
    "    #0 0x7f403b in __interceptor_free ../libsanitizer/asan/asan_malloc.cpp:52\n"
    "    #1 0x55fb36 in drop_cart /src/cart.c:5\n    #2 0x55fb36 in main /src/cart.c:7\n\n"
    "SUMMARY: AddressSanitizer: heap-use-after-free /src/cart.c:6 in count_lines\n"
    "Shadow byte legend (one shadow byte represents 8 application bytes):\n"
)
ERESOLVE = (
    "npm error code ERESOLVE\nnpm error ERESOLVE unable to resolve dependency tree\nnpm error\n"
    'npm error Found: react@18.2.0\nnpm error node_modules/react\nnpm error   react@"^18.2.0" from the root project\n'
    'npm error\nnpm error Could not resolve dependency:\nnpm error peer react@"^16.8.0" from @acme/grid@4.1.0\n'
    "npm error node_modules/@acme/grid\nnpm error\nnpm error Fix the upstream dependency conflict, or retry\n"
    "npm error this command with --force or --legacy-peer-deps\nnpm error\nnpm error For a full report see:\n"
    "npm error /root/.npm/_logs/eresolve-report.txt\n"
)
CHAIN = (
    'Traceback (most recent call last):\n  File "/src/customers.py", line 5, in find\n    return customer["vat_id"]\n'
    "KeyError: 'vat_id'\n\nThe above exception was the direct cause of the following exception:\n\n"
    'Traceback (most recent call last):\n  File "/src/orders.py", line 16, in main\n    step(25, order)\n'
    + '  File "/src/orders.py", line 11, in step\n    return step(n - 1, order)\n'
    * 9
    + '  File "/src/orders.py", line 8, in load\n    raise ImportFailed("order 4711") from error\n'
    "ImportFailed: order 4711\n"
)
MIGRATION = (
    "MigrationTest > initializationError FAILED\n    org.testcontainers.ContainerLaunchException: failed\n"
    "        Caused by:\n            com.github.NotFoundException: No such image: postgres:16"
)
BOX = "-----------|---------|----------|---------|---------|-------------------\n"
UNTESTED = "    100 |      100 |     100 |     100 |                   "


def _write_coverage() -> str:
    rows = [(90 + index, {11: 65, 33: 41}.get(index, index % 5)) for index in range(40)]
    lines = {11: "14-71, 80", 33: "7-48"}
    return (
        "________ coverage: platform linux, python 3.12.1 ________\n\n"
        f"Name                    Stmts   Miss  Cover   Missing\n{53 * '-'}\n"
        + "".join(
            f"shop/part{index}.py {count:14} {missed:6}  {100 * (count - missed) // count:4}%   "
            f"{lines.get(index, '3' if missed else '')}\n"
            for index, (count, missed) in enumerate(rows)
        )
        + f"{53 * '-'}\nTOTAL                    4380    180    96%\n"
        + "FAIL Required test coverage of 98% not reached. Total coverage: 95.89%\n"
        + "============================= 310 passed in 6.41s ==============================\n"
    )


DEVELOPER = {
    "gradle test, one odd failure": ToolOutput(
        "One failure has nothing to do with a status. Which, and why?",
        "Order{i}Test > rejects{i}() FAILED\n    org.opentest4j.AssertionFailedError: expected: <409> but was: <200>\n"
        "        at app//org.junit.jupiter.api.AssertionFailureBuilder.build(AssertionFailureBuilder.java:151)\n"
        "        at app//shop.Order{i}Test.rejects{i}(Order{i}Test.java:4{i})\n\n",
        ("MigrationTest > initializationError", "No such image: postgres:16"),
        {
            17: ("Order17Test > rejects17() FAILED\n    org.opentest4j.AssertionFailedError", MIGRATION),
        },
        total=26,
        after="60 tests completed, 26 failed\n\nBUILD FAILED in 31s\n",
    ),
    "cargo test, one odd failure": ToolOutput(
        "Which failure has nothing to do with a rejected request, and where does it happen?",
        "---- tests::rejects_{h} stdout ----\n\nthread 'tests::rejects_{h}' (78{i}) panicked at src/lib.rs:{i}2:9:\n"
        "assertion `left == right` failed: {h} must be rejected\n  left: 200\n right: 409\n\n",
        ("src/lib.rs:92:9", "the len is 0 but the index is 3"),
        {
            9: (
                "assertion `left == right` failed: 1676 must be rejected\n  left: 200\n right: 409",
                "index out of bounds: the len is 0 but the index is 3",
            )
        },
        total=24,
        before="failures:\n\n",
        after="test result: FAILED. 20 passed; 24 failed; 0 ignored; finished in 0.00s\n",
    ),
    "gradle, a library that cannot be downloaded": ToolOutput(
        "Which library cannot be downloaded, who needs it and why not?",
        "> Task :part{i}:compileJava UP-TO-DATE\n",
        (r"com\.acme:pricing:7\.1", "status code 401"),
        after=RESOLVER,
    ),
    "address sanitizer": ToolOutput(
        "Which function uses freed memory, and who freed it?",
        "  Shadow kind {i}:           {h}\n",
        ("heap-use-after-free", "in count_lines /src/cart.c:6", "in drop_cart /src/cart.c:5"),
        total=30,
        before=USE_AFTER_FREE,
        after="==7==ABORTING\n",
    ),
    "npm ERESOLVE": ToolOutput(
        "Which package blocks the installation, what does it want and what do we have?",
        "npm warn deprecated kit-{h}@{i}.1.0: This version is no longer supported, use core-{h} instead\n",
        ("Found: react@18.2.0", r'peer react@"\^16.8.0" from @acme/grid@4.1.0'),
        total=30,
        after=ERESOLVE,
    ),
    "chained exceptions": ToolOutput(
        "What is the root cause, and what did it turn into?",
        "importing order {i}\n",
        ("KeyError: 'vat_id'", "direct cause of the following", "ImportFailed: order 4711"),
        after=CHAIN,
    ),
    "pytest --cov": ToolOutput(
        "Coverage is too low. Which files are to blame, and which lines are not tested?",
        "tests/test_part{i}.py ..........                              [ {i}%]\n",
        (r"shop/part11\.py .* 35%   14-71, 80", r"shop/part33\.py .* 66%   7-48", "Total coverage: 95.89%"),
        total=30,
        after=_write_coverage(),
    ),
    "jest --coverage": ToolOutput(
        "Which files drag the coverage down, and which lines lack tests?",
        "PASS test/part{i}.test.js\n",
        (r"^ part9\.js .* 3,8-17", r"^ part41\.js .* 3,8-17", "^File .* Uncovered Line"),
        after=BOX
        + "File       | % Stmts | % Branch | % Funcs | % Lines | Uncovered Line #s \n"
        + BOX
        + "".join(
            f" part{i}.js  | {'  23.07 |    16.66 |   33.33 |   27.27 | 3,8-17' if i in (9, 41) else UNTESTED}\n"
            for i in range(48)
        )
        + BOX
        + "\nTest Suites: 60 passed, 60 total\nTests:       217 passed, 217 total\nRan all test suites.\n",
    ),
    "eslint -f json": ToolOutput(
        "Which files have real errors, not style warnings?",
        '{"filePath": "/app/src/part{i}.js", "messages": [{"ruleId": "no-unused-vars", "severity": 1, "message": '
        '"\'x{i}\' is defined but never used.", "line": {i}, "column": 5, "nodeType": "Identifier"}, '
        '{"ruleId": "prefer-const", "severity": 1, "message": "Use const.", "line": 1{i}, "column": 5, "nodeType": '
        '"Identifier"}, {"ruleId": "quotes", "severity": 1, "message": "Strings must use singlequote.", "line": 2{i}, '
        '"column": 5, "nodeType": "Literal"}], "suppressedMessages": [], "errorCount": 0, "warningCount": 3},',
        ("part12.js", "Duplicate key 'vat'"),
        {
            12: (
                '"quotes", "severity": 1, "message": "Strings must use singlequote."',
                '"no-dupe-keys", "severity": 2, "message": "Duplicate key \'vat\'."',
            )
        },
        before="[",
        after='{"filePath": "/app/src/last.js", "messages": [], "errorCount": 0, "warningCount": 0}]',
    ),
    "trivy -f json": ToolOutput(
        "Do we have to patch something at once, and where is it?",
        '{"Target": "layer-{i}", "Class": "lang-pkgs", "Vulnerabilities": ['
        '{"VulnerabilityID": "CVE-2025-1{h}", "PkgName": "lib{h}", "InstalledVersion": "1.{i}.0", "FixedVersion": '
        '"1.{i}.1", "Severity": "LOW", "Title": "denial of service", "PublishedDate": "2025-11-03T10:15:00Z"}, '
        '{"VulnerabilityID": "CVE-2025-2{h}", "PkgName": "kit{h}", "InstalledVersion": "2.{i}.0", "FixedVersion": '
        '"2.{i}.1", "Severity": "MEDIUM", "Title": "open redirect", "PublishedDate": "2025-10-03T10:15:00Z"}]},',
        ("layer-17", "CRITICAL", r"2\.17\.1", "heap overflow", "kit0dfd"),
        {17: ('"MEDIUM", "Title": "open redirect"', '"CRITICAL", "Title": "heap overflow in archives"')},
        total=40,
        before='{"SchemaVersion": 2, "Results": [',
        after='{"Target": "last", "Class": "lang-pkgs", "Vulnerabilities": []}]}',
    ),
    "git log -p": ToolOutput(
        "What did the fix for mounts with parentheses change?",
        "commit {h}aaaabbbbccccddddeeeeffff0000111122223333\nAuthor: A <a@b.c>\nDate:   Mon Mar 5 10:00:00 2026\n\n"
        "    Change part {i}\n\ndiff --git a/part{i}.py b/part{i}.py\n--- a/part{i}.py\n+++ b/part{i}.py\n"
        "@@ -1,9 +1,9 @@ def read_part{i}():\n"
        + "".join(
            f" context_{n}()\n-    value_{{h}}_{n} = {n}\n+    value_{{i}}_{n} = compute_{n}()\n" for n in range(9)
        ),
        (r"^commit 0dfd", r"^-    value_0dfd_7 = 7", r"^\+    value_17_7 = compute_7\(\)", r"^\+    value_17_3 ="),
        {17: ("Change part 17", "Fix mounts whose name has parentheses")},
        total=40,
    ),
}
