"""Stack traces in a text: frames, the frame that failed, and the lines with the error message.

Knows the formats of many languages and tools. A frame is its location plus the lines indented below it (the code,
without the `^^^^` markers). Python and pytest print the innermost frame last and the message below it; all others print
the message first and then the innermost frame.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import sqrt
from typing import NamedTuple

from . import lines
from .base_weights import weight
from .bm25 import Span
from .lines import LineWeights

MAX_FRAME_LINES = 6
MAX_MESSAGE_LINES = 3  # above a trace
MAX_LINE_CHARACTERS = 600  # matched against the patterns
NOT_A_FRAME, INNERMOST_LAST, INNERMOST_FIRST = 0, 1, 2  # by the order of the trace


@dataclass(frozen=True, slots=True)
class TraceWeights(LineWeights):
    """Weights of content types with stack traces."""

    failure_frame_score: float = weight(1.2, "the innermost frame; halved for each frame away from it")
    entry_frame_score: float = weight(0.3, "the outermost frame")
    library_factor: float = weight(0.4, "a frame in a library", "factor")


_INNERMOST_LAST_FRAME = re.compile(
    r"[ \t]+File \"[^\"\n]{1,300}\", line \d+"  # Python
    r"|[\w./@<>~+-]{1,300}:\d+: in \S"  # pytest, short
)
_INNERMOST_FIRST_FRAME = re.compile(  # Java and .NET first
    r"\s+at (?:async )?[\w$.<>\[\]/@ `+,:|-]{1,200}\([^()\n]{0,300}\)(?: in [^\n]{1,300}:line \d+)?(?:<---)?\s*$"
    r"|\s+at (?:async )?(?:file:|/|[A-Za-z]:\\|node:)\S{1,300}:\d+"
    r"|\s+\.\.\. \d+ (?:more|common frames omitted)\s*$"
    r"|\s+from \S{1,300}:\d+:in "  # Ruby
    r"|\s+\d{1,4}: +(?:0x[0-9a-f]+ - )?(?:[\w:<>{}$. ]{1,200}$|[\w<&(*{][^\n]{0,200}::)"  # Rust
    r"|#\d{1,4}\s{1,2}(?:\S{1,300}\(\d+\): |\{main\}|\[internal function\])"  # PHP
    r"|(?:/|[A-Za-z]:\\)[^\s:]{1,300}:\d{1,7}\s*$"  # PHPUnit
    r"|#\d{1,4}\s{1,2}(?:0x[0-9a-f]{1,16} |\S[^\n]{0,300}\) (?:at|from) \S)"  # gdb
    r"|\s+#\d{1,4} (?:0x[0-9a-f]{1,16} in )?\S[^\n]{0,300}(?:\)|:\d+)\s*$"  # sanitizers
    r"|==\d{1,9}==\s+(?:at|by) 0x[0-9A-F]{1,16}: |~~Dr\.M~~ # ?\d+ "  # Valgrind, Dr. Memory
    r"|\s❯ (?:[^\s:]{1,100} )?\S{1,300}:\d+:\d+\s*$"  # vitest
)
# A frame of Go has two lines; only the second one is unmistakable.
_GO_FRAME = re.compile(
    r"(?:created by )?[\w./@~%-]{1,300}[.(][^\n]{0,300}\n[ \t]+\S{1,300}:\d+(?: \+0x[0-9a-f]+)?[ \t]*(?:\n|\Z)"
)
_LIBRARY_MARKERS = (
    *("site-packages/", "dist-packages/", "/lib/python", "/lib64/python", "<frozen "),
    *("(native", "at System.", "at Microsoft.", "(<anonymous>)"),
    *(
        f"{opening}{package}."  # also `at app//org.junit.`, `at java.base/java.`
        for opening in ("at ", "/")
        for package in (
            *("java", "jdk", "sun", "org.junit", "javax", "jakarta", "kotlin", "scala", "org.springframework"),
            *("org.apache", "org.hibernate", "com.zaxxer", "org.postgresql", "com.mysql", "io.netty", "reactor"),
            *("com.fasterxml", "com.google.common", "io.grpc", "okhttp3", "org.eclipse", "oracle.jdbc"),
            *("com.sun", "org.testng", "org.assertj", "org.mockito", "org.gradle"),
        )
    ),
    *("libsanitizer/", "sysdeps/", "/csu/", "/elf/", "(in /usr/lib", "(in /lib", "(clone", "/drmemory/", " _start "),
    *("node_modules/", "node:internal", "/rustc/", " std::", " core::", " tokio::", "<core::", "<alloc::"),
    *("/usr/local/go/", "/go/pkg/mod/", "/gems/", "/vendor/"),
)
_LIBRARY = re.compile("|".join(map(re.escape, _LIBRARY_MARKERS)))
_FRAME_PREFIXES = ("File ", "at ", "from ", "... ", "❯ ", *"#0123456789")  # of an indented frame
_CARET_LINE = re.compile(r"\s*[~^]+\s*$")


class TraceLines(NamedTuple):
    """Lines with each frame merged into one: spans, numbers of lines, and frame types (0 for other lines).

    `library`: the indices of the frames in libraries. `separators`: the indices of the lines without words.
    `traces`: the first frame of each trace, and the line after its last one.
    """

    spans: list[Span]
    sizes: list[int]
    frames: list[int]
    library: frozenset[int]
    separators: frozenset[int]
    traces: list[tuple[int, int]]


def group_frames(text: str, line_spans: Sequence[Span], *, keep_carets: bool = False) -> TraceLines:
    """Merge the lines of each frame; drop lines of `^^^^` uncounted unless `keep_carets`."""
    spans: list[Span] = []
    sizes: list[int] = []
    frames: list[int] = []
    depth = -1  # indentation of the current frame, or -1
    is_go = bool(line_spans) and text.find("goroutine ", line_spans[0][0], line_spans[-1][1]) >= 0
    for start, end in line_spans:
        line = text[start:end]
        bare = line.lstrip()
        indentation = len(line) - len(bare)
        frame = _classify_frame(text, (start, end), bare, is_go=is_go)
        if frame:
            depth = indentation
        elif depth >= 0 and indentation > depth and sizes[-1] < MAX_FRAME_LINES and end - start < 300:
            if keep_carets or not _CARET_LINE.match(line):
                spans[-1] = (spans[-1][0], end)
                sizes[-1] += 1
            continue
        else:
            depth = -1
        spans.append((start, end))
        sizes.append(1)
        frames.append(frame)
    library = frozenset(
        index
        for index, (frame, (start, end)) in enumerate(zip(frames, spans, strict=True))
        if frame and _LIBRARY.search(text, start, end) is not None
    )
    separators = frozenset(index for index, span in enumerate(spans) if lines.is_separator(text, span))
    return TraceLines(spans, sizes, frames, library, separators, _find_traces(frames))


def _classify_frame(text: str, line: Span, bare: str, *, is_go: bool) -> int:
    """Return the frame type of a line; its first characters (`bare` is the line without indentation) rule out most."""
    start, end = line
    is_indented = len(bare) < end - start
    if is_indented and not bare.startswith(_FRAME_PREFIXES):
        return NOT_A_FRAME
    stop = min(end, start + MAX_LINE_CHARACTERS)
    if (is_indented or ": in " in bare) and _INNERMOST_LAST_FRAME.match(text, start, stop):
        return INNERMOST_LAST
    if (is_indented or bare[0] in "#/=~" or bare[1:3] == ":\\") and _INNERMOST_FIRST_FRAME.match(text, start, stop):
        return INNERMOST_FIRST
    return INNERMOST_FIRST if is_go and _GO_FRAME.match(text, start, start + 2 * MAX_LINE_CHARACTERS) else NOT_A_FRAME


def score_frames(trace: TraceLines, templates: Sequence[object], weights: TraceWeights) -> list[float]:
    """Score each frame by its distance from the innermost one, its library, and the novelty of its message.

    Frames of a library do not count in the distance of others.
    `templates` are those of the lines. The frames of a trace lose value with each earlier trace of the same message.
    """
    innermost, outermost = weights.failure_frame_score, weights.entry_frame_score
    scores = [0.0] * len(trace.spans)
    occurrences: Counter[tuple[object, ...]] = Counter()
    for first, after in trace.traces:
        message = tuple([templates[index] for index in _list_message_lines(trace, first)])
        occurrences[message] += 1
        novelty = 1.0 / sqrt(occurrences[message]) if message else 1.0
        order = _order_frames(trace, first, after)
        scores[order[-1]] = novelty * outermost
        inner_frames = {True: 0, False: 0}
        for index in order:
            in_library = index in trace.library
            factor = weights.library_factor if in_library else 1.0
            scores[index] = factor * max(novelty * innermost * 0.5 ** inner_frames[in_library], scores[index])
            inner_frames[in_library] += 1
            inner_frames[True] += not in_library
    return scores


def find_failure_frames(trace: TraceLines) -> list[int]:
    """Return for each trace the index of its innermost frame outside libraries, if it has any."""
    orders = [_order_frames(trace, first, after) for first, after in trace.traces]
    frames = [next((index for index in order if index not in trace.library), -1) for order in orders]
    return [index for index in frames if index >= 0]


def pair_messages_with_frames(trace: TraceLines) -> dict[int, int]:
    """Map the message of each trace, next to it, to its innermost frame, outside libraries if any."""
    pairs: dict[int, int] = {}
    for first, after in trace.traces:
        message = after if trace.frames[after - 1] == INNERMOST_LAST else first - 1
        if 0 <= message < len(trace.frames):
            order = _order_frames(trace, first, after)
            pairs[message] = next((index for index in order if index not in trace.library), order[0])
    return pairs


def _order_frames(trace: TraceLines, first: int, after: int) -> Sequence[int]:
    """Return the indices of a trace's frames, the innermost first."""
    return range(after - 1, first - 1, -1) if trace.frames[first] == INNERMOST_LAST else range(first, after)


def _find_traces(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Return the traces: the index of the first frame, and the index after the last."""
    starts = [index for index, frame in enumerate(frames) if frame and not (index and frames[index - 1])]
    ends = [
        after for after, frame in enumerate(frames, start=1) if frame and not (after < len(frames) and frames[after])
    ]
    return list(zip(starts, ends, strict=True))


def find_message_lines(trace: TraceLines) -> list[int]:
    """Return the indices of the error messages above traces."""
    return [index for first, _ in trace.traces for index in _list_message_lines(trace, first)]


def find_trace_lines(trace: TraceLines) -> set[int]:
    """Return the indices of all lines of traces: the frames, and the messages above and below."""
    indices = {index for index, frame in enumerate(trace.frames) if frame}
    for first, after in trace.traces:
        indices.update(range(max(0, first - MAX_MESSAGE_LINES), first))
        if trace.frames[first] == INNERMOST_LAST and after < len(trace.frames):
            indices.add(after)
    return indices


def _list_message_lines(trace: TraceLines, first: int) -> list[int]:
    if trace.frames[first] == INNERMOST_LAST:
        return []
    candidates = range(first - 1, max(-1, first - 1 - MAX_MESSAGE_LINES), -1)
    return list(takewhile(lambda index: not trace.frames[index] and index not in trace.separators, candidates))
