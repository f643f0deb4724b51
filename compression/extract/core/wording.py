"""Finds units worded unlike most of a formulaic text: the one remark among a hundred routine messages.

A text is formulaic if most of its pairs of adjacent words recur in other units; a sample decides. Running text is not,
so that nothing in it is odd. Linear in the text.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from statistics import median_high

from . import terms

MIN_UNITS = 12
MIN_WORDS = 4  # plain words of a unit that is compared
MIN_FREQUENCY = 3  # units that make a pair of words common, at least
MIN_FREQUENCY_SHARE = 0.02  # the same, of all units
MIN_COMMON_SHARE = 0.4  # common pairs of the median unit of a formulaic text
ODD_FACTOR = 0.5  # times the share of the median unit: an odd unit has at most this share
MAX_ODD_SHARE = 0.15  # of the units
MAX_UNIT_CHARACTERS = 400
SAMPLED_RUNS, RUN_UNITS = 10, 50  # of a long text

_KINDS = bytes(  # `a` for small letters, `0` for other letters and for digits
    ord("a" if chr(code).islower() else "0" if chr(code).isalnum() else "\n" if code == ord("\n") else " ")
    for code in range(128)
).ljust(256)
_WORDS = bytes(  # small letters, `0` for digits
    ord("0" if chr(code).isdigit() else chr(code).lower() if chr(code).isalpha() or chr(code) in "_\n" else " ")
    for code in range(128)
).ljust(256)


def find_odd_wordings(units: Sequence[str], min_units: int = MIN_UNITS) -> list[int]:
    """Return the indices of the few units that share hardly any pair of adjacent words with the others."""
    if len(units) >= 2 * SAMPLED_RUNS * RUN_UNITS:
        starts = range(0, len(units), len(units) // SAMPLED_RUNS)
        sample = [unit for start in starts for unit in units[start : start + RUN_UNITS]]
        if not _is_formulaic(_measure_common_shares(sample), min_units):
            return []
    shares = _measure_common_shares(units)
    if not _is_formulaic(shares, min_units):
        return []
    limit = ODD_FACTOR * median_high(shares.values())
    odd = [index for index, share in shares.items() if share <= limit]
    return odd if len(odd) <= max(1, MAX_ODD_SHARE * len(shares)) else []


def _is_formulaic(shares: dict[int, float], min_units: int) -> bool:
    return len(shares) >= min_units and median_high(shares.values()) >= MIN_COMMON_SHARE


def _measure_common_shares(units: Sequence[str]) -> dict[int, float]:
    """Return the share of each unit's pairs that are common; of units with enough plain words."""
    starts = [unit[:MAX_UNIT_CHARACTERS].replace("\n", " ") for unit in units]
    kinds = terms.translate_ascii(" \n".join(starts) + " ", _KINDS, _list_kinds).split("\n")
    compared = [index for index, kind in enumerate(kinds) if kind.count("aa ") >= MIN_WORDS]
    pairs = [set(pairwise(words)) for words in _read_words([starts[index] for index in compared])]
    frequencies = Counter(chain.from_iterable(pairs))
    limit = max(MIN_FREQUENCY, MIN_FREQUENCY_SHARE * len(units))
    common = {pair for pair, count in frequencies.items() if count >= limit}
    return {
        index: len(unit_pairs & common) / len(unit_pairs)
        for index, unit_pairs in zip(compared, pairs, strict=True)
        if unit_pairs
    }


def _list_kinds(run: str) -> str:
    return "".join([" " if not terms.WORD.match(letter) else "0" if letter.isdecimal() else "a" for letter in run])


def _read_words(units: Sequence[str]) -> list[list[str]]:
    """Return the words of each unit in small letters, with `0` for each number."""
    plain = terms.translate_ascii("\n".join(units), _WORDS, _blank_others)
    while "00" in plain:
        plain = plain.replace("00", "0")
    return [unit.split() for unit in plain.replace("0", " 0 ").split("\n")] if units else []


def _blank_others(run: str) -> str:
    return "".join(
        [" " if not terms.WORD.match(letter) else "0" if letter.isdecimal() else letter for letter in run.lower()]
    )
