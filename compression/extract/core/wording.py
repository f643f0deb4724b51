"""Finds units worded unlike most of a formulaic text: the one remark among a hundred routine messages.

A text is formulaic if most of its pairs of adjacent words recur. Running text is not, so that nothing in it is odd.
Linear in the text: each step is one pass over all words, and rare words end the search in running text early.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from statistics import median_high

from . import terms

MIN_UNITS = 12
MIN_WORDS = 4  # plain words of a unit that is compared
MIN_FREQUENCY = 3  # occurrences that make a pair of words common, at least
MIN_FREQUENCY_SHARE = 0.02  # the same, of all units
MIN_COMMON_SHARE = 0.4  # common pairs of the median unit of a formulaic text
ODD_FACTOR = 0.5  # times the share of the median unit: an odd unit has at most this share
MAX_ODD_SHARE = 0.15  # of the units
MAX_UNIT_CHARACTERS = 400

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
    starts = [unit[:MAX_UNIT_CHARACTERS].replace("\n", " ") for unit in units]
    kinds = terms.translate_ascii(" \n".join(starts) + " ", _KINDS, _list_kinds).split("\n")
    compared = [index for index, kind in enumerate(kinds) if kind.count("aa ") >= MIN_WORDS]
    if len(compared) < MIN_UNITS:
        return []
    words = _read_words([starts[index] for index in compared])
    limit = max(MIN_FREQUENCY, MIN_FREQUENCY_SHARE * len(units))
    bounds = list(pairwise([-1, *(index for index, word in enumerate(words) if word == terms.SPAN_END)]))
    if median_high(_bound_shares(words, bounds, limit)) < MIN_COMMON_SHARE:
        return []
    pairs = [set(pairwise(words[before + 1 : end])) for before, end in bounds]
    common = {pair for pair, count in Counter(chain.from_iterable(pairs)).items() if count >= limit}
    shares = [len(unit_pairs & common) / max(1, len(unit_pairs)) for unit_pairs in pairs]
    if median_high(shares) < MIN_COMMON_SHARE:
        return []
    max_share = ODD_FACTOR * median_high(shares)
    odd = [index for index, share in zip(compared, shares, strict=True) if share <= max_share]
    return odd if len(odd) <= max(1, MAX_ODD_SHARE * len(compared)) else []


def _list_kinds(run: str) -> str:
    return "".join([" " if not terms.WORD.match(letter) else "0" if letter.isdecimal() else "a" for letter in run])


def _read_words(units: Sequence[str]) -> list[str]:
    """Return the words of all units in small letters, `0` for each number, and SPAN_END after those of each unit."""
    plain = terms.translate_ascii("\n".join(units), _WORDS, _blank_others)
    while "00" in plain:
        plain = plain.replace("00", "0")
    return [*plain.replace("0", " 0 ").replace("\n", f" {terms.SPAN_END} ").split(), terms.SPAN_END]


def _blank_others(run: str) -> str:
    return "".join(
        [" " if not terms.WORD.match(letter) else "0" if letter.isdecimal() else letter for letter in run.lower()]
    )


def _bound_shares(words: Sequence[str], bounds: Sequence[tuple[int, int]], limit: float) -> list[float]:
    """Return about the greatest possible share of common pairs of each unit: its pairs of two frequent words.

    `bounds` are the indices of SPAN_END before and behind the words of each unit.
    """
    frequent = {word for word, count in Counter(words).items() if count >= limit} - {terms.SPAN_END}
    flags = list(map(frequent.__contains__, words))
    sums = list(accumulate(map(bool.__and__, flags, flags[1:]), initial=0))
    return [(sums[end] - sums[before + 1]) / max(1, end - before - 2) for before, end in bounds]
