"""Finds offsets at which a long text may be cut without parting a line from the lines that it belongs to.

The structure of the start of the text (see `records`) shows how records begin: behind a blank line, with a certain key,
or at a certain indentation. A way to recognise them is used only if no line inside a record of the sample looks so.
"""

import re

from . import line_keys, lines, records, thinning

SAMPLE_CHARACTERS = 20_000
MIN_LINES = 20  # of the sample
MIN_RECORD_SHARE = 0.01  # of the lines
MAX_BREAK_DISTANCE = 2_000  # between the end of a sample and a blank line

_BLANK_LINE = re.compile(r"\n[ \t\r]{0,8}\n")
_LEAD = re.compile(r"[ \t│├└─┬╷╵|`+\\\u00a0]*(?:- )?")
_ROOT_LINE = re.compile(r"\n(?=[^\s│├└─┬╷╵|`+\\})\]-])")
_NO_START = frozenset(("}", ")", "]", "\n", "\r", ""))
Signature = tuple[object, ...]


class RecordStarts:
    """The starts of records in a text; `is_known` is False if the sample shows no way to recognise them.

    `roots`: the offsets of the lines above all records, such as `items:`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.roots: list[int] = []
        self._signatures: set[Signature] = set()
        self._sign = _sign_lead
        is_cut = text.startswith(("<", "\ufeff<")) and max(map(len, text.split("\n"))) > lines.MIN_CUT_CHARACTERS
        self.is_known = not is_cut and self._learn(_read_sample(text))

    def find_cut(self, offset: int) -> int:
        """Return the offset of the first record that begins at or behind an offset; the text's length without one."""
        text, sign, signatures = self.text, self._sign, self._signatures
        return thinning.find_line(text, offset, lambda text, start: sign(text, start) in signatures)

    def _learn(self, sample: str) -> bool:
        spans = lines.find_line_spans(sample)
        if len(spans) < MIN_LINES:
            return False
        structure = records.find_structure(sample, spans)
        depths = records.measure_depths(structure)
        is_inner = [is_closer or index in structure.comments for index, is_closer in enumerate(structure.closers)]
        depth = 0
        while sum(other <= depth for other in depths) < MIN_RECORD_SHARE * len(spans):
            leads = [
                {_read_lead(sample, spans[index][0]) for index, other in enumerate(depths) if other == level}
                for level in (depth, depth + 1)
            ]
            if leads[0] & leads[1]:
                break  # a record opens at the indentation of its lines
            depth += 1
        starts = [span[0] for index, span in enumerate(spans) if depths[index] == depth and not is_inner[index]]
        others = [span[0] for index, span in enumerate(spans) if depths[index] != depth or is_inner[index]]
        if depth:
            self.roots = [match.end() for match in _ROOT_LINE.finditer(self.text)]
            if any(_read_lead(sample, span[0]) for index, span in enumerate(spans) if depths[index] < depth):
                return False
        for sign in (_sign_block, _sign_lead, _sign_key):
            self._sign = sign
            self._signatures = {sign(sample, start) for start in starts} - {()}
            signed = sum(sign(sample, start) in self._signatures for start in starts)
            is_clear = not any(sign(sample, start) in self._signatures for start in others)
            if is_clear and signed >= MIN_RECORD_SHARE * len(spans):
                return True
        return False


def _read_sample(text: str) -> str:
    """Return whole paragraphs, or at least whole lines, of the start, the middle and the end of a text."""
    size = SAMPLE_CHARACTERS
    if len(text) <= size:
        return text
    slices = ((0, size // 2), (len(text) // 2, len(text) // 2 + size // 4), (len(text) - size // 4, len(text)))
    return "".join(text[_find_break(text, start) : _find_break(text, end)] for start, end in slices)


def _find_break(text: str, offset: int) -> int:
    """Return the offset behind the next blank line, if one is near, or else behind the next line end."""
    if offset in (0, len(text)):
        return offset
    blank = _BLANK_LINE.search(text, offset, offset + MAX_BREAK_DISTANCE)
    return blank.end() if blank is not None else text.find("\n", offset) + 1 or len(text)


def _sign_block(text: str, start: int) -> Signature:
    """Return the indentation of a line behind a blank line."""
    is_behind_blank = text[max(0, start - 2) : start] == "\n\n" or text.endswith("\n\r\n", 0, start)
    return (_read_lead(text, start),) if is_behind_blank else ()


def _sign_lead(text: str, start: int) -> Signature:
    """Return the indentation of a line."""
    lead = _read_lead(text, start)
    content = start + len(lead)
    return () if text[content : content + 1] in _NO_START or text.startswith("</", content) else (lead,)


def _sign_key(text: str, start: int) -> Signature:
    """Return the indentation and the key of a line."""
    content = start + len(_read_lead(text, start))
    key = line_keys.read_key(text, content, len(text))
    return (content - start, key) if key else ()


def _read_lead(text: str, start: int) -> str:
    match = _LEAD.match(text, start)
    return match[0] if match is not None else ""
