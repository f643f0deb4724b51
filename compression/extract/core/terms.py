"""What a word is found by, in any script: its stem, an identifier's parts, letters in twos or threes without blanks.

Knows alphabets, not languages: English endings, accents that people leave out, the beginning of words that other
languages inflect at the end. The same for the words of a question and of a text, or nothing is found.
"""

import re
from collections.abc import Callable
from unicodedata import decimal, normalize

MAX_WORD_CHARACTERS = 400  # characters of a word looked at; what is longer is a blob
MIN_STEM_LENGTH = 4
PREFIX_LENGTH = 3  # letters of a word that its stem always begins with
SHARED_PREFIX_LENGTH = 5  # letters that the forms of a word have in common, where its endings are not known

SAMPLE_CHARACTERS = 20_000  # characters by which a text's script is judged
MAX_NON_ASCII_SHARE = 0.1  # of these, so many may be outside ASCII for it to be read as ASCII

_WORD = re.compile(r"\w+")
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_SEPARATOR_TABLE = {code: " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")}
# Vowels, accents and points that are characters of their own belong to the letter before them.
_COMBINING_MARKS = (
    r"\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0971-\u0dff"
    r"\u0e31-\u0e4e\u0eb1-\u0ecd\u0f71-\u0f84\u102b-\u103e\u1056-\u1059\u17b4-\u17d3\u3099\u309a"
)
_COMBINING_MARK = re.compile(f"[{_COMBINING_MARKS}]")
_WORD_WITH_MARKS = re.compile(rf"[\w{_COMBINING_MARKS}]+")
_IDENTIFIER_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_BIGRAM_SCRIPTS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"
_TRIGRAM_SCRIPTS = r"\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
_UNSPACED_CHARACTER = re.compile(f"[{_BIGRAM_SCRIPTS}{_TRIGRAM_SCRIPTS}]")
_SCRIPT_RUN = re.compile(f"[{_BIGRAM_SCRIPTS}]+|[{_TRIGRAM_SCRIPTS}]+|[^{_BIGRAM_SCRIPTS}{_TRIGRAM_SCRIPTS}]+")
_TRIGRAM_CHARACTER = re.compile(f"[{_TRIGRAM_SCRIPTS}]")
_DIACRITICS = re.compile(r"[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]")
_ENDINGS = frozenset(re.findall(r"\w+", "ations ation ments ment ingly ings ing edly ies ied ers ed er es ly s e y"))
_MAX_ENDING_LENGTH = 6


def choose_word_pattern(text: str) -> re.Pattern[str]:
    """Return what finds the words of a text: the simplest that finds all of them."""
    return _WORD if text.isascii() or _COMBINING_MARK.search(text) is None else _WORD_WITH_MARKS


def make_word_reader(text: str) -> Callable[[int, int], list[str]]:
    """Return what lists the words between two offsets, as `pattern` finds them.

    In a text that is nearly all ASCII what parts words is blanked out first: twice as quick as any pattern.
    """
    found = choose_word_pattern(text)
    if found is _WORD_WITH_MARKS or sum(
        map(len, _NON_ASCII.findall(text, 0, SAMPLE_CHARACTERS))
    ) > MAX_NON_ASCII_SHARE * min(len(text), SAMPLE_CHARACTERS):
        return lambda start, end: found.findall(text, start, end)
    plain = _blank_separators(text)
    return lambda start, end: plain[start:end].split()


def _blank_separators(text: str) -> str:
    """Put a blank in the place of every character that is in no word; nothing changes its place."""
    parts: list[str] = []
    at = 0
    for foreign in _NON_ASCII.finditer(text) if not text.isascii() else ():
        parts.append(text[at : foreign.start()].translate(_SEPARATOR_TABLE))
        parts.append("".join([character if character.isalnum() else " " for character in foreign[0]]))
        at = foreign.end()
    return "".join([*parts, text[at:].translate(_SEPARATOR_TABLE)])


def is_unspaced(character: str) -> bool:
    """Say whether a character is of a script that sets no blanks between its words."""
    return not character.isascii() and _UNSPACED_CHARACTER.match(character) is not None


def stem(word: str) -> str:
    """Cut the longest common English ending off a lower-case word; four letters always stay."""
    for length in range(min(_MAX_ENDING_LENGTH, len(word) - MIN_STEM_LENGTH), 0, -1):
        if word[-length:] in _ENDINGS:
            return word[:-length]
    return word


def extract_terms(word: str) -> tuple[str, ...]:
    """Say what a word is found by: its stem; an identifier by itself and by its parts; CJK by its bigrams."""
    word = word[:MAX_WORD_CHARACTERS]
    lower = word.lower()
    if lower.isascii():
        simple = lower.isalpha() and (word == lower or word[1:] == lower[1:] or word.isupper())
        return (stem(lower),) if simple else _split_identifier(word, lower)
    if _UNSPACED_CHARACTER.search(word):
        return tuple(
            dict.fromkeys(term for run in _SCRIPT_RUN.findall(normalize("NFKC", word)) for term in _cut_ngrams(run))
        )
    return _extract_letter_terms(word, lower)


def _split_identifier(word: str, lower: str) -> tuple[str, ...]:
    parts = [piece if piece.isdigit() else stem(piece.lower()) for piece in _IDENTIFIER_PART.findall(word)]
    return tuple(dict.fromkeys((lower, *(part for part in parts if len(part) > 1 or part.isdigit()))))


def _cut_ngrams(run: str) -> tuple[str, ...]:
    """Cut what has no blanks into twos, or threes where letters are a few dozen; what stands between is a word."""
    if not _UNSPACED_CHARACTER.match(run):
        return extract_terms(run)
    size = 3 if _TRIGRAM_CHARACTER.match(run) else 2
    return (run, *(run[at : at + size] for at in range(len(run) - size + 1))) if len(run) > size else (run,)


def _extract_letter_terms(word: str, lower: str) -> tuple[str, ...]:
    """Read a word without its accents and points; of other alphabets also its beginning, of identifiers the parts."""
    bare = _DIACRITICS.sub("", normalize("NFKD", lower))
    if bare.isdecimal():
        return ("".join(str(decimal(digit)) for digit in bare),)  # the same number in other digits
    if bare.isascii():
        return extract_terms(bare) if bare else (lower,)
    if any(map(str.isdigit, bare)) or "_" in bare:
        return _split_identifier(word, lower)
    # Not where there are no capitals: there, words of five letters say too much to be the beginning of a longer one.
    return (bare, bare[:SHARED_PREFIX_LENGTH]) if len(bare) > SHARED_PREFIX_LENGTH and bare != bare.upper() else (bare,)
