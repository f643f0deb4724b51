"""Lines of a text: their spans, their templates, and the verdicts among them."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import severity
from .base_weights import ExtractWeights, weight
from .bm25 import Span

MAX_LINE_CHARACTERS = 1_000  # a longer line is cut into pieces
MAX_LINE_CHARACTERS_OF_FEW = 350  # the same limit in a text of few lines
MIN_CUT_CHARACTERS = 120  # no shorter line is cut
FEW_LINES = 4
PIECE_CHARACTERS = 300
MAX_ELEMENT_CHARACTERS = 120  # a longer line of XML is cut at its elements
MIN_RECORDS = 3  # in a line that is cut at its records
MAX_BAR_CHARACTERS = 400  # one state of a progress bar
MAX_TEMPLATE_CHARACTERS = 300
MAX_SAMPLE_LINES = 300
CENTRING_BLANKS = 100 * " "  # before a centred title; as many columns of indentation mean nothing
TRAILING_BLANKS = 2 * " "
MIN_WRAPPED_WIDTH, MAX_WRAPPED_WIDTH = 60, 100  # of wrapped text, in columns
WRAPPED_SLACK = 2  # columns

_ELEMENT_START = re.compile(r"(?<=>)(?=<[A-Za-z])")
_RECORD_START = re.compile(r"(?<=[}\])],) ?(?=[{\[(])")
_LONG_LINE_PIECE = re.compile(rf"(?s).{{1,{PIECE_CHARACTERS}}}(?:[\s,;}}\])>]|\Z)|.{{{PIECE_CHARACTERS}}}")
_CONTINUATION = re.compile(r"([ \t]*)([a-z][^\s:=|]*)(?= )")
_HINT = re.compile(
    r"[ \t]*\([A-Za-z][^\n]*\)\s*$|hint: "
)  # `(use "git add <file>..." to update what will be committed)`
_PROGRESS_BAR = re.compile(r"\d ?%|\d/\d|[\u2580-\u259f#=>.-]{4}|\d ?[kKMG]i?B")
_FILE_LOCATION = re.compile(  # begins with a set, which `re` searches fast
    r"[\w./\\@~+-](?<![\w./\\@~+-].)[\w./\\@~+-]{0,199}+:\d{1,7}(?::\d{1,7}|:in [`'][^'\n]{1,100}')?"
)
_VARIABLE_PART = re.compile(  # numbers, times, addresses, hexadecimal ids; begins with a set, which `re` searches fast
    r"[a-fA-F\d](?:(?<=\d)|[a-fA-F]{0,6}\d)[\w.:/\-]*"
)


@dataclass(frozen=True, slots=True)
class LineWeights(ExtractWeights):
    """Weights of content types made of lines that report something."""

    min_target: int = weight(120, "size that may be kept at any target", "tokens")
    min_score: float = weight(0.1, "a unit worth its tokens; times the root of its rank among look-alikes")
    rarity_weight: float = weight(0.35, "a unique template; divided by 1 + log(frequency)")
    severity_scores: tuple[float, ...] = weight((0.0, 0.05, 0.5, 1.0), "no grade, warning, error, verdict")
    edge_bonus: float = weight(0.5, "the first and the last unit")
    max_verdict_share: float = weight(0.6, "verdicts kept at any target, at most", "share of text")
    max_alike_verdicts: int = weight(8, "verdicts that differ only in numbers and locations", "lines")


def find_line_spans(text: str) -> list[Span]:
    """Return the non-blank lines without their line ends; cut over-long lines into pieces.

    A long line of XML is cut at its elements, a long line of records such as `{...}, {...}` between them. Of a progress
    bar that overwrites itself with carriage returns, only the last state is returned.
    """
    spans: list[Span] = []
    start = 0
    has_carriage_returns = "\r" in text
    lines = text.split("\n")
    limit = MAX_LINE_CHARACTERS if sum(map(bool, lines)) > FEW_LINES else MAX_LINE_CHARACTERS_OF_FEW
    is_xml = text.startswith(("<", "\ufeff<"))
    for line in lines:
        end = start + len(line)
        if line and not line.isspace():
            first = start + _find_visible_start(line) if has_carriage_returns and "\r" in line.rstrip() else start
            if line.startswith(CENTRING_BLANKS):
                first = max(first, start + len(line) - len(line.lstrip()))
            end = start + len(line.rstrip()) if line.endswith(TRAILING_BLANKS) else end
            if is_xml and end - first > MAX_ELEMENT_CHARACTERS:
                for piece in _split_records(_ELEMENT_START, text, (first, end)):
                    spans.extend(_split_long_line(text, piece) if piece[1] - piece[0] > limit else [piece])
            elif end - first > limit:
                spans.extend(_split_long_line(text, (first, end)))
            else:
                spans.append((first, end))
        start += len(line) + 1
    return spans


def find_block_starts(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the lines behind a blank line, and of the first line."""
    behind_blank = [
        index
        for index, ((_, end), (start, _)) in enumerate(pairwise(spans), start=1)
        if start - end > 1 and text.count("\n", end, start) > 1
    ]
    return [0, *behind_blank] if spans else []


def find_pieces(text: str, spans: Sequence[Span]) -> list[bool]:
    """Return for each span whether it continues the line of the one before."""
    pieces = [text.find("\n", before[1], span[0]) < 0 for before, span in pairwise(spans)]
    return [False, *pieces] if spans else []


def has_pieces(text: str, spans: Sequence[Span]) -> bool:
    """Return True if a line is cut into several spans."""
    return any(find_pieces(text, spans))


def _find_visible_start(line: str) -> int:
    """Return the offset of the text that a terminal still shows."""
    start = 0
    while 0 <= (end := line.find("\r", start)) <= start + MAX_BAR_CHARACTERS:
        is_bar = end == start or line[start:end].isspace() or _PROGRESS_BAR.search(line, start, end)
        if not is_bar or not line[end : end + MAX_BAR_CHARACTERS].strip():
            break
        start = end + 1
    return start


def _split_records(pattern: re.Pattern[str], text: str, span: Span) -> list[Span]:
    """Split a line where the pattern matches."""
    starts = [span[0], *(match.end() for match in pattern.finditer(text, *span)), span[1]]
    return [(start, end) for start, end in pairwise(starts) if not text[start:end].isspace()]


def _split_long_line(text: str, span: Span) -> Iterator[Span]:
    records = _split_records(_RECORD_START, text, span)
    if len(records) >= MIN_RECORDS:
        for record in records:
            yield from _split_characters(text, record) if record[1] - record[0] > MAX_LINE_CHARACTERS else [record]
        return
    yield from _split_characters(text, span)


def _split_characters(text: str, span: Span) -> Iterator[Span]:
    start, end = span
    for match in _LONG_LINE_PIECE.finditer(text, start, end):
        if not match[0].isspace():
            yield match.span()


def join_wrapped(text: str, spans: Sequence[Span], firsts: Sequence[int], max_characters: int) -> list[int]:
    """Return the first lines of units, with the lines of a wrapped sentence joined to one unit.

    A line continues the one above if it begins with a small letter, and its first word would not have fit there.
    """
    widths = [len(text[start:end].expandtabs()) for start, end in spans]
    width = max(widths, default=0)
    if not MIN_WRAPPED_WIDTH <= width <= MAX_WRAPPED_WIDTH:
        return list(firsts)
    units = set(firsts)
    joined: list[int] = []
    for line in firsts:
        start, end = spans[line]
        match = _CONTINUATION.match(text, start, end)
        is_wrapped = (
            match is not None
            and line > 0
            and (line + 1 in units or line + 1 == len(spans))
            and widths[line - 1] + len(match[2]) >= width - WRAPPED_SLACK
            and text.count("\n", spans[line - 1][1], start) == 1
            and text.startswith(match[1], spans[line - 1][0])
        )
        if not is_wrapped or end - spans[joined[-1]][0] > max_characters:
            joined.append(line)
    return joined


def find_hints(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the indices of the lines in brackets, and of the hints of git."""
    return [
        index
        for index, (start, end) in enumerate(spans)
        if (text[end - 1] in ") \t\r" or text[start] == "h") and _HINT.match(text, start, end)
    ]


def sample_lines(text: str, characters: int) -> list[str]:
    """Return the first non-blank lines within so many characters."""
    return [line for line in text[:characters].split("\n") if line and not line.isspace()][:MAX_SAMPLE_LINES]


def extract_templates(text: str, spans: Sequence[Span], *, with_places: bool = True) -> list[str]:
    """Return each line with numbers, times and ids replaced by 0, without file locations unless `with_places`."""
    starts = (text[start : min(end, start + MAX_TEMPLATE_CHARACTERS)] for start, end in spans)
    joined = "\n".join([line.replace("\n", " ") for line in starts])
    joined = joined if with_places else _FILE_LOCATION.sub("", joined)
    return [line.strip() for line in _VARIABLE_PART.sub("0", joined).split("\n")] if spans else []


def select_verdicts(text: str, spans: Sequence[Span], grades: Sequence[int], weights: LineWeights) -> list[int]:
    """Return the indices of the verdicts to keep at any target: each wording once, within a share of the text.

    Of verdicts that differ only in numbers and locations, the first ones are kept.
    """
    indices: dict[str, int] = {}
    for index, grade in enumerate(grades):
        if grade == severity.VERDICT:
            indices.setdefault(text[spans[index][0] : spans[index][1]], index)
    template_counts: Counter[str] = Counter()
    budget = weights.max_verdict_share * len(text)
    verdicts: list[int] = []
    templates = extract_templates(text, [spans[index] for index in indices.values()], with_places=False)
    for (line, index), template in zip(indices.items(), templates, strict=True):
        template_counts[template] += 1
        if template_counts[template] <= weights.max_alike_verdicts:
            budget -= len(line)
            if budget < 0:
                break
            verdicts.append(index)
    return verdicts
