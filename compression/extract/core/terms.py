"""Index terms of a word, in any script: stems, parts of identifiers, n-grams of scripts without spaces.

The rules depend on alphabets rather than on languages: English endings are removed, diacritics are ignored, words of
other alphabets also match by their prefix. A question and a text must use the same rules to match.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial
from itertools import pairwise
from unicodedata import decimal, normalize

MAX_WORD_CHARACTERS = 400  # the rest of a longer word, usually a blob, is ignored
MIN_STEM_LENGTH = 4
PREFIX_LENGTH = 3  # letters that a stem always keeps
SHARED_PREFIX_LENGTH = 5  # letters that all forms of a word share, in alphabets without known endings

SPAN_END = "\0"  # in a list of words; in no word itself
SCRIPT_SAMPLE_CHARACTERS = 20_000
PIECE_CHARACTERS = 250  # of a text with few characters that are not ASCII
CACHED_RUNS = 1_000
MAX_NON_ASCII_SHARE = 0.1  # of the sample, for a text that is split as ASCII

WORD = re.compile(r"\w+")
_NON_ASCII = re.compile(r"([^\x00-\x7f]+)")
_BLANKED = bytes(code if WORD.match(chr(code)) else ord(" ") for code in range(128)).ljust(256)
# Combining vowels, accents and points belong to the letter before them.
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
_PLAIN_WORD = re.compile(r"[a-z]+")
_ABBREVIATIONS = """address addr, authentication auth, average avg, configuration config conf cfg, connection conn,
    database db, destination dst dest, device dev, directory dir, environment env, error err, interface iface,
    maximum max, memory mem, message msg, minimum min, number num, package pkg, password passwd pwd, permission perm,
    processor cpu, received rx recv, request req, response resp, sent tx, source src, temperature temp, transmitted tx,
    utilization util, version ver"""
_ENDINGS = frozenset(re.findall(r"\w+", "ations ation ments ment ingly ings ing edly ies ied ers ed er es ly s e y"))
_MAX_ENDING_LENGTH = 6


def choose_word_pattern(text: str) -> re.Pattern[str]:
    """Return the simplest pattern that matches all words of a text."""
    return WORD if text.isascii() or _COMBINING_MARK.search(text) is None else _WORD_WITH_MARKS


def make_word_reader(text: str, pattern: re.Pattern[str]) -> Callable[[Sequence[tuple[int, int]]], list[str]]:
    """Return a function that lists the words of spans, and SPAN_END after those of each span.

    The pattern is WORD, or one for words with combining marks. In a text of nearly only ASCII, separators are replaced
    by blanks first, which is several times as fast as a pattern.
    """
    size = min(len(text), SCRIPT_SAMPLE_CHARACTERS)
    if sum(map(len, _NON_ASCII.findall(text, 0, size))) > MAX_NON_ASCII_SHARE * size:
        return lambda spans: [word for span in spans for word in (*pattern.findall(text, *span), SPAN_END)]
    plain = translate_ascii(text, _BLANKED, partial(_blank_separators, pattern=pattern))
    end = f" {SPAN_END} "
    return lambda spans: "".join([plain[start:stop] + end for start, stop in spans]).split()


def translate_ascii(text: str, table: bytes, translate_others: Callable[[str], str]) -> str:
    """Replace each ASCII character by that of the table, and other characters, run by run, by a function.

    Several times as fast as `str.translate` for text with a few other characters.
    """
    runs: list[str] = []
    for start in range(0, len(text), PIECE_CHARACTERS):
        piece = text[start : start + PIECE_CHARACTERS]
        runs += (piece,) if piece.isascii() else _NON_ASCII.split(piece)
    return "".join([run.encode().translate(table).decode() if run.isascii() else translate_others(run) for run in runs])


@lru_cache(CACHED_RUNS)
def _blank_separators(run: str, pattern: re.Pattern[str]) -> str:
    """Replace every character outside a word of the pattern by a blank."""
    return "".join([character if pattern.match(character) else " " for character in run])


def is_unspaced(character: str) -> bool:
    """Return True if the character belongs to a script without blanks between words."""
    return not character.isascii() and _UNSPACED_CHARACTER.match(character) is not None


@cache
def _list_abbreviations() -> dict[str, list[str]]:
    """Return the abbreviations that commands print, by the stem of the word."""
    entries: list[list[str]] = [list[str](entry.split()) for entry in _ABBREVIATIONS.split(",")]
    return {stem(word): abbreviations for word, *abbreviations in entries}


def list_variants(question: str) -> Iterator[str]:
    """Yield other spellings of the words of a question: common abbreviations, and two words as one (`hostname`)."""
    words = _PLAIN_WORD.findall(question.lower())
    for word in words:
        yield from _list_abbreviations().get(stem(word), ())
    for first, second in pairwise(words):
        if len(first) >= PREFIX_LENGTH and len(second) >= PREFIX_LENGTH:
            yield stem(first + second)


def stem(word: str) -> str:
    """Remove the longest common English ending from a lower-case word; keep at least four letters (`pods`: three)."""
    if len(word) == MIN_STEM_LENGTH and word[-1] == "s" != word[-2]:
        return word[:-1]
    for length in range(min(_MAX_ENDING_LENGTH, len(word) - MIN_STEM_LENGTH), 0, -1):
        if word[-length:] in _ENDINGS:
            return word[:-length]
    return word


def extract_terms(word: str) -> tuple[str, ...]:
    """Return the terms of a word: its stem; an identifier and its parts; n-grams of a script without blanks."""
    word = word[:MAX_WORD_CHARACTERS]
    lower = word.lower()
    if lower.isascii():
        simple = lower.isalpha() and (word[1:] == lower[1:] or word.removesuffix("s").isupper())  # `CPUs`
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
    """Return a run and its bigrams, or trigrams in scripts of a few dozen letters; a run of other scripts is a word."""
    if not _UNSPACED_CHARACTER.match(run):
        return extract_terms(run)
    size = 3 if _TRIGRAM_CHARACTER.match(run) else 2
    if len(run) <= size:
        return (run,)
    return (run, *(run[start : start + size] for start in range(len(run) - size + 1)))


def _extract_letter_terms(word: str, lower: str) -> tuple[str, ...]:
    """Return the word without diacritics, with its prefix in other alphabets and with the parts of an identifier."""
    bare = _DIACRITICS.sub("", normalize("NFKD", lower))
    if bare.isdecimal():
        return ("".join(str(decimal(digit)) for digit in bare),)  # one number, whatever its digits
    if bare.isascii():
        inflected = (bare[:SHARED_PREFIX_LENGTH],) if len(bare) > SHARED_PREFIX_LENGTH and bare.isalpha() else ()
        return (*extract_terms(bare), *inflected) if bare else (lower,)
    if any(map(str.isdigit, bare)) or "_" in bare:
        return _split_identifier(word, lower)
    # Other scripts without capitals get no prefix: five of their letters are usually a word of their own.
    has_prefix = bare != bare.upper() or "\u0900" <= bare[0] <= "\u0dff"
    return (bare, bare[:SHARED_PREFIX_LENGTH]) if len(bare) > SHARED_PREFIX_LENGTH and has_prefix else (bare,)
