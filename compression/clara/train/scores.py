"""How near an answer is to the right one: exact match and F1 over words, as SQuAD's scorer counts them; no model."""

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> list[str]:
    """Return the words of a text in small letters, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact(said: str, wanted: str) -> float:
    """Return 1 where the words are the same, else 0."""
    return float(plain(said) == plain(wanted))


def f1(said: str, wanted: str) -> float:
    """Return the harmonic mean of how much of what was said is right and how much of the right was said, 0 to 1."""
    mine, right = Counter(plain(said)), Counter(plain(wanted))
    if not mine or not right:
        return float(mine == right)
    return 2 * (mine & right).total() / (mine.total() + right.total())
