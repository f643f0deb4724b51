"""The entries of a log: lines that begin with a time or a level, each with the lines that continue it.

An entry is one piece, unless there is a long stack trace in it: then what is said around that and each frame are pieces
of their own. Pieces are in order and apart; together they hold every line that is not blank.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from . import lines, stack_traces
from .core.bm25 import Span

MAX_ENTRY_LINES = 80  # lines; a longer one is cut there
MIN_CUT_LINES = 5  # lines of an entry from which on its stack trace is cut
MIN_FRAMES = 3
MESSAGE_SHARE, FRAME_SHARE = 1.0, 0.5  # of what an entry is worth: what it says, and where it broke
MAX_TEMPLATE_LINES = 6  # lines around a stack trace by which its entry is known

_TIMESTAMP_PATTERN = (
    r"(?:\S{1,80}\s+){0,3}?[\[(<\"]?(?:"
    r"\d{4}[-/.]\d\d[-/.]\d\d[T _:-]?\s?\d\d?[:.]\d\d|"  # 2015-10-18 18:01
    r"\d\d[-/.]\d\d[-/.]\d{2,4}\s\d\d:\d\d|"  # 17/06/09 20:10
    r"\d{8}[-T ]\d\d:?\d\d|"  # 20171223-22:15
    r"\d{6}\s\d{6}\s|"  # 081109 203615
    r"\d\d[./-]\d\d\s\d\d:\d\d:\d\d|"  # 10.30 16:49:06
    r"\d\d?/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d|"  # 10/Oct/2000:13:55
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),?\s)?(?:\d\d?\s)?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\s{1,2}\d{1,4}\s\d\d:\d\d|"
    r"\d\d:\d\d:\d\d[.,:\s\]]"  # 18:01:47
    r")"
)
_ENTRY_START = re.compile(
    rf"{_TIMESTAMP_PATTERN}"
    r"|[\[(<*]{0,2}(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL|SEVERE|I|W|E)[\])>*]{0,2}[:\s\d|/\[-]"
    r"|(?:level|lvl|severity)=\w|(?:ts|time|timestamp)=[\"\d]"
)
_TIMESTAMP = re.compile(_TIMESTAMP_PATTERN)


@dataclass(slots=True)
class LogEntries:
    """The pieces of all entries in order, and where each entry begins.

    Of each piece: its span, how many lines it has, its share of what its entry is worth. `firsts` are the indices of
    the entries' first pieces.
    """

    spans: list[Span] = field(default_factory=list[Span])
    sizes: list[int] = field(default_factory=list[int])
    shares: list[float] = field(default_factory=list[float])
    first_pieces: list[int] = field(default_factory=list[int])

    @property
    def has_cut_entries(self) -> bool:
        """Say whether any entry is in pieces."""
        return len(self.first_pieces) < len(self.spans)

    def bounds(self) -> list[tuple[int, int]]:
        """Return each entry's first piece and what follows its last."""
        return list(pairwise([*self.first_pieces, len(self.spans)]))


def is_entry_start(line: str) -> bool:
    """Say whether a line begins as an entry does."""
    return _ENTRY_START.match(line) is not None


def has_timestamp(line: str) -> bool:
    """Say whether a line begins with a time."""
    return _TIMESTAMP.match(line) is not None


def parse_entries(text: str) -> LogEntries:
    """Gather lines into entries, and cut those with long stack traces up."""
    written = lines.find_line_spans(text)
    found = LogEntries()
    for first, after in pairwise([*_find_entry_starts(text, written), len(written)]):
        found.first_pieces.append(len(found.spans))
        if after - first < MIN_CUT_LINES or not _cut_stack_trace(text, written[first:after], found):
            found.spans.append((written[first][0], written[after - 1][1]))
            found.sizes.append(after - first)
            found.shares.append(MESSAGE_SHARE)
    return found


def _find_entry_starts(text: str, written: Sequence[Span]) -> list[int]:
    """List the lines with which entries begin."""
    starts: list[int] = []
    for at, (start, end) in enumerate(written):
        if not starts or at - starts[-1] >= MAX_ENTRY_LINES or _ENTRY_START.match(text, start, min(end, start + 400)):
            starts.append(at)
    return starts


def _cut_stack_trace(text: str, own: Sequence[Span], into: LogEntries) -> bool:
    """Add the pieces of an entry with a stack trace in it; false when there is none."""
    cut = stack_traces.group_frames(text, own, keep_carets=True)
    if sum(map(bool, cut.frames)) < MIN_FRAMES:
        return False
    worth = stack_traces.score_frames(text, cut, range(len(cut.spans)))
    into.spans += cut.spans
    into.sizes += cut.sizes
    into.shares += [
        FRAME_SHARE * one / stack_traces.FAILURE_FRAME_SCORE if frame else MESSAGE_SHARE
        for frame, one in zip(cut.frames, worth, strict=True)
    ]
    return True


def extract_entry_templates(text: str, found: LogEntries) -> list[str]:
    """Say what each entry looks like: its first line and, where it is in pieces, what is said around its trace."""
    looks = lines.extract_templates(text, [found.spans[first] for first in found.first_pieces])
    if found.has_cut_entries:
        for at, (first, after) in enumerate(found.bounds()):
            if after - first > 1:
                told = [found.spans[one] for one in range(first, after) if found.shares[one] == MESSAGE_SHARE]
                looks[at] = "\n".join(lines.extract_placeless_templates(text, told[:MAX_TEMPLATE_LINES]))
    return looks
