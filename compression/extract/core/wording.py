"""Finds units worded unlike most of a formulaic text: the one remark among a hundred routine messages.

A text is formulaic if most of its pairs of adjacent words recur in other units. Running text is not, so that nothing
in it is odd. Linear in the text.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

MIN_UNITS = 12
MIN_WORDS = 4  # plain words of a unit that is compared
MIN_FREQUENCY = 3  # units that make a pair of words common, at least
MIN_FREQUENCY_SHARE = 0.02  # the same, of all units
MIN_COMMON_SHARE = 0.4  # common pairs of the median unit of a formulaic text
ODD_FACTOR = 0.5  # times the share of the median unit: an odd unit has at most this share
MAX_ODD_SHARE = 0.15  # of the units
MAX_UNIT_CHARACTERS = 400

_PLAIN_WORD = re.compile(r"[^\W\d_]?[^\W\d_A-Z]{2,}(?![^\W_])")
_WORD = re.compile(r"[^\W\d]+|\d+")


def find_odd_wordings(units: Sequence[str], min_units: int = MIN_UNITS) -> list[int]:
    """Return the indices of the few units that share hardly any pair of adjacent words with the others."""
    if len(units) < min_units:
        return []
    pairs: list[set[tuple[str, str]]] = []
    for unit in units:
        words = ["0" if word.isdecimal() else word for word in _WORD.findall(unit[:MAX_UNIT_CHARACTERS].lower())]
        is_worded = len(_PLAIN_WORD.findall(unit[:MAX_UNIT_CHARACTERS])) >= MIN_WORDS
        pairs.append(set(pairwise(words)) if is_worded else set())
    frequencies = Counter(pair for unit_pairs in pairs for pair in unit_pairs)
    limit = max(MIN_FREQUENCY, MIN_FREQUENCY_SHARE * len(units))
    shares = {
        index: sum(frequencies[pair] >= limit for pair in unit_pairs) / len(unit_pairs)
        for index, unit_pairs in enumerate(pairs)
        if unit_pairs
    }
    ranked = sorted(shares.values())
    if len(ranked) < min_units or ranked[len(ranked) // 2] < MIN_COMMON_SHARE:
        return []
    max_share = ODD_FACTOR * ranked[len(ranked) // 2]
    odd = [index for index, share in shares.items() if share <= max_share]
    return odd if len(odd) <= max(1, MAX_ODD_SHARE * len(ranked)) else []
