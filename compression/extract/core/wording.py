"""Finds units worded unlike most of a formulaic text: the one remark among a hundred routine messages.

A text is formulaic if most of its pairs of adjacent words recur in other units; a sample decides. Running text is not,
so that nothing in it is odd. Linear in the text.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
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


def find_odd_wordings(units: Sequence[str]) -> list[int]:
    """Return the indices of the few units that share hardly any pair of adjacent words with the others."""
    if len(units) < MIN_UNITS:
        return []
    if len(units) >= 2 * SAMPLED_RUNS * RUN_UNITS:
        starts = range(0, len(units), len(units) // SAMPLED_RUNS)
        sample = [unit for start in starts for unit in units[start : start + RUN_UNITS]]
        if not _is_formulaic(_measure_common_shares(sample)):
            return []
    shares = _measure_common_shares(units)
    if not _is_formulaic(shares):
        return []
    limit = ODD_FACTOR * median_high(shares.values())
    odd = [index for index, share in shares.items() if share <= limit]
    return odd if len(odd) <= max(1, MAX_ODD_SHARE * len(shares)) else []


def _is_formulaic(shares: dict[int, float]) -> bool:
    return len(shares) >= MIN_UNITS and median_high(shares.values()) >= MIN_COMMON_SHARE


def _measure_common_shares(units: Sequence[str]) -> dict[int, float]:
    """Return the share of each unit's pairs that are common; of units with enough plain words."""
    pairs = _read_pairs(dict.fromkeys(units))
    frequencies = Counter(chain.from_iterable([pairs[unit] for unit in units if unit in pairs]))
    limit = max(MIN_FREQUENCY, MIN_FREQUENCY_SHARE * len(units))
    common = {pair for pair, count in frequencies.items() if count >= limit}
    shares = {unit: len(unit_pairs & common) / len(unit_pairs) for unit, unit_pairs in pairs.items()}
    return {index: shares[unit] for index, unit in enumerate(units) if unit in shares}


def _read_pairs(units: Iterable[str]) -> dict[str, set[tuple[str, str]]]:
    """Return the pairs of adjacent words of units with enough plain words: small letters, and `0` for numbers."""
    starts = {unit: unit[:MAX_UNIT_CHARACTERS].replace("\n", " ") for unit in units}
    kinds = terms.translate_ascii(" \n".join(starts.values()) + " ", _KINDS, _list_kinds).split("\n")
    compared = [unit for unit, kind in zip(starts, kinds, strict=True) if kind.count("aa ") >= MIN_WORDS]
    plain = terms.translate_ascii("\n".join([starts[unit] for unit in compared]), _WORDS, _blank_others)
    while "00" in plain:
        plain = plain.replace("00", "0")
    words = map(str.split, plain.replace("0", " 0 ").split("\n"))
    pairs = {unit: set(pairwise(unit_words)) for unit, unit_words in zip(compared, words, strict=False)}
    return {unit: unit_pairs for unit, unit_pairs in pairs.items() if unit_pairs}


def _list_kinds(run: str) -> str:
    return "".join([" " if not terms.WORD.match(letter) else "0" if letter.isdecimal() else "a" for letter in run])


def _blank_others(run: str) -> str:
    return "".join(
        [" " if not terms.WORD.match(letter) else "0" if letter.isdecimal() else letter for letter in run.lower()]
    )
