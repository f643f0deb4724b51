"""Text inside other text: a build log behind a prefix on every line, and long strings inside a small JSON document.

The text inside is compressed as its own kind. The job, the step or the service that begins every line is shown once
instead, and a time stays in front of the lines that are kept. The small fields of a JSON document stay, and its long
strings are shown decoded.
"""

import ast
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import NamedTuple

import orjson

from ..compressor import CompressedPassage, Compressor, Gap, Task
from ..markers import render
from .core import severity
from .json import tree

MIN_LINES = 20  # of a text with prefixes
MIN_PREFIXED_SHARE = 0.95  # of its lines
MAX_SECTIONS = 12  # more sections interleave, and their lines keep their prefixes
MIN_STRING_CHARACTERS = 400  # of a string with text inside
MIN_STRING_LINES = 4
MAX_FRAME_SHARE = 0.25  # of a JSON document around its long strings
MAX_FRAME_CHARACTERS = 2_000
MIN_BLOCK_CHARACTERS = 400  # of a JSON document between other lines
MAX_TEXT_SHARE = 0.5  # of other lines around JSON documents
MAX_JSON_ATTEMPTS = 20
SAMPLE_LINES = 60

_ISO_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3,9}(?:Z|[+-]\d\d:?\d\d)?"
_PREFIXES = (  # group 1 names the section, group 2 is the time
    re.compile(rf"([^\t\n]{{1,100}}\t[^\t\n]{{1,100}})\t\ufeff?({_ISO_TIME}(?: |$))"),  # job and step
    re.compile(rf"()\ufeff?(\[?{_ISO_TIME}\]?(?: \d\d[OE]\+?)?(?: |$))"),
    re.compile(r"()(\[?\d\d:\d\d:\d\d(?:[.,]\d{1,6})?\]?(?: {1,2}|$))"),
    re.compile(r"(#\d{1,4}) (\d{1,6}\.\d{1,4}(?: |$))"),  # a step of an image build
    re.compile(r"([A-Za-z][\w.-]{0,60}) {1,40}\|(?: ()|$)"),  # a service
    re.compile(r"(npm (?:ERR!|error|warn))(?: ()|$)"),
    re.compile(r"(@?[a-z/][\w./@-]{0,80}:[a-z][\w./-]{0,40}(?::[a-z][\w./-]{0,40})?):(?: ()|$)"),  # package and task
)
_BUILD_COMMAND = re.compile(
    r"^(?:##\[(?:group|error|section|command)\]|::(?:group|error)|section_start:)", re.MULTILINE
)
_HTTP_HEADERS = re.compile(r"(?:HTTP/\d[^\n]{0,200}\n(?:[\w-]{1,80}:[^\n]{0,8000}\n){0,200}\r?\n){1,8}")
_JSON_BLOCK = re.compile(r"^[ \t]{0,8}(?=[{\[])", re.MULTILINE)
_JSON_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_REPR_STRING = re.compile(r"""(?<![\w'"])(?:'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+")""")
_REPR_FRAME = re.compile(r"[\s{}\[\](),:\w.+-]*")
_OUTPUT_TAGS = "output|stdout|stderr|output_head|output_tail|result"
_TAGGED_OUTPUT = re.compile(
    r"\s*(?:<(?:return_?code|exit_?code|status|exception|command|warning)>[^<]{0,400}</[a-z_]{1,20}>\s*)*"
    rf"<(?:{_OUTPUT_TAGS})>"
)
_OUTPUT_TAG = re.compile(rf"<({_OUTPUT_TAGS})>\n?")


class Section(NamedTuple):
    """A text inside, the piece of the outer text to show before it, and the time in front of each of its lines."""

    before: str
    text: str
    times: Sequence[str] = ()


class Envelope(NamedTuple):
    """The sections of an outer text, and the piece to show after them."""

    sections: list[Section]
    after: str = ""


class EnvelopeCompressor:
    """Compresses each section of an envelope as its own kind; has the name of the longest section's compressor."""

    def __init__(self, name: str, find_compressor: Callable[[str], Compressor]) -> None:
        self.name = name
        self._find_compressor = find_compressor

    def recognises(self, text: str) -> bool:
        """Return True if the text is an envelope."""
        return open_envelope(text) is not None

    def compress(self, task: Task) -> CompressedPassage | None:
        """Compress the sections, each to its share of the target."""
        envelope = open_envelope(task.text)
        if envelope is None:
            return None
        frame = [section.before for section in envelope.sections] + [envelope.after]
        target = max(1, task.target - sum(map(task.count, frame)))
        characters = sum(len(section.text) for section in envelope.sections)
        parts: list[str | Gap] = []
        total = 0
        units: set[str] = set()
        for section in envelope.sections:
            share = target * len(section.text) / max(1, characters)
            share *= len(section.text) / max(1, len(section.text) + sum(map(len, section.times)))
            inner = self._compress_section(
                Task(section.text, task.question, max(1, int(share)), task.count, task.fills_target)
            )
            parts += [section.before] if section.before else []
            parts += _restore_times(section, inner.parts)
            total += inner.total
            units.add(inner.unit)
        parts += [envelope.after] if envelope.after else []
        outcome = CompressedPassage(tuple(parts), total, units.pop() if len(units) == 1 else "parts")
        return outcome if task.count(render(outcome, None)) < task.count(task.text) else None

    def _compress_section(self, task: Task) -> CompressedPassage:
        compressor = self._find_compressor(task.text)
        inner = compressor.compress(task)
        if inner is None:
            size = sum(map(bool, map(str.strip, task.text.split("\n"))))
            return CompressedPassage((task.text,), size, "lines")
        return inner


def _restore_times(section: Section, parts: Sequence[str | Gap]) -> Sequence[str | Gap]:
    """Return the kept pieces with the times in front of their lines; unchanged if they are not verbatim."""
    if not any(section.times):
        return parts
    starts = list(accumulate((len(line) + 1 for line in section.text.split("\n")), initial=0))
    restored: list[str | Gap] = []
    position = 0
    for part in parts:
        if not isinstance(part, str):
            restored.append(part)
            continue
        start = section.text.find(part, position)
        if start < 0:
            return parts
        position = start + len(part)
        first = bisect_right(starts, start) - 1
        is_whole = not section.text[starts[first] : start].strip()
        lines = part.split("\n")
        times = ["" if index == 0 and not is_whole else section.times[first + index] for index in range(len(lines))]
        restored.append("\n".join(map("".join, zip(times, lines, strict=True))))
    return restored


def find_inner_text(text: str) -> str | None:
    """Return the longest section of an envelope; None for other text."""
    envelope = open_envelope(text)
    return max((section.text for section in envelope.sections), key=len) if envelope is not None else None


def open_envelope(text: str) -> Envelope | None:
    """Return the sections of a text with other text inside; None for other text."""
    if tree.is_parsable(text):
        return _split_strings(text, _JSON_STRING)
    return (
        _split_headers(text)
        or _open_repr(text)
        or _split_tags(text)
        or _split_json_blocks(text)
        or _peel_prefixes(text)
    )


def _split_headers(text: str) -> Envelope | None:
    """Split an HTTP answer into its headers and its body."""
    match = _HTTP_HEADERS.match(text)
    if match is None or not text[match.end() :].strip():
        return None
    return Envelope([Section("", match[0]), Section("", text[match.end() :])])


def _split_json_blocks(text: str) -> Envelope | None:
    """Split a text that consists mostly of JSON documents with other lines around them."""
    sections: list[Section] = []
    end = position = framed = attempts = 0
    while attempts < MAX_JSON_ATTEMPTS and len(sections) < MAX_SECTIONS:
        opening = _JSON_BLOCK.search(text, position)
        if opening is None:
            break
        attempts += 1
        position = opening.end() + 1
        after = tree.find_value_end(text, opening.end())
        if after - opening.end() < MIN_BLOCK_CHARACTERS:
            continue
        if text[end : opening.end()].strip():
            sections.append(Section("", text[end : opening.end()]))
            framed += opening.end() - end
        sections.append(Section("", text[opening.end() : after]))
        end = position = after
    framed += len(text) - end
    if not end or framed > MAX_TEXT_SHARE * len(text):
        return None
    return Envelope([*sections, Section("", text[end:])] if text[end:].strip() else sections)


def _peel_prefixes(text: str) -> Envelope | None:
    """Split a text with a prefix on every line into runs of one prefix; None if the prefix tells lines apart."""
    lines = text.split("\n")
    sample = [line for line in lines[: 2 * SAMPLE_LINES] if line.strip()][:SAMPLE_LINES]
    if len(lines) < MIN_LINES or len(sample) < MIN_LINES:
        return None
    for pattern in _PREFIXES:
        if sum(pattern.match(line) is not None for line in sample) >= MIN_PREFIXED_SHARE * len(sample):
            return _split_sections(lines, pattern)
    return None


def _split_sections(lines: list[str], pattern: re.Pattern[str]) -> Envelope | None:
    rows: list[tuple[str, str, str]] = []
    unmatched = 0
    for line in lines:
        match = pattern.match(line)
        unmatched += match is None and not line.isspace() and line != ""
        name = match[1] if match is not None else rows[-1][0] if rows else ""
        time = (match[2] or "") if match is not None else ""
        rows.append((name, line[match.end() :] if match is not None else line, time))
    runs: list[Section] = []
    for name, run in groupby(rows, key=itemgetter(0)):
        group = list(run)
        runs.append(Section(name, "\n".join(row[1] for row in group), [row[2] for row in group]))
    if unmatched > (1 - MIN_PREFIXED_SHARE) * len(lines) or len(runs) > MAX_SECTIONS:
        return None
    inner = "\n".join(section.text for section in runs)
    is_build = _BUILD_COMMAND.search(inner) is not None or severity.is_report(inner)
    return Envelope(runs) if runs[0].before or is_build else None


def _split_tags(text: str) -> Envelope | None:
    """Split the output of a command in tags, such as `<returncode>0</returncode><output>...</output>`."""
    if not _TAGGED_OUTPUT.match(text):
        return None
    inner: list[tuple[int, int, str]] = []
    position = 0
    while len(inner) < MAX_SECTIONS and (opening := _OUTPUT_TAG.search(text, position)) is not None:
        position = text.find(f"</{opening[1]}>", opening.end())
        if position < 0:
            return None
        if position - opening.end() >= MIN_STRING_CHARACTERS:
            inner.append((opening.end(), position, text[opening.end() : position].rstrip("\n")))
    return _frame_sections(text, inner)


def _frame_sections(text: str, inner: Sequence[tuple[int, int, str]]) -> Envelope | None:
    """Return texts inside, given with their bounds, as sections; None if too much other text is around them."""
    framed = len(text) - sum(end - start for start, end, _ in inner)
    if not inner or framed > min(MAX_FRAME_SHARE * len(text), MAX_FRAME_CHARACTERS):
        return None
    bounds = [0, *(bound for start, end, _ in inner for bound in (start, end))]
    frames = [text[start:end].strip("\n") for start, end in zip(bounds[::2], bounds[1::2], strict=False)]
    sections = [Section(frame, section) for frame, (_, _, section) in zip(frames, inner, strict=True)]
    return Envelope(sections, text[bounds[-1] :].strip("\n"))


def _open_repr(text: str) -> Envelope | None:
    """Split a dictionary or list as Python prints it, which consists mostly of long strings with lines inside."""
    if text.lstrip()[:1] not in ("{", "[") or "'" not in text or not _REPR_FRAME.fullmatch(_REPR_STRING.sub("", text)):
        return None
    return _split_strings(text, _REPR_STRING)


def _split_strings(text: str, pattern: re.Pattern[str]) -> Envelope | None:
    """Split a document that consists mostly of long strings with lines or JSON inside."""
    if len(text) < MIN_STRING_CHARACTERS:
        return None
    inner: list[tuple[int, int, str]] = []
    for match in pattern.finditer(text):
        if match.end() - match.start() >= MIN_STRING_CHARACTERS and len(inner) < MAX_SECTIONS:
            decoded = _decode_text(match[0])
            if decoded is not None:
                inner.append((match.start() + 1, match.end() - 1, decoded))
    return _frame_sections(text.rstrip(), inner)


def _decode_text(literal: str) -> str | None:
    """Return the text of a JSON or Python string with several lines, or with JSON inside; None for other strings."""
    starts_json = literal[1:].lstrip()[:1] in {"{", "["}
    if literal.count("\\n") < MIN_STRING_LINES and not starts_json:
        return None
    try:
        inner: str = orjson.loads(literal)
    except orjson.JSONDecodeError:  # Python's
        inner = ast.literal_eval(literal)
    return inner if inner.count("\n") >= MIN_STRING_LINES or tree.is_parsable(inner) else None
