"""Finds the fields of JSON records that identify them, and the few records with the worst severity.

Such a record is the one error among a linter's warnings.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from .tree import JsonNode

MIN_VALUES = 5  # of a field whose values are compared
MAX_SEVERE_SHARE = 0.12  # values with the worst severity, at most, or MAX_SEVERE_VALUES
MAX_SEVERE_VALUES = 3
SAMPLED_VALUES = 50  # of a field, to tell whether it is a severity
SAMPLED_CHARACTERS = 50_000  # of the start, to find such fields
MIN_KNOWN_SHARE = 0.6  # values of a field that name a severity
LOW, MEDIUM = 1, 2

_PLACE_KEYS = r"path|file|file_?(?:name|path)|uri|(?:start_?)?line(?:_?(?:no|number))?"
_PLACE_KEY = re.compile(rf'"(?:{_PLACE_KEYS})"', re.IGNORECASE)
_IDENTITY_KEY = re.compile(
    r'"(?:id|_id|uid|uuid|key|name|full_?name|title|number|sha|hash|slug|subject|login|email|target|url|'
    rf'(?:pkg|package|module|host)_?(?:name)?|(?:vulnerability|rule|test)_?id|{_PLACE_KEYS})"',
    re.IGNORECASE,
)
_WORDS = (  # from low to critical
    "info information informational note notice low minor style convention refactor hint debug trace none unknown",
    "warn warning medium moderate",
    "error err high major severe serious fail failed failure errored broken",
    "critical crit fatal emergency emerg alert panic blocker",
)
_HARMLESS_WORDS = "ok pass passed success successful succeeded skip skipped neutral output run start pause cont normal"
_RANKS = dict.fromkeys(_HARMLESS_WORDS.split(), LOW) | {
    word: rank for rank, words in enumerate(_WORDS, LOW) for word in words.split()
}
_NUMBERED_KEYS = frozenset({"severity", "level", "priority"})
_KEYS = (
    *("severity", "Severity", "issue_severity", "level", "Level", "levelname", "log_level", "logLevel", "type", "kind"),
    *("impact", "priority", "PRIORITY", "status", "Status", "result", "outcome", "conclusion", "state", "Action"),
)
_FIELDS = {
    key: re.compile(rf'"({key})"\s{{0,20}}:\s{{0,20}}"?([A-Za-z]{{1,20}}|\d{{1,3}})"?(?=[\s,}}\]])') for key in _KEYS
}


def are_identity(text: str, nodes: Sequence[JsonNode]) -> bool:
    """Return True if one of the members names its record, such as an id or a path."""
    return any(_IDENTITY_KEY.match(text, node.key_start) for node in nodes)


def are_place(text: str, nodes: Sequence[JsonNode]) -> bool:
    """Return True if one of the members is a path or a line, which names a record around its object, too."""
    return any(_PLACE_KEY.match(text, node.key_start) for node in nodes)


def find_severe_values(text: str) -> list[int]:
    """Return the offsets of the members with the worst severity of their field, if they are few of many."""
    sample = text[:SAMPLED_CHARACTERS]
    fields = (field for key, field in _FIELDS.items() if f'"{key}"' in sample)
    return sorted(offset for field in fields for offset in _find_worst(field.finditer(text)))


def _find_worst(found: Iterator[re.Match[str]]) -> Iterator[int]:
    sample = list(islice(found, SAMPLED_VALUES))
    if sum(_rank(match[1].lower(), match[2].lower()) is not None for match in sample) < MIN_KNOWN_SHARE * len(sample):
        return
    matches = [*sample, *found]
    if len(matches) < MIN_VALUES:
        return
    ranks = [_rank(match[1].lower(), match[2].lower()) for match in matches]
    if sum(rank is not None for rank in ranks) < MIN_KNOWN_SHARE * len(ranks):
        return
    worst = max(rank for rank in ranks if rank is not None)
    count = ranks.count(worst)
    is_graded = worst >= MEDIUM and len(set(ranks)) > 1
    if is_graded and count <= max(MAX_SEVERE_VALUES, MAX_SEVERE_SHARE * len(ranks)) and 2 * count < len(ranks):
        yield from (match.start() for match, rank in zip(matches, ranks, strict=True) if rank == worst)


def _rank(key: str, value: str) -> int | None:
    """Return the rank of a severity, higher for worse ones; None for other values."""
    if not value.isdecimal():
        return _RANKS.get(value)
    if key not in _NUMBERED_KEYS:
        return None
    return 1000 - int(value) if key == "priority" else int(value)  # the journal's priority 3 is an error
