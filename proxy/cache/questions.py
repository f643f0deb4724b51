"""Decides whether two questions ask the same, word for word: case, punctuation, spelling and politeness may differ.

Similar embeddings do not decide: "flights to Austria" and "flights to Australia" are close, and so are a sentence and
its negation. Two questions match if their words are equal in order, so that numbers, names, negations and identifiers
are equal, too. A leading phrase may stand at the end instead. When in doubt, two questions differ.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from unicodedata import normalize

from ...compression import embeddings

MAX_CHARACTERS = 500  # a longer text is more than a question
MIN_WORDS = 3
MAX_TYPO_SHARE = 1 / 3  # of the words
MIN_TYPO_LETTERS = 5  # in shorter words a letter makes another word
_CACHED_QUESTIONS = 4096

# A number, a word with its apostrophe, or any other visible character except punctuation.
_TOKEN = re.compile(r"[-−]?\d+(?:[.,:/-]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\s.,;:!?'’\"()…-]")
_IDENTIFIER = re.compile(r"\w*[_@\\]\w*|\w+(?:[./:]\w+)+|\w*\d\w*[^\W\d]\w*|\w*[^\W\d]\d\w*|[a-z]+[A-Z]\w*|`[^`]*`")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']+'(?!\w)")
_OPENER = re.compile(
    r"^(?:(?:hi|hello|hey|hiya)(?: (?:there|team|all|everyone))?|(?:good )?(?:morning|afternoon|evening)|ok|okay|so"
    r"|yeah|please|sorry(?: to bother you)?|thanks|(?:just )?(?:a )?(?:quick|silly) (?:question|one)"
    r"|just wondering|but)\b(?: but\b)?[\s,.!:-]*",
    re.IGNORECASE,
)
_CLOSER = re.compile(
    r"[\s,.!?-]*\b(?:please|(?:many )?thanks(?: in advance)?|thank you|cheers)[\s.!?]*$", re.IGNORECASE
)
_FILLERS = frozenset({"a", "an", "the", "please", "um", "uh", "er", "erm"})
_IS = re.compile(r"(?<=\b(?:what|wher|when))(e?)['’]s\b|(?<=\b(?:who|how))(e?)['’]s\b", re.IGNORECASE)
_CONTRACTIONS = {"i'm": "i am", "i'd": "i would", "i've": "i have", "cannot": "can not", "whats": "what is"}
_PREPOSITIONS = frozenset({"for", "in", "to", "on", "at", "with", "from", "by", "under", "during"})
_TIME_WORDS = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|now|nowadays|currently|current|latest|newest|recent|recently|so far|as of"
    r"|at the moment|right away|(?:this|last|next|past) (?:hour|morning|evening|week|weekend|month|quarter|year|season)"
    r"|what time|what day|what date|weather|news|live score|up to date|upcoming|still"
    r"|heute|gestern|morgen|jetzt|gerade|aktuell\w*|derzeit\w*|momentan|neueste\w*|letzte\w*|nächste\w*|diese[rsn]?"
    r"|aujourd['’]hui|hier|demain|maintenant|actuel\w*|dernier\w*|récent\w*|prochain\w*|en ce moment"
    r"|hoy|ayer|mañana|ahora|actual\w*|últim[oa]s?|reciente\w*|próxim[oa]s?"
    r"|oggi|ieri|domani|adesso|ora|attual\w*|ultim[oaie]|recent[ei]|prossim[oaie]"
    r"|hoje|ontem|amanhã|agora|atual\w*|recentes?|vandaag|gisteren|nu|huidige|laatste"
    r"|dzisiaj|dziś|wczoraj|jutro|teraz|сегодня|вчера|завтра|сейчас|текущ\w*|последн\w*)\b"
    r"|今天|昨天|明天|现在|目前|最新|最近|今日|昨日|明日|现時|今年|去年|现任|오늘|어제|내일|지금|현재|최신|最近の",
    re.IGNORECASE,
)


class Question(NamedTuple):
    """A text as it is compared: its words, their spellings, the start of its second phrase, and verbatim parts."""

    words: tuple[str, ...]
    spellings: tuple[str, ...]
    split: int
    verbatim: tuple[str, ...]
    has_case: bool


def is_comparable(text: str) -> bool:
    """Return True if a text is a short question whose answer stays the same from day to day."""
    is_short = len(text) <= MAX_CHARACTERS and "\n" not in text.strip()
    return is_short and _TIME_WORDS.search(text) is None and len(parse_question(text).words) >= MIN_WORDS


def rank_candidates(text: str, candidates: Sequence[str], count: int) -> list[int]:
    """Return the indices of the `count` candidates that are most similar by their embeddings, the best first."""
    import numpy as np  # noqa: PLC0415  slow to import, and not needed with the cache off

    vectors = embeddings.embed([text, *candidates])
    return [int(index) for index in np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")[:count]]


def is_same_question(first: str, second: str) -> bool:
    """Return True if one answer certainly serves both texts."""
    a, b = parse_question(first), parse_question(second)
    if a.verbatim != b.verbatim or len(a.words) != len(b.words):
        return False
    return _is_equal(a, b) or _is_equal(_rotate(a), b) or _is_equal(a, _rotate(b))


@lru_cache(_CACHED_QUESTIONS)
def parse_question(text: str) -> Question:
    """Return a text as it is compared."""
    text = normalize("NFKC", text).strip()
    verbatim = tuple(_QUOTED.findall(text) + _IDENTIFIER.findall(text))
    while (shorter := _CLOSER.sub("", _OPENER.sub("", text))) != text and shorter:
        text = shorter
    first, comma, rest = text.partition(",")
    spellings = _find_spellings(first)
    is_phrase = comma and spellings and spellings[0].lower() in _PREPOSITIONS
    spellings = spellings if is_phrase else _find_spellings(text)
    split = len(spellings) if is_phrase else 0
    spellings = [*spellings, *_find_spellings(rest)] if is_phrase else spellings
    words = tuple(_fold_plural(spelling.lower()) for spelling in spellings)
    words = tuple("do" if word == "can" and words[:3] == ("how", "can", "i") else word for word in words)
    has_case = any(spelling[0].islower() for spelling in spellings[1:]) and text != text.lower()
    return Question(words, tuple(spellings), split, verbatim, has_case)


def _find_spellings(text: str) -> list[str]:
    """Return the words of a text without articles; contractions are written out."""
    spellings: list[str] = []
    for match in _TOKEN.finditer(_IS.sub(r"\1\2 is", text)):
        word = match[0].replace("’", "'")
        expanded = _CONTRACTIONS.get(word.lower())
        if expanded is None and word.lower().endswith("n't"):
            expanded = f"{word[:-3]} not"
        spellings.extend(part for part in (expanded or word).split() if part.lower() not in _FILLERS)
    return spellings


def _fold_plural(word: str) -> str:
    return word[:-1] if len(word) > 4 and word.endswith("s") and word[-2] not in "sui'" else word


def _rotate(question: Question) -> Question:
    """Return the question with its leading phrase, if it has one, at its end."""
    start = question.split
    return question._replace(
        words=question.words[start:] + question.words[:start],
        spellings=question.spellings[start:] + question.spellings[:start],
        split=len(question.words) - start if start else 0,
    )


def _is_equal(a: Question, b: Question) -> bool:
    pairs = list(zip(a.words, b.words, strict=True))
    typos = [pair for pair in pairs if pair[0] != pair[1]]
    if len(typos) > MAX_TYPO_SHARE * len(pairs) or not all(
        _is_typo(*pair) or _is_typo(*reversed(pair)) for pair in typos
    ):
        return False
    return not (a.has_case and b.has_case) or _find_names(a) == _find_names(b)


def _find_names(question: Question) -> set[str]:
    """Return the words with a capital letter that do not begin a phrase: "Polish" is not "polish"."""
    starts = {question.words[0], question.words[question.split]}
    return {_fold_plural(word.lower()) for word in question.spellings if word != word.lower()} - starts - {"i"}


def _is_typo(word: str, other: str) -> bool:
    """Return True if `word` is unknown, and a known word with a letter doubled or two letters exchanged.

    A replaced, missing or added letter often makes another word: nitrite and nitrate, arteritis and arthritis.
    """
    vocabulary = embeddings.load_vocabulary()
    is_candidate = min(len(word), len(other)) >= MIN_TYPO_LETTERS and word.isalpha() and word[0] == other[0]
    if not is_candidate or word in vocabulary or f"{word}s" in vocabulary or other not in vocabulary:
        return False
    return _is_slip(word, other) or _is_slip(other, word)


def _is_slip(word: str, other: str) -> bool:
    """Return True if `other` has a letter of `word` doubled, or two neighbours exchanged."""
    start = next((i for i, (x, y) in enumerate(zip(word, other, strict=False)) if x != y), min(len(word), len(other)))
    if len(other) == len(word) + 1:
        return start > 0 and other[start] == other[start - 1] and word[start:] == other[start + 1 :]
    swapped = word[start + 1 : start + 2] + word[start : start + 1] + word[start + 2 :]
    return len(word) == len(other) and swapped == other[start:]
