"""Finds the lines that report something: failures, errors, warnings, verdicts, summaries.

Shared by the kinds made of lines. Works on plain text with substring searches first and patterns only on what they hit,
so that it costs next to nothing where nothing is reported.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

from .bm25 import Span

WARNING, ERROR, VERDICT = 1, 2, 3
END_CHARACTERS = 10_000  # characters at each end by which a text is judged
MAX_HITS = 50_000  # lines looked at closely in one text

_WARNING_COMMENT = re.compile(r"(?:FIXME|XXX|HACK|BUG|SECURITY)\b")  # what an author wants seen; a TODO is everywhere
_RAISE_STATEMENTS = (  # where a program gives up
    *("raise ", "throw ", "panic(", "panic!(", "unreachable!(", "abort(", "die(", "log.Fatal"),
    *("sys.exit(", "os.Exit(", "os._exit(", "process.exit(", "process::exit("),
)
_WARNING_WORDS = ("warn", "deprecat", "skipped", "retry")
_ERROR_WORDS = (
    "error", "fail", "exception", "traceback", "fatal", "panic", "severe", "critical", "denied", "refused", "timed out",
    "timeout", "not found", "no such file", "cannot ", "unable to", "abort", "segmentation", "killed", "undefined",
    "unexpected", "invalid", "mismatch", "corrupt", "unreachable", "rejected",
)  # fmt: skip
_VERDICT_WORDS = (
    "error",
    "fail",
    "assert",
    "exception",
    "panic",
    "passed",
    "ran ",
    "tests",
    "✗",
    "✕",
    "❌",
    "●",
    "\ne  ",
)
_VERDICT_LINE = re.compile(
    r"""\s*(?:\x1b\[[\d;]{0,12}m){0,4}(?:
      (?:FAILED|FAIL|ERROR|ERRORS|FATAL|PANIC|panic)\b.{0,3}            # a test or a build step that failed
    | E\s{2,}\S                                                         # pytest's explanation
    | (?:[A-Z]\w{0,30}\ ){0,3}[\w.]{0,120}                              # the last line of a traceback, a server's
      (?:Error|Exception|Failure|Warning|Interrupt|Exit)(?::\ |$)
    | (?:AssertionError|assert\ )
    | =+\ .{0,200}\b(?:passed|failed|errors?|skipped|no\ tests\ ran)\b.{0,200}=+
    | Ran\ \d+\ tests?\b
    | (?:OK|FAILED)(?:\ \(.{1,200}\))?\s*$
    | (?:Tests?(?:\ Suites|\ run)?|Failures|test\ result|Results?|Summary|BUILD)\s?:?\ .{0,40}(?:\d|ok|SUCC|FAIL)
    | \d+\ (?:passed|failed|passing|failing|errors?|warnings?)\b
    | (?:---\ FAIL|not\ ok\ \d|[✗✕❌×]\ |●\ )
    | \S{1,200}:\d+:(?:\d+:)?\ (?:fatal\ )?(?:error|panic)\b             # a compiler's
    | (?:error|fatal)(?:\[\w+\])?:[ ]
    | (?:npm\ ERR!|make(?:\[\d+\])?:\ \*\*\*|thread\ '.{1,80}'\ panicked)
    )""",
    re.VERBOSE,
)

_VERDICT_OPENING = re.compile(  # lines that may be a verdict whose only word for it, `ok`, stands in many others
    r"[\n\r][ \t]{0,40}(?:\x1b\[[\d;]{0,12}m){0,4}"
    r"(?:OK|not ok|(?:[Tt]ests?(?: Suites| run| result)?|Results?|Summary|BUILD)\s?:? .{0,40}ok)"
)
_REPORT_LINE = re.compile(
    r"^(?:Traceback \(most recent call last\)|Ran \d+ tests?\b|=+ .{0,200}\b(?:passed|failed|errors?)\b.{0,200}=+\s*$"
    r"|(?:FAILED|ERROR|PASSED|FAIL:|ERROR:|--- FAIL:|not ok|ok) .|test result: "
    r"|.{0,300}\.\.\. (?:ok|FAIL|ERROR|skipped)\s*$"
    r"|.{0,300}\b(?:PASSED|FAILED)\b.{0,12}$"
    r"|(?:PASS|FAIL) {1,2}\S|Tests(?: run)?: +\d|\[(?:INFO|ERROR|WARNING)\] Tests run: \d"  # jest, maven
    r"|\S{1,200}[:(]\d+[:,]\d+\)?: (?:fatal )?error\b|error(?:\[\w+\])?: \S|npm ERR! |make(?:\[\d+\])?: \*\*\*"
    r"|.{0,40}\bBUILD (?:FAILED|FAILURE|SUCCESSFUL|SUCCESS)\b|thread '.{1,80}' panicked|panic: \S|goroutine \d+ \["
    r"|[ \t]+at \S.{0,200}[(/][^()\n]{1,200}:\d+\)?\s*$"  # a frame of Java's or JavaScript's
    r"|[ \t]+at \S.{0,300}\) in .{1,300}:line \d+\s*$"  # .NET's
    r"|[ \t]+from \S{1,300}:\d+:in |#\d{1,4} \S{1,300}\(\d+\): \S)",  # Ruby's, PHP's
    re.MULTILINE,
)

_NAMED_TEST = re.compile(
    r"^(?:(?:FAILED|ERROR|PASSED) \S{1,300}::\S|\[(?:INFO|ERROR|WARNING)\] Tests run: \d)", re.MULTILINE
)


def is_test_run(text: str) -> bool:
    """Say whether a test run names what failed, line by line, at either end."""
    return _NAMED_TEST.search(_join_ends(text)) is not None


def is_report(text: str) -> bool:
    """Say whether this is what a test run or a crash prints, judging by both ends."""
    ends = _join_ends(text)
    hits = sum(1 for _ in _REPORT_LINE.finditer(ends))
    return hits > 0 and hits * 100 >= ends.count("\n")


def _join_ends(text: str) -> str:
    return text if len(text) <= 2 * END_CHARACTERS else f"{text[:END_CHARACTERS]}\n{text[-END_CHARACTERS:]}"


def grade_lines(text: str, spans: Sequence[Span]) -> list[int]:
    """Grade each line: 0, WARNING, ERROR, or VERDICT for what a reader of test and build output looks for first."""
    found = [0] * len(spans)
    starts = [start for start, _ in spans]
    lowered = text.lower()
    if len(lowered) != len(text):  # a few characters change their length in lower case, and with it all offsets
        lowered = text
    for grade, words in ((WARNING, _WARNING_WORDS), (ERROR, _ERROR_WORDS)):
        for word in words:
            for index in _find_lines_with(lowered, word, starts, spans):
                found[index] = grade
    for lines in (
        _find_verdict_openings(text, starts),
        *(_find_lines_with(lowered, word, starts, spans) for word in _VERDICT_WORDS),
    ):
        for index in lines:
            if found[index] < VERDICT and _VERDICT_LINE.match(text, *spans[index]):
                found[index] = VERDICT
    return found


def _find_verdict_openings(text: str, starts: Sequence[int]) -> list[int]:
    """Find the lines that begin as verdicts do whose only word is one that stands everywhere."""
    hits = islice(_VERDICT_OPENING.finditer("\n" + text), MAX_HITS)
    return [index for index in (bisect_right(starts, hit.end() - 2) - 1 for hit in hits) if index >= 0]


def find_warning_comments(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the lines in which an author warns whoever reads the code."""
    return _find_hit_lines((match.start() for match in _WARNING_COMMENT.finditer(text)), text, spans)


def find_raise_lines(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the lines in which a program gives up."""
    return _find_hit_lines((at for word in _RAISE_STATEMENTS for at in _iter_hits(text, word)), text, spans)


def _iter_hits(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + len(word))


def _find_hit_lines(hits: Iterator[int], text: str, spans: Sequence[Span]) -> list[int]:
    """List the lines in which words begin."""
    starts = [start for start, _ in spans]
    found = dict.fromkeys(
        bisect_right(starts, at) - 1 for at in islice(hits, MAX_HITS) if not _is_inside_word(text, at)
    )
    return [index for index in found if index >= 0]


def _is_inside_word(text: str, at: int) -> bool:
    """Say whether a word goes on here; asked of hits, because a pattern that begins with a `\\b` looks everywhere."""
    return at > 0 and (text[at - 1].isalnum() or text[at - 1] == "_")


def _find_lines_with(lowered: str, word: str, starts: Sequence[int], spans: Sequence[Span]) -> list[int]:
    lines: list[int] = []
    at = lowered.find(word)
    while at >= 0 and len(lines) < MAX_HITS:
        index = bisect_right(starts, at + len(word) - 1) - 1
        if index < 0:
            at = lowered.find(word, at + 1)
            continue
        if at < spans[index][1]:
            lines.append(index)
        at = lowered.find(word, max(at + 1, spans[index][1]))
    return lines
