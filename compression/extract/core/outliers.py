"""Finds outliers in a column of literals: rare values, and numbers far from the others.

Linear in the number of values, except for one sort; reports only a few of many values.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .base_weights import ExtractWeights, weight

EMPTY_LITERAL = ""  # a missing value
UNIT_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}

_QUANTITY = re.compile(r"[$€£]?(-?\d[\d,]{0,20}(?:\.\d+)?)\s?(?:([kKMGTPgtp]|m(?=i?[bB]))?i?[bB]?%?|(m))")
_DURATION = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
_UNIT_DURATION = re.compile(r"(?=\d)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?|(\d+(?:\.\d+)?) ?ms")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d))?)?(?![\d:]).{0,16}")
_VERSION = re.compile(r"v?(\d{1,6})(?:\.\d{1,9}){1,3}(?:[-+.]\S{1,40})?")
_SHAPE_PARTS = re.compile(r"[a-z]+|[A-Z]+|\d+")


@dataclass(frozen=True, slots=True)
class OutlierWeights(ExtractWeights):
    """Weights of content types with columns of values."""

    min_values: int = weight(8, "column length that allows outliers", "values")
    rarity_factor: float = weight(2.0, "average frequency over the frequency of a rare value, at least", "factor")
    quartile_factor: float = weight(4.0, "distance of a far number from the quartiles", "interquartile ranges")
    max_odd_share: float = weight(0.05, "values of another form than the others, at most", "share of values")
    max_far_numbers: int = weight(3, "far numbers of a column, plus one per hundred values", "values")


DEFAULT_OUTLIER_WEIGHTS = OutlierWeights()


def find_outliers(values: Sequence[str], weights: OutlierWeights) -> list[int]:
    """Return the indices of the outliers in order; skip missing values."""
    indices, filled = _list_filled(values)
    return [indices[position] for position in _find_rare_values(filled, weights)]


def find_extremes(values: Sequence[str], weights: OutlierWeights) -> list[int]:
    """Return the first indices of the least and of the greatest number; nothing unless all values are numbers."""
    indices, numbers = _parse_filled(values)
    if len(set(numbers)) < weights.min_values:
        return []
    return sorted({indices[numbers.index(min(numbers))], indices[numbers.index(max(numbers))]})


def rank_numbers(values: Sequence[str], count: int, *, least: bool) -> list[int]:
    """Return the indices of the greatest numbers, or of the least ones; nothing unless all values are numbers."""
    indices, numbers = _parse_filled(values)
    order = sorted(range(len(numbers)), key=numbers.__getitem__, reverse=not least)
    return [indices[position] for position in order[:count]]


def find_outlying_numbers(values: Sequence[str]) -> list[int]:
    """Return the indices of the few numbers far from the others."""
    return _find_far_numbers(list(map(float, values)), DEFAULT_OUTLIER_WEIGHTS) if len(set(values)) > 1 else []


def is_quantity(value: str) -> bool:
    """Return True for a number, perhaps with a unit: `1,204`, `37%`, `1.5GiB`."""
    return value.isdecimal() or _QUANTITY.fullmatch(value) is not None


def parse_numbers(values: Sequence[str]) -> list[float]:
    """Return the values as numbers; raise `ValueError` for any other text.

    Reads `1,204`, `37%`, `1.5 GiB`, `250m` (a fraction, unless the others are times), `7:53.61`, `2d11h` and ISO dates.
    """
    for parse in (float, _parse_quantity, _parse_date):
        try:
            return list(map(parse, values))
        except ValueError:
            continue
    return list(map(_parse_duration, values))


def _parse_quantity(value: str) -> float:
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(value)
    return float(match[1].replace(",", "")) * (UNIT_FACTORS[(match[2] or "").lower()] if match[3] is None else 1e-3)


def _parse_date(value: str) -> float:
    match = _DATE.fullmatch(value)
    if match is None:
        raise ValueError(value)
    return float("".join([part or "00" for part in match.groups()]))


def _parse_duration(value: str) -> float:
    match = _DURATION.fullmatch(value) or _UNIT_DURATION.fullmatch(value)
    if match is None:
        raise ValueError(value)
    days, hours, minutes, seconds, *milliseconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds + sum(milliseconds) / 1000


def _list_filled(values: Sequence[str]) -> tuple[Sequence[int], Sequence[str]]:
    """Return the values that are not missing, behind their indices."""
    if EMPTY_LITERAL not in values:
        return range(len(values)), values
    indices = [index for index, value in enumerate(values) if value]
    return indices, [values[index] for index in indices]


def _parse_filled(values: Sequence[str]) -> tuple[Sequence[int], list[float]]:
    """Return the values that are not missing as numbers, behind their indices; nothing if one is no number."""
    indices, filled = _list_filled(values)
    try:
        return indices, parse_numbers(filled)
    except ValueError:
        return [], []


def _find_rare_values(values: Sequence[str], weights: OutlierWeights) -> list[int]:
    if len(values) < weights.min_values:
        return []
    counts = Counter(values)
    if len(counts) <= max(3, len(values) // 5):
        limit = min(max(1, len(values) // 20), len(values) / len(counts) / weights.rarity_factor)
        rare = {value for value, frequency in counts.items() if frequency <= limit}
        return [index for index, value in enumerate(values) if value in rare] if rare else []
    try:
        return _find_far_numbers(list(map(float, values)), weights)
    except ValueError:
        pass
    versions = [match for match in map(_VERSION.fullmatch, values) if match] if _VERSION.fullmatch(values[0]) else []
    far = _find_far_numbers([float(match[1]) for match in versions], weights) if len(versions) == len(values) else []
    return sorted({*far, *_find_rare_shapes(values, weights)})


def _find_rare_shapes(values: Sequence[str], weights: OutlierWeights) -> list[int]:
    """Return the values of another form than nearly all others: `1.4.0-SNAPSHOT` among `1.3.2` and `1.12.0`.

    In a short column these may be two or three: `Active` and `Idle (Admin)` among 30 numbers.
    """
    shapes = _SHAPE_PARTS.sub("a", "\0".join(values)).split("\0")  # many times as fast as one by one
    shape, frequency = Counter(shapes).most_common(1)[0]
    limit = max(len(values) * weights.max_odd_share, min(weights.max_far_numbers, len(values) // 8))
    if len(shapes) != len(values) or len(values) - frequency > limit:
        return []
    return [index for index, other in enumerate(shapes) if other != shape]


def _find_far_numbers(numbers: Sequence[float], weights: OutlierWeights) -> list[int]:
    ranked = sorted(numbers)
    low, high = ranked[len(ranked) // 4], ranked[-1 - len(ranked) // 4]
    reach = weights.quartile_factor * (high - low)
    least, greatest = low - reach, high + reach
    if ranked[0] >= least and ranked[-1] <= greatest:
        return []
    indices = [index for index, number in enumerate(numbers) if not least <= number <= greatest]
    median = ranked[len(ranked) // 2]
    limit = weights.max_far_numbers + len(numbers) // 100
    return sorted(sorted(indices, key=lambda index: -abs(numbers[index] - median))[:limit])
