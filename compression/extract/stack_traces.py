"""Stack traces inside a text: which lines are their frames, where each trace broke, and which lines say why.

Knows how nine languages and tools print them, and nothing of what else a text is. A frame is one thing: where, and what
is indented below it (the line of code, without the `^^^^` under that). Python and pytest print the frame that broke
last and what happened below it; all others print what happened, and below it first the frame that broke.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from math import sqrt
from typing import NamedTuple

from .core.bm25 import Span

FAILURE_FRAME_SCORE = 1.2  # where it broke; the frame beside it is worth half of that, and so on
ENTRY_FRAME_SCORE = 0.3  # the other end
LIBRARY_FACTOR = 0.4  # of its worth is left to a frame in a library
MAX_FRAME_LINES = 6  # lines of a frame
MAX_MESSAGE_LINES = 3  # lines above a trace that say what happened
MAX_LINE_CHARACTERS = 600  # characters of a line looked at
NOT_A_FRAME, INNERMOST_LAST, INNERMOST_FIRST = (
    0,
    1,
    2,
)  # no frame, one of those that end where it broke, one of those that begin there

_INNERMOST_LAST_FRAME = re.compile(
    r"[ \t]+File \"[^\"\n]{1,300}\", line \d+"  # Python
    r"|[\w./@<>~+-]{1,300}:\d+: in \S"  # pytest, short
)
_INNERMOST_FIRST_FRAME = re.compile(
    r"\s+at (?:async )?[\w$.<>\[\]/@ `+,:|-]{1,200}\([^()\n]{0,300}\)(?: in [^\n]{1,300}:line \d+)?\s*$"  # Java, .NET
    r"|\s+at (?:async )?(?:file:|/|[A-Za-z]:\\|node:)\S{1,300}:\d+"
    r"|\s+\.\.\. \d+ (?:more|common frames omitted)\s*$"
    r"|\s+from \S{1,300}:\d+:in "  # Ruby
    r"|\s+\d{1,4}: +(?:0x[0-9a-f]+ - )?(?:[\w:<>{}$. ]{1,200}$|[\w<&(*{][^\n]{0,200}::)"  # Rust
    r"|#\d{1,4}\s{1,2}(?:\S{1,300}\(\d+\): |\{main\}|\[internal function\])"  # PHP
    r"|#\d{1,4}\s{1,2}(?:0x[0-9a-f]{1,16} |\S[^\n]{0,300}\) (?:at|from) \S)"  # gdb
)
# Go's are two lines, and what parts the first from any other text is the second.
_GO_FRAME = re.compile(
    r"(?:created by )?[\w./@~%-]{1,300}[.(][^\n]{0,300}\n[ \t]+\S{1,300}:\d+(?: \+0x[0-9a-f]+)?[ \t]*(?:\n|\Z)"
)
_LIBRARY_MARKERS = (
    *("site-packages/", "dist-packages/", "/lib/python", "/lib64/python", "<frozen "),
    *("at java.", "at jdk.", "at sun.", "at org.junit.", "(native", "at System.", "at Microsoft."),
    *("node_modules/", "node:internal", "/rustc/", " std::", " core::", " tokio::", "<core::", "<alloc::"),
    *("/usr/local/go/", "/go/pkg/mod/", "/gems/", "/vendor/"),
)
_FRAME_PREFIXES = ("File ", "at ", "from ", "... ", *"0123456789")  # how a frame begins that is
_CARET_LINE = re.compile(r"\s*[~^]+\s*$")


class TraceLines(NamedTuple):
    """Lines, each frame's gathered in one: their spans, how many lines each has, and of frames which way they stand."""

    spans: list[Span]
    sizes: list[int]
    frames: list[int]


def group_frames(text: str, found: Sequence[Span], *, keep_carets: bool = False) -> TraceLines:
    """Gather the lines of each frame into one; those of `^^^^` only with `carets`, else they go uncounted."""
    spans: list[Span] = []
    sizes: list[int] = []
    frames: list[int] = []
    depth = -1  # of the frame whose lines are gathered
    go = bool(found) and text.find("goroutine ", found[0][0], found[-1][1]) >= 0
    for start, end in found:
        line = text[start:end]
        bare = line.lstrip()
        indented = len(line) - len(bare)
        frame = _classify_frame(text, (start, end), bare, go=go)
        if frame:
            depth = indented
        elif depth >= 0 and indented > depth and sizes[-1] < MAX_FRAME_LINES and end - start < 300:
            if keep_carets or not _CARET_LINE.match(line):
                spans[-1] = (spans[-1][0], end)
                sizes[-1] += 1
            continue
        else:
            depth = -1
        spans.append((start, end))
        sizes.append(1)
        frames.append(frame)
    return TraceLines(spans, sizes, frames)


def _classify_frame(text: str, line: Span, bare: str, *, go: bool) -> int:
    """Say what frame a line is; most are ruled out by how they begin (`bare`: without what they are indented by)."""
    start, end = line
    indented = len(bare) < end - start
    if indented and not bare.startswith(_FRAME_PREFIXES):
        return NOT_A_FRAME
    stop = min(end, start + MAX_LINE_CHARACTERS)
    if (indented or ": in " in bare) and _INNERMOST_LAST_FRAME.match(text, start, stop):
        return INNERMOST_LAST
    if (indented or bare[0] == "#") and _INNERMOST_FIRST_FRAME.match(text, start, stop):
        return INNERMOST_FIRST
    return INNERMOST_FIRST if go and _GO_FRAME.match(text, start, start + 2 * MAX_LINE_CHARACTERS) else NOT_A_FRAME


def score_frames(text: str, cut_: TraceLines, kinds: Sequence[object]) -> list[float]:
    """Say what each frame is worth for where it stands in its trace, where it lies, and what stands above the trace.

    `kinds` are the lines' templates: the more often the same stood above a trace before, the less its frames are worth.
    """
    worth = [0.0] * len(cut_.spans)
    times: Counter[tuple[object, ...]] = Counter()
    for first, after in find_traces(cut_.frames):
        why = tuple([kinds[at] for at in _list_message_lines(cut_, first)])
        times[why] += 1
        fresh = 1.0 / sqrt(times[why]) if why else 1.0
        for index in range(first, after):
            above, below = index - first, after - 1 - index
            broke, began = (below, above) if cut_.frames[first] == INNERMOST_LAST else (above, below)
            worth[index] = fresh * max(FAILURE_FRAME_SCORE * 0.5**broke, 0.0 if began else ENTRY_FRAME_SCORE)
    for index in _find_library_lines(text, cut_.spans):
        worth[index] *= LIBRARY_FACTOR
    return worth


def _find_library_lines(text: str, spans: Sequence[Span]) -> set[int]:
    """Find the lines that name a place in a library."""
    starts = [start for start, _ in spans]
    found: set[int] = set()
    for word in _LIBRARY_MARKERS if spans else ():
        at = text.find(word, starts[0], spans[-1][1])
        while at >= 0:
            index = bisect_right(starts, at) - 1
            found.add(index)
            at = text.find(word, max(at + 1, spans[index][1]), spans[-1][1])
    return found


def find_traces(frames: Sequence[int]) -> list[tuple[int, int]]:
    """List the traces: the first of their frames, and what follows the last."""
    starts = [at for at, frame in enumerate(frames) if frame and not (at and frames[at - 1])]
    ends = [at for at, frame in enumerate(frames, start=1) if frame and not (at < len(frames) and frames[at])]
    return list(zip(starts, ends, strict=True))


def find_message_lines(cut_: TraceLines) -> list[int]:
    """List the lines that say what happened, where they stand above the trace."""
    return [at for first, _ in find_traces(cut_.frames) for at in _list_message_lines(cut_, first)]


def find_trace_lines(cut_: TraceLines) -> set[int]:
    """Gather all lines that belong to traces: the frames, and those above and below that say what happened."""
    found = {at for at, frame in enumerate(cut_.frames) if frame}
    for first, after in find_traces(cut_.frames):
        found.update(range(max(0, first - MAX_MESSAGE_LINES), first))
        if cut_.frames[first] == INNERMOST_LAST and after < len(cut_.frames):
            found.add(after)
    return found


def _list_message_lines(cut_: TraceLines, first: int) -> list[int]:
    if cut_.frames[first] == INNERMOST_LAST:
        return []
    return list(takewhile(lambda at: not cut_.frames[at], range(first - 1, max(-1, first - 1 - MAX_MESSAGE_LINES), -1)))
