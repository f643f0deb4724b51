"""Lines that matter if a question asks what is wrong: remedies, settings related to the failure, and boilerplate."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from . import severity
from .bm25 import Span

MAX_REMEDIES = 6  # more such lines are a list of something else
MAX_SETTINGS = 12
MAX_CONTINUATIONS = 2  # lines that continue the sentence of a remedy

_DIAGNOSIS = re.compile(
    r"\b(?:why|wrong|broken?|problems?|errors?|fail\w*|crash\w*|restart\w*|down|hang\w*|slow|fix|debug|investigate|"
    r"healthy|unhealthy|succeed\w*|work(?:s|ed|ing)?|block(?:s|ed|ing)?|conflict\w*|incompatible|leak\w*|lost|"
    r"overflow\w*|cannot|can't)\b",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"[0-9a-f](?<!\w.)[0-9a-f]{31,}\b")  # begins with a set, which `re` searches fast
_REMEDY = re.compile(
    r"^\W{0,12}(?:(?:hint|help|tip|note|solution): |to (?:fix|resolve|solve|avoid) |you (?:can|may|need|must|should) "
    r"|(?:please|try|consider|ensure|make sure|fix|run|rerun|re-run|retry|use|set|add|install|upgrade|remove|check)"
    r" (?=(?:[^\s:=]+[ ,]+){3}))[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)
_CONTINUATION = re.compile(r"[ \t]*[a-z]\S* (?:\S+ ){2}")
_BOILERPLATE_WORDS = (
    "complete ",
    "full ",
    "detailed ",
    "debug ",
    "more help",
    "more info",
    "more details",
    "run with",
    "run maven ",
    "available options",
    "copyright (c)",
)
_BOILERPLATE = re.compile(
    r"\b(?:(?:complete|full|detailed|debug) (?:log|report|output)|more (?:help|info(?:rmation)?|details)"
    r"|(?:re-?)?run (?:\w+ )?with:? (?:the )?[`-]{1,2}\w+|copyright \(c\) \d{4})(?!\w)",
    re.IGNORECASE,
)
_COPYRIGHT = re.compile(r"copyright \(c\)", re.IGNORECASE)
_PATH_LINE = re.compile(r"[ \t]*(?:https?://|[~/]|[A-Z]:\\)\S+\s*$")
_RELATED_SETTINGS = (  # words of a failure in lower case, and the settings that decide it
    (
        ("oomkill", "out of memory", "outofmemory", "heap space", "memoryerror"),
        r"-Xm[xsn]\d|max-old-space-size|MaxRAM|\b(?:mem(?:ory)?(?:[_-]?limit)?|heap\w{0,20})\b[\"']?\s{0,20}[:=]",
    ),
    (
        ("no space left", "disk full", "disk is full", "diskpressure", "quota exceeded"),
        r"\b(?:ephemeral-storage|storage|sizeLimit|quota)\b[\"']?\s{0,20}[:=]|\b(?:9[5-9]|100)%",
    ),
    (
        (
            "connection refused",
            "timed out",
            "no such host",
            "econnrefused",
            "etimedout",
            "enotfound",
            "name resolution",
        ),
        r"(?:host|port|url|addr(?:ess)?|endpoint|timeout)[\"']?\s{0,20}[:=]",
    ),
    (
        ("permission denied", "forbidden", "unauthorized", "eacces", "access denied"),
        r"\b(?:user|uid|gid|group|role|runAs\w{1,20}|fsGroup|mode|policy|service ?account(?:Name)?)[\"']?\s{0,20}[:=]",
    ),
    (
        ("noschedule", "failedscheduling", "unschedulable"),
        r"\b(?:taints|tolerations|unschedulable|node-?selectors?)\b.*:",
    ),
)
_SETTINGS = [(words, re.compile(setting, re.IGNORECASE)) for words, setting in _RELATED_SETTINGS]


def asks_what_is_wrong(question: str) -> bool:
    """Return True if the question asks for the cause of a problem."""
    return _DIAGNOSIS.search(question) is not None


def find_remedies(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the lines that say what to do about a failure, with the lines that continue their sentence."""
    remedies = list(_iter_lines(_REMEDY, text, spans))
    if len(remedies) > MAX_REMEDIES:
        return []
    for index in list(remedies):
        after = index + 1
        while after < min(len(spans), index + 1 + MAX_CONTINUATIONS) and _CONTINUATION.match(text, *spans[after]):
            remedies.append(after)
            after += 1
    return sorted(set(remedies))


def find_related_settings(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the lines with settings that decide about a failure in this text, if they are few."""
    lines: dict[int, None] = {}
    lowered = severity.lower(text)
    for words, setting in _SETTINGS:
        if any(word in lowered for word in words):
            found = dict.fromkeys(_iter_lines(setting, text, spans))
            lines.update(found if len(found) <= MAX_SETTINGS else {})
    return list(lines)


def find_boilerplate(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the lines that say where a log or more help is, with the paths below them, and lines with digests.

    So is a notice of copyright, with the name of the program above it.
    """
    candidates = severity.find_lines_with_words(text, _BOILERPLATE_WORDS, spans)
    boilerplate = [index for index in candidates if _BOILERPLATE.search(text, *spans[index])]
    banners = [index - 1 for index in boilerplate if index and _COPYRIGHT.search(text, *spans[index])]
    below = [index + 1 for index in boilerplate if index + 1 < len(spans)]
    paths = [index for index in below if _PATH_LINE.match(text, *spans[index])]
    return [*boilerplate, *banners, *paths, *_iter_lines(_DIGEST, text, spans)]


def _iter_lines(pattern: re.Pattern[str], text: str, spans: Sequence[Span]) -> Iterator[int]:
    """Yield the line at the end of each match."""
    for match in pattern.finditer(text):
        index = bisect_right(spans, (match.end() - 1, len(text))) - 1
        if index >= 0 and match.end() <= spans[index][1]:
            yield index
