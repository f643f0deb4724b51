"""Log entries: lines that begin with a time or a level, each with its continuation lines.

An entry is one piece, or several if it contains a long stack trace: one per frame, and the text around the frames.
Pieces are in order, do not overlap, and cover every non-blank line.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .core import lines, severity, stack_traces, thinning
from .core.base_weights import weight
from .core.bm25 import Span
from .core.stack_traces import TraceWeights

MAX_START_CHARACTERS = 400  # matched against the pattern of an entry
_TIME_FIELD = re.compile(
    r"[A-Za-z][\w -]{0,40}:\s{0,40}\S{0,12}[\d:./TZ+ -]{8,40}\s*$"
)  # `Modify: 2024-03-01 10:00:00`


@dataclass(frozen=True, slots=True)
class LogWeights(TraceWeights):
    """Weights of logs."""

    neighbour_weight: float = weight(0.2, "part of its neighbour's score that an entry gains", "factor")
    rarity_weight: float = weight(0.5, "a unique template; divided by 1 + log(frequency)")
    severity_scores: tuple[float, ...] = weight((0.0, 0.1, 0.4, 0.4), "no grade, warning, error, verdict")
    far_number_bonus: float = weight(0.4, "a number far from those of the look-alikes")
    asked_bonus: float = weight(0.5, "the greatest or the least value asked for; twice as much for the first")
    min_entry_share: float = weight(0.5, "lines of a log that begin like entries", "share of lines")
    min_doubtful_share: float = weight(0.05, "the same share if the other lines may be stack traces", "share of lines")
    min_lines: int = weight(3, "lines needed to recognise a log", "lines")
    max_entry_lines: int = weight(80, "length of an entry; the next line begins a new one", "lines")
    min_cut_lines: int = weight(5, "length of an entry that is cut at its frames", "lines")
    min_frames: int = weight(3, "frames of an entry that is cut at its frames", "frames")
    frame_share: float = weight(0.5, "score of an entry that its innermost frame gets", "share")
    max_template_lines: int = weight(6, "message lines in the template of an entry with a stack trace", "lines")


_TIMESTAMP_PATTERN = (
    r"(?:\S{1,80}\s+){0,3}?[\[(<\"]?(?:"
    r"\d{4}[-/.]\d\d[-/.]\d\d[T _:-]?\s?\d\d?[:.]\d\d|"  # 2015-10-18 18:01
    r"\d\d[-/.]\d\d[-/.]\d{2,4}\s\d\d:\d\d|"  # 17/06/09 20:10
    r"\d{8}[-T ]\d\d:?\d\d|"  # 20171223-22:15
    r"\d{6}\s\d{6}\s|"  # 081109 203615
    r"\d\d[./-]\d\d\s\d\d:\d\d:\d\d|"  # 10.30 16:49:06
    r"\d\d?/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d|"  # 10/Oct/2000:13:55
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\s)?(?:\d\d?\s)?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s{1,2}\d{1,4}\s\d\d:\d\d|"
    r"\d\d:\d\d:\d\d[.,:\s\]]|"  # 18:01:47
    r" {0,8}\d{1,8}\.\d{3,9}\] "  # [   12.345678]
    r")"
)
_ENTRY_START = re.compile(
    rf"{_TIMESTAMP_PATTERN}"
    r"|(?:- )?1\d{9}(?:\.\d{1,9}|\d{3})?\s"  # Unix time
    r"|[\[(<*]{0,2}(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL|SEVERE|I|W|E)[\])>*]{0,2}[:\s\d|/\[-]"
    r"|(?:level|lvl|severity)=\w|(?:ts|time|timestamp)=[\"\d]"
)
_TIMESTAMP = re.compile(_TIMESTAMP_PATTERN)


@dataclass(slots=True)
class LogEntries:
    """The pieces of all entries in order, and the index of each entry's first piece.

    Per piece: its span, its number of lines, the share of the entry's score it gets, and whether it is message text
    rather than a frame.
    """

    spans: list[Span] = field(default_factory=list[Span])
    sizes: list[int] = field(default_factory=list[int])
    shares: list[float] = field(default_factory=list[float])
    is_message: list[bool] = field(default_factory=list[bool])
    first_pieces: list[int] = field(default_factory=list[int])

    @property
    def has_cut_entries(self) -> bool:
        """Return True if any entry has more than one piece."""
        return len(self.first_pieces) < len(self.spans)

    def bounds(self) -> list[tuple[int, int]]:
        """Return for each entry the index of its first piece and the index after its last."""
        return list(pairwise([*self.first_pieces, len(self.spans)]))


def is_entry_start(line: str) -> bool:
    """Return True if the line begins like an entry."""
    return _ENTRY_START.match(line) is not None


def has_timestamp(line: str) -> bool:
    """Return True if the line begins with a time."""
    return _TIMESTAMP.match(line) is not None


def find_entry(text: str, offset: int) -> int:
    """Return the offset of the first entry that begins behind an offset; the length of the text without one."""
    return thinning.find_line(
        text, offset, lambda text, start: _ENTRY_START.match(text, start, start + MAX_START_CHARACTERS)
    )


def parse_entries(text: str, weights: LogWeights) -> LogEntries:
    """Group lines into entries, and cut entries with long stack traces into pieces."""
    spans = lines.find_line_spans(text)
    entries = LogEntries()
    for first, after in pairwise([*_find_entry_starts(text, spans, weights.max_entry_lines), len(spans)]):
        entries.first_pieces.append(len(entries.spans))
        if after - first < weights.min_cut_lines or not _cut_stack_trace(text, spans[first:after], entries, weights):
            entries.spans.append((spans[first][0], spans[after - 1][1]))
            entries.sizes.append(after - first)
            entries.shares.append(1.0)
            entries.is_message.append(True)
    return entries


def _find_entry_starts(text: str, spans: Sequence[Span], max_lines: int) -> list[int]:
    starts: list[int] = []
    for index, (start, end) in enumerate(spans):
        is_full = not starts or index - starts[-1] >= max_lines
        if is_full or _ENTRY_START.match(text, start, min(end, start + MAX_START_CHARACTERS)):
            starts.append(index)
    return starts


def _cut_stack_trace(text: str, spans: Sequence[Span], entries: LogEntries, weights: LogWeights) -> bool:
    """Add the pieces of an entry with a stack trace; return False if it has none."""
    trace = stack_traces.group_frames(text, spans, keep_carets=True)
    if sum(map(bool, trace.frames)) < weights.min_frames:
        return False
    scores = stack_traces.score_frames(trace, range(len(trace.spans)), weights)
    entries.spans += trace.spans
    entries.sizes += trace.sizes
    entries.is_message += [not frame for frame in trace.frames]
    entries.shares += [
        weights.frame_share * score / weights.failure_frame_score if frame else 1.0
        for frame, score in zip(trace.frames, scores, strict=True)
    ]
    return True


def extract_entry_templates(text: str, entries: LogEntries, weights: LogWeights) -> list[str]:
    """Return the template of each entry: of its first line with its HTTP status, or of the messages of its trace."""
    firsts = [entries.spans[first] for first in entries.first_pieces]
    templates = lines.extract_templates(text, firsts)
    for index, status in severity.find_http_statuses(text, firsts).items():
        templates[index] = f"{status} {templates[index]}"  # its number is not variable
    if entries.has_cut_entries:
        for index, (first, after) in enumerate(entries.bounds()):
            if after - first > 1:
                messages = [entries.spans[piece] for piece in range(first, after) if entries.is_message[piece]]
                templates[index] = "\n".join(
                    lines.extract_templates(text, messages[: weights.max_template_lines], with_places=False)
                )
    return templates


def compute_entry_share(sample: str, weights: LogWeights) -> float:
    """Return the share of entries among the lines that are neither indented nor part of a stack trace."""
    flush_lines = [line for line in sample.split("\n")[:-1] or [sample] if line and not line[0].isspace()]
    fields = [line for line in flush_lines if ":" in line[:40] and _TIME_FIELD.match(line)]
    total = len(flush_lines)
    if total < weights.min_lines:
        return 0.0
    starts = sum(map(is_entry_start, flush_lines)) - sum(map(is_entry_start, fields))
    is_doubtful = weights.min_doubtful_share * total <= starts < weights.min_entry_share * total
    if is_doubtful and sum(map(has_timestamp, flush_lines)) >= weights.min_lines:
        return starts / (total - _count_trace_lines(sample))
    return starts / total


def _count_trace_lines(sample: str) -> int:
    """Count the lines of stack traces that are not indented and do not begin like entries."""
    trace = stack_traces.group_frames(sample, lines.find_line_spans(sample))
    trace_lines = [sample[slice(*trace.spans[index])] for index in stack_traces.find_trace_lines(trace)]
    return sum(not line[0].isspace() and not is_entry_start(line) for line in trace_lines)
