"""Grades lines by severity: warnings, errors, and verdicts such as failed tests and summaries.

Substring searches run first, and patterns only on the lines they hit, so that text without reports costs little.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

from .bm25 import Span
from .word_search import WordFinder

WARNING, ERROR, VERDICT = 1, 2, 3
END_CHARACTERS = 10_000  # of each end, to recognise a report
MAX_HITS = 50_000  # lines examined per text and pattern

_WARNING_COMMENT = re.compile(r"(?:FIXME|XXX|HACK|BUG|SECURITY)\b")  # a TODO is too common
_RAISE_STATEMENTS = (
    *("raise ", "throw ", "panic(", "panic!(", "unreachable!(", "abort(", "die(", "log.Fatal"),
    *("sys.exit(", "os.Exit(", "os._exit(", "process.exit(", "process::exit("),
)
_WARNING_WORDS = ("warn", "deprecat", "skipped", "retry")
_ERROR_WORDS = (
    "error", "fail", "exception", "traceback", "fatal", "panic", "severe", "critical", "denied", "refused", "timed out",
    "timeout", "not found", "no such file", "cannot ", "unable to", "could not ", "abort", "killed", "conflict ",
    "conflict:", "conflict\n", 'conflict"', "conflict)", "conflicts ", "conflicting",  # not the field `Conflicts:`
    "undefined", "segmentation", "unexpected", "invalid", "mismatch", "corrupt", "unreachable", "rejected",
)  # fmt: skip
_VERDICT_WORDS = (
    *("error", "fail", "assert", "exception", "panic", "passed", "ran ", "tests"),
    *("✗", "✕", "❌", "●", "\ne  ", "\ne: "),
)
_VERDICT_LINE = re.compile(
    r"""\s*(?:\x1b\[[\d;]{0,12}m){0,4}(?:
      (?:FAILED|FAIL|ERROR|ERRORS|FATAL|PANIC|panic)\b.{0,3}            # a failed test or build step
    | E\s{2,}\S                                                         # pytest's explanation
    | e:\ \S                                                            # of Kotlin's compiler
    | (?:[A-Z]\w{0,30}\ ){0,3}[\w.]{0,120}                              # the last line of a traceback
      (?:Error|Exception|Failure|Warning|Interrupt|Exit)(?::\ |$)
    | (?:AssertionError|assert\ )
    | =+\ .{0,200}\b(?:passed|failed|errors?|skipped|no\ tests\ ran)\b.{0,200}=+
    | Ran\ \d+\ tests?\b
    | (?:OK|FAILED)(?:\ \(.{1,200}\))?\s*$
    | (?:Tests?(?:\ Suites|\ run)?|Failures|test\ result|Results?|Summary|BUILD)\s?:?\ .{0,40}(?:\d|ok|SUCC|FAIL)
    | \d+\ (?:passed|failed|passing|failing|errors?|warnings?)\b
    | \d+\ (?:\w{2,20}\ ){1,2}?\w{2,20},\ \d+\ (?:failed|failures?|errors?)\b
    | (?:---\ FAIL|not\ ok\ \d|[✗✕❌×]\ |●\ (?!\S{1,120}\.\w{3,9}\ -\ ))
    | \S{1,200}:\d+:(?:\d+:)?\ (?:fatal\ )?(?:(?:error|panic)\b|Failure$)   # a compiler error, a failed assertion
    | (?:error|fatal)(?:\[\w+\])?:[ ]
    | \#\#\[error\]                                                    # of a build server
    | (?:npm\ ERR!|make(?:\[\d+\])?:\ \*\*\*|thread\ '.{1,80}'\ panicked)
    )""",
    re.VERBOSE,
)

_HTTP_STATUS = re.compile(  # group 1 of an answer that failed is its status; group 2 is that of any answer
    r"(?:HTTP/\d(?:\.\d)?\"?,?[ ]|[Ss]tatus(?:[_ ]?[Cc]ode)?[\"']?(?:[=:][ ]?|[ ])[\"']?)(?:([45]\d\d)|([123]\d\d))\b"
)
_EXIT_STATUS = re.compile(  # of a process that failed
    r"(?:(?i:\bexit(?:ed)?(?:[ _](?:with[ ])?(?:code|status))|\breturn_?code|\brc)[\"']?(?:[=:]\s{0,20}|[ ])"
    r"|\bRestart Count:\s{1,20})-?[1-9]\d{0,9}\b"
)
_HTTP_WORDS = ("http/", "status")
_EXIT_WORDS = ("exit", "returncode", "return_code", "rc=", "rc:", 'rc"', "rc'", "restart count")

REPORT_WORDS = (*_WARNING_WORDS, *_ERROR_WORDS, *_VERDICT_WORDS, *_HTTP_WORDS, *_EXIT_WORDS)

_COUNTED_WORDS = ("exit", "restart", "error", "fail", "unreachable", "rejected", "killed")
_STATE_WORDS = ("backoff", "unhealthy", "degraded", "evicted", "oomkilled", "ready", "pressure", "truncated")
_COUNTER = re.compile(
    r"(?<!#)\b(?:exit[ _-]?(?:code|status)|restart(?:s|[ _]?count)|errors?|fail(?:ed|ures?)|unreachable|rejected|"
    r"killed)"
    r"[\"']?\s{0,20}[:=]\s{0,20}[\"']?(\d+)\b",
    re.IGNORECASE,
)
_FAILED_STATE = re.compile(
    r"[a-z]backoff\b|[a-z]pressure +true\b|\b(?:unhealthy|degraded|evicted|oomkilled|not ?ready|truncated)\b",
    re.IGNORECASE,
)
_VERDICT_OPENING = re.compile(  # verdicts with no word but `ok`, which is common elsewhere
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
    r"|[ \t]+at \S.{0,200}[(/][^()\n]{1,200}:\d+\)?\s*$"  # a frame of Java or JavaScript
    r"|[ \t]+at \S.{0,300}\) in .{1,300}:line \d+\s*$"  # .NET
    r"|[ \t]+from \S{1,300}:\d+:in |#\d{1,4} \S{1,300}\(\d+\): \S)",  # Ruby, PHP
    re.MULTILINE,
)

_NAMED_TEST = re.compile(
    r"^(?:(?:FAILED|ERROR|PASSED) \S{1,300}::\S|\[(?:INFO|ERROR|WARNING)\] Tests run: \d)", re.MULTILINE
)


def is_test_run(text: str) -> bool:
    """Return True if either end of the text names tests with their results, line by line."""
    return _NAMED_TEST.search(_join_ends(text)) is not None


def is_report(text: str) -> bool:
    """Return True if both ends of the text look like the output of a test run or a crash."""
    ends = _join_ends(text)
    matches = sum(1 for _ in _REPORT_LINE.finditer(ends))
    return matches > 0 and matches * 100 >= ends.count("\n")


def _join_ends(text: str) -> str:
    return text if len(text) <= 2 * END_CHARACTERS else f"{text[:END_CHARACTERS]}\n{text[-END_CHARACTERS:]}"


def grade_lines(text: str, spans: Sequence[Span]) -> list[int]:
    """Grade each line: 0, WARNING, ERROR, or VERDICT for results of tests and builds."""
    grades = [0] * len(spans)
    starts = [start for start, _ in spans]
    finder = WordFinder(lower(text), REPORT_WORDS)
    for grade, words in ((WARNING, _WARNING_WORDS), (ERROR, _ERROR_WORDS)):
        for word in words:
            for index in finder.find_spans(word, starts, spans, not_after="/#"):  # `/errors/7` reports no error
                grades[index] = grade
    for index, grade in iter_status_grades(text, finder, starts, spans):
        grades[index] = max(grades[index], grade)
    for candidates in (
        _find_verdict_openings(text, starts),
        *(finder.find_spans(word, starts, spans) for word in _VERDICT_WORDS),
    ):
        for index in candidates:
            if grades[index] < VERDICT and _VERDICT_LINE.match(text, *spans[index]):
                grades[index] = VERDICT
    return grades


def grade_counters(text: str, spans: Sequence[Span], grades: Sequence[int]) -> list[int]:
    """Correct the grades of lines with counters of failures: `Exit Code: 137` is an error, `failed=0` is not."""
    corrected = list(grades)
    for index, line_counts in _find_counters(text, spans).items():
        if any(line_counts):
            corrected[index] = max(corrected[index], ERROR)
        elif corrected[index] == ERROR:
            corrected[index] = 0
    for index, _ in _iter_word_matches(_STATE_WORDS, _FAILED_STATE, text, spans):
        corrected[index] = max(corrected[index], ERROR)
    return corrected


def _find_counters(text: str, spans: Sequence[Span]) -> dict[int, list[bool]]:
    """Return for each line with counters whether each of them is more than zero."""
    counters: dict[int, list[bool]] = {}
    for index, match in _iter_word_matches(_COUNTED_WORDS, _COUNTER, text, spans):
        counters.setdefault(index, []).append(match[1].strip("0") != "")
    return counters


def _iter_word_matches(
    words: Sequence[str], pattern: re.Pattern[str], text: str, spans: Sequence[Span]
) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield the matches of a pattern in the lines that contain one of the words, in lower case."""
    for index in find_lines_with_words(text, words, spans):
        for match in pattern.finditer(text, *spans[index]):
            yield index, match


def iter_status_grades(
    text: str, finder: WordFinder, starts: Sequence[int], spans: Sequence[Span]
) -> Iterator[tuple[int, int]]:
    """Yield the indices and grades of the lines with the status of a failed request or process.

    `finder` finds REPORT_WORDS in the text in lower case.
    """
    for index, match in _list_status_matches(_HTTP_STATUS, _HTTP_WORDS, text, finder, starts, spans):
        if match[1]:
            yield index, ERROR if match[1].startswith("5") else WARNING
    for index, _ in _list_status_matches(_EXIT_STATUS, _EXIT_WORDS, text, finder, starts, spans):
        yield index, ERROR


def _list_status_matches(
    pattern: re.Pattern[str],
    words: Sequence[str],
    text: str,
    finder: WordFinder,
    starts: Sequence[int],
    spans: Sequence[Span],
) -> list[tuple[int, re.Match[str]]]:
    """Return the matches of a pattern, in the order of the text; each begins with one of the words in lower case."""
    matches: list[tuple[int, re.Match[str]]] = []
    for word in words:
        start = finder.find(word, 0)
        while start >= 0:
            index, match = bisect_right(starts, start) - 1, pattern.match(text, start)
            if index >= 0 and match is not None and match.end() <= spans[index][1]:
                matches.append((index, match))
            start = finder.find(word, start + len(word))
    return sorted(matches, key=lambda item: item[1].start())


def find_http_statuses(text: str, spans: Sequence[Span]) -> dict[int, str]:
    """Return the HTTP status of each line that names one."""
    starts = [start for start, _ in spans]
    matches = _list_status_matches(_HTTP_STATUS, _HTTP_WORDS, text, WordFinder(lower(text), _HTTP_WORDS), starts, spans)
    return {index: match[1] or match[2] for index, match in matches}


def lower(text: str) -> str:
    """Return the text in lower case; unchanged if that would move its characters."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text


def _find_verdict_openings(text: str, starts: Sequence[int]) -> list[int]:
    """Return the indices of the lines that begin like a verdict with no word but `ok`."""
    matches = islice(_VERDICT_OPENING.finditer("\n" + text), MAX_HITS)
    indices = (bisect_right(starts, match.end() - 2) - 1 for match in matches)
    return [index for index in indices if index >= 0]


def find_warning_comments(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the lines with an author's warning, such as FIXME."""
    return _find_hit_lines((match.start() for match in _WARNING_COMMENT.finditer(text)), text, spans)


def find_raise_lines(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the lines that raise an error or exit."""
    return _find_hit_lines((start for word in _RAISE_STATEMENTS for start in _iter_hits(text, word)), text, spans)


def _iter_hits(text: str, word: str) -> Iterator[int]:
    start = text.find(word)
    while start >= 0:
        yield start
        start = text.find(word, start + len(word))


def _find_hit_lines(hits: Iterator[int], text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the lines that contain the offsets, except offsets inside a word."""
    starts = [start for start, _ in spans]
    indices = dict.fromkeys(
        bisect_right(starts, offset) - 1 for offset in islice(hits, MAX_HITS) if not _is_inside_word(text, offset)
    )
    return [index for index in indices if index >= 0]


def _is_inside_word(text: str, offset: int) -> bool:
    """Return True if a word continues here; cheaper on hits than a pattern that begins with `\\b`."""
    return offset > 0 and (text[offset - 1].isalnum() or text[offset - 1] == "_")


def find_lines_with_words(text: str, words: Sequence[str], spans: Sequence[Span]) -> list[int]:
    """Return, in order, the indices of the lines that contain one of the words, which are in lower case."""
    starts = [start for start, _ in spans]
    finder = WordFinder(lower(text), words)
    return sorted({index for word in words for index in finder.find_spans(word, starts, spans)})
