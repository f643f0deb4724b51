"""SQuAD's answer scores: exact match and F1 over normalised words."""

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(prediction: str, target: str) -> float:
    """Return 1 if the normalised words are equal, otherwise 0."""
    return float(normalized_words(prediction) == normalized_words(target))


def f1_score(prediction: str, target: str) -> float:
    """Return the harmonic mean of word precision and word recall, from 0 to 1."""
    predicted, expected = Counter(normalized_words(prediction)), Counter(normalized_words(target))
    if not predicted or not expected:
        return float(predicted == expected)
    return 2 * (predicted & expected).total() / (predicted.total() + expected.total())
