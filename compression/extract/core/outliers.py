"""Finds the odd ones among values of one kind: what hardly any other has, and numbers far from all others.

Works on the literals of a column as they stand; knows nothing of where they come from. Linear but for one sort, and
never names more than a few of many.
"""

from collections import Counter
from collections.abc import Sequence

MIN_VALUES = 8  # values from which on one of them can be odd
RARITY_FACTOR = 2.0  # times less often than the values are on average
QUARTILE_FACTOR = 4.0  # times the distance between the quartiles, beyond them
MAX_FAR_NUMBERS = 3  # numbers far from the others, and one more in a hundred; of more than these only the farthest
EMPTY_LITERAL = ""  # the literal of a place where no value is


def find_outliers(values: Sequence[str]) -> list[int]:
    """Return the indices of the odd values, in order; places without a value are passed over."""
    having = _list_filled(values)
    return [
        having[at] for at in _find_rare_values(values if len(having) == len(values) else [values[at] for at in having])
    ]


def find_extremes(values: Sequence[str]) -> list[int]:
    """Return where the least and the greatest number stand first; nothing when not all values are numbers."""
    having = _list_filled(values)
    try:
        numbers = list(map(float, values if len(having) == len(values) else [values[at] for at in having]))
    except ValueError:
        return []
    if len(numbers) < MIN_VALUES or len(set(numbers)) < MIN_VALUES:
        return []
    return sorted({having[numbers.index(min(numbers))], having[numbers.index(max(numbers))]})


def _list_filled(values: Sequence[str]) -> Sequence[int]:
    """Return the places that have a value."""
    return [at for at, value in enumerate(values) if value] if EMPTY_LITERAL in values else range(len(values))


def _find_rare_values(values: Sequence[str]) -> list[int]:
    if len(values) < MIN_VALUES:
        return []
    counts = Counter(values)
    if len(counts) <= max(3, len(values) // 5):
        few = min(max(1, len(values) // 20), len(values) / len(counts) / RARITY_FACTOR)
        rare = {value for value, times in counts.items() if times <= few}
        return [at for at, value in enumerate(values) if value in rare] if rare else []
    try:
        return _find_far_numbers(list(map(float, values)))
    except ValueError:
        return []


def _find_far_numbers(numbers: Sequence[float]) -> list[int]:
    ranked = sorted(numbers)
    low, high = ranked[len(ranked) // 4], ranked[-1 - len(ranked) // 4]
    reach = QUARTILE_FACTOR * (high - low)
    least, greatest = low - reach, high + reach
    if ranked[0] >= least and ranked[-1] <= greatest:
        return []
    found = [at for at, number in enumerate(numbers) if not least <= number <= greatest]
    middle = ranked[len(ranked) // 2]
    most = MAX_FAR_NUMBERS + len(numbers) // 100
    return sorted(sorted(found, key=lambda at: -abs(numbers[at] - middle))[:most])
