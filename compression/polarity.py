"""Checks that model-written text does not turn its source around: "Delete it" from "Do not delete it".

The comparison is by words. In each clause every word is affirmed or denied: denied if the clause has an odd number of
negations, such as not, never, without, failed to, forbidden. A sentence is contradicted if, for the whole of it or for
one of its clauses, the source sentences that share most of its words deny what it affirms, or the reverse. A prefix
(unsafe) and an opposite (disable) deny the word itself. When in doubt, a sentence counts as contradicted. English, with
the commonest negations of German, French, Spanish and Chinese.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

MIN_SHARED = 0.6  # of a sentence's words; a source sentence that shares fewer says something else
MIN_ROOT = 3  # letters of a word after a negating prefix
MAX_SOURCE_SENTENCES = 2_000  # that share a word; a word of more sentences says too little to look them up by it

AFFIRMED, DENIED = 1, 2
OPPOSED = 4  # with the others: the word stands as its opposite, as in unsafe and disabled
Signs = Mapping[str, int]  # the words of a sentence: `AFFIRMED`, `DENIED`, both, or with `OPPOSED`

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\d+(?:[.,:/-]\d+)*|[\u4e00-\u9fff]", re.UNICODE)
_CJK_WORD = re.compile(r"[\u4e00-\u9fff]")
_CLAUSE_BREAK = re.compile(
    r"[,;:()\"\u201c\u201d\u00ab\u00bb\u2013\u2014\u3001\uff0c\uff1b\uff1a]|\s-+\s|(?<!\w)['\u2018]|['\u2019](?!\w)"
    r"|\b(?:but|however|whereas|while|although|though|because(?! of)|since|which|who|instead|yet"
    r"|aber|sondern|mais|sino|pero)\b"
    r"|\b(?:and|or|then)\b(?=\s+(?:not|never|do|does|did|is|are|was|were|it|they|he|she|we|you|i|must|may|can)\b)",
    re.IGNORECASE,
)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])[\"'\u201d\u2019)\]*_`]{0,4}\s+|[\u3002\uff01\uff1f]|\n+")
_SOURCE_BREAK = re.compile(rf"{_SENTENCE_BREAK.pattern}|;\s")
_LIST_MARK = re.compile(r"\s*(?:[-*\u2022\u2013+]|\(?\d{1,3}[.)]|\(?[a-z]\))\s+")
# Idioms that contain a negation and deny nothing.
_IDIOM = re.compile(
    r"\bnot (?:only|just|merely|simply|until|least)\b|\bno (?:doubt|matter|sooner|wonder)\b|\bcannot but\b|\bwhy not\b"
    r"|\bwhether or not\b|\bif not\b|\bnon plus\b|\bnicht nur\b|\bno s\u00f3lo\b|\bpas seulement\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|never|no|none|neither|nor|nobody|nothing|nowhere|without|cannot|hardly|scarcely|barely|seldom|rarely"
    r"|\w+n['\u2019]t|cant|dont|wont|unable|impossible|instead of|rather than|far from|except(?: for)?"
    r"|lack(?:s|ed|ing)?"
    r"|no longer|no one|forbid(?:s|den|ding)?|forbade|prohibit(?:s|ed|ing)?|disallow(?:s|ed|ing)?|ban(?:s|ned|ning)?"
    r"|den(?:y|ies|ied|ying)|refus(?:e|es|ed|ing)|reject(?:s|ed|ing)?|declin(?:e|es|ed|ing)|avoid(?:s|ed|ing)?"
    r"|prevent(?:s|ed|ing)?|fail(?:s|ed|ing)? to|forg(?:et|ets|ot|etting) to|omit(?:s|ted|ting)? to"
    r"|ceas(?:e|es|ed|ing) to|refrain(?:s|ed|ing)?|false|untrue|incorrect|wrong|stop(?:s|ped|ping)? \w+ing"
    r"|nicht|kein(?:e|en|em|er|es)?|nie|niemals|ohne|pas|jamais|sans|aucune?|nunca|sin|jam\u00e1s|ning\u00fan|ninguna)\b"
    r"|[\u4e0d\u6ca1\u672a\u522b\u52ff\u65e0\u975e]",
    re.IGNORECASE,
)
_COMPOUND_NEGATION = re.compile(r"\b(?:no longer|no one|neither|nor)\b", re.IGNORECASE)
_PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "mis")
_OPPOSITES = {
    word: stem
    for stem, words in {
        "enabl": "disable disables disabled disabling",
        "allow": "block blocks blocked blocking",
        "includ": "exclude excludes excluded excluding",
        "accept": "rejection",
        "connect": "disconnect disconnects disconnected disconnecting",
        "succeed": "fail fails failed failing failure failures unsuccessful unsuccessfully",
        "permit": "prohibition",
        "open": "closed close closes closing shut",
        "increas": "decrease decreases decreased decreasing drop dropped falls fell fallen decline",
        "start": "stop stops stopped",
        "on": "off",
    }.items()
    for word in words.split()
}
_SAME = {
    **dict.fromkeys(("success", "successful", "successfully", "pass", "passes", "passed", "passing"), "succeed"),
    **dict.fromkeys(("rise", "rises", "rose", "grow", "grows", "grew"), "increas"),
}
_STOP_WORD_LIST = (
    "a an the this that these those it its is are was were be been being am do does did done doing have has had having "
    "will would shall should may might must can could i you he she we they them him her us me my your his our their of "
    "in on at to from by with for as into onto over under about than then there here so such and or if also too very "
    "just please let s t any some all each every both either one ever always still already yet only again up out off "
    "der die das den dem des ein eine einen einem einer ist sind war wird werden zu von mit und oder im am es er sie "
    "le la les un une des du de et ou est sont a au aux en ne que qui el los las una y o es son del al se lo"
)
_STOP_WORDS = frozenset(_STOP_WORD_LIST.split())
_SUFFIXES = ("ations", "ation", "ings", "ing", "edly", "ies", "ied", "ers", "ed", "es", "ly", "er", "s", "e", "y")


def is_negation(word: str) -> bool:
    """Return True if a word by itself denies what it stands with: not, never, without, isn't."""
    return _NEGATION.fullmatch(word) is not None


class _Sentence(NamedTuple):
    """A sentence and the signs of its clauses; without words of content it is a remark such as "Never!"."""

    signs: Signs
    clauses: Sequence[Signs]
    is_denied: bool
    is_list_item: bool
    ends_with_colon: bool


def find_contradicted(sentences: Sequence[str], source: str) -> list[bool]:
    """Return for each sentence whether the source says the opposite of it."""
    facts = _index_source(source)
    parsed = [_parse(sentence) for sentence in sentences]
    known_words = {word for sentence in parsed for word in sentence.signs} | facts.words
    results: dict[frozenset[tuple[str, int]], bool] = {}
    verdicts: list[bool] = []
    for sentence in parsed:
        units = [sentence.signs, *(clause for clause in sentence.clauses if len(clause) > 1)]
        keys = {frozenset(_resolve_prefixes(unit, known_words).items()) for unit in units}
        results |= {key: _is_contradicted(dict(key), facts, known_words) for key in keys - results.keys()}
        verdicts.append(any(results[key] for key in keys))
    return verdicts


class _Facts(NamedTuple):
    """The distinct sentences of a source, their words, and by word or root the indices of those that contain it."""

    sentences: list[Signs]
    words: Set[str]
    postings: Mapping[str, list[int]]


def _index_source(source: str) -> _Facts:
    distinct = {tuple(sorted(signs.items())): signs for signs in _read_source(source)}
    sentences = list(distinct.values())
    postings: defaultdict[str, list[int]] = defaultdict(list)
    for index, signs in enumerate(sentences):
        for word in signs:
            postings[word].append(index)
            for prefix in _PREFIXES:
                rest = word.removeprefix(prefix)
                if rest != word and len(rest) >= MIN_ROOT:
                    postings[rest].append(index)
    return _Facts(sentences, {word for signs in sentences for word in signs}, postings)


def _read_source(source: str) -> Iterator[Signs]:
    """Yield the signs of each sentence; a denied heading that ends with a colon denies the list below it."""
    under_denial = False
    previous: Signs = {}
    for text in _SOURCE_BREAK.split(source):
        sentence = _parse(text)
        if not sentence.signs:
            if sentence.is_denied and not sentence.ends_with_colon:  # a remark on the sentence before
                previous = _flip(previous)
            under_denial = sentence.ends_with_colon and sentence.is_denied
            continue
        if previous:
            yield previous
        denies = under_denial and sentence.is_list_item
        previous = _flip(sentence.signs) if denies else sentence.signs
        under_denial = denies or (sentence.is_denied and sentence.ends_with_colon)
    if previous:
        yield previous


def _flip(signs: Signs) -> Signs:
    return {word: _flip_sign(sign) for word, sign in signs.items()}


def _flip_sign(sign: int) -> int:
    return sign & OPPOSED | (sign & AFFIRMED and DENIED) | (sign & DENIED and AFFIRMED)


def _parse(text: str) -> _Sentence:
    """Return the words of a sentence with their signs."""
    clauses: list[Signs] = []
    merged: dict[str, int] = {}
    is_denied = False
    for clause in _CLAUSE_BREAK.split(_IDIOM.sub(" ", text)):
        negations = len(_NEGATION.findall(_COMPOUND_NEGATION.sub("never", clause)))
        words, opposites = _find_words(clause)
        is_denied |= negations % 2 == 1
        signs = {
            word: (DENIED if (negations + opposites[word]) % 2 else AFFIRMED) | (OPPOSED if opposites[word] else 0)
            for word in words
        }
        clauses.append(signs)
        for word, sign in signs.items():
            merged[word] = merged.get(word, 0) | sign
    ends_with_colon = text.rstrip().endswith((":", "\uff1a"))
    return _Sentence(merged, clauses, is_denied, _LIST_MARK.match(text) is not None, ends_with_colon)


def _find_words(clause: str) -> tuple[list[str], Counter[str]]:
    """Return the stems of a clause's words of content, and how often each stands as its opposite."""
    words: list[str] = []
    opposites = Counter[str]()
    for match in _WORD.finditer(_NEGATION.sub(" ", clause)):
        word = match[0].lower().replace("\u2019", "'").removesuffix("'s")
        if word in _STOP_WORDS:
            continue
        if word in _OPPOSITES:
            words.append(_OPPOSITES[word])
            opposites[_OPPOSITES[word]] += 1
        else:
            words.append(_SAME.get(word, _stem(word)))
    return words, opposites


def _stem(word: str) -> str:
    if _CJK_WORD.match(word) or word[0].isdigit():
        return word
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and not word.endswith("ss") and len(word) - len(suffix) >= 3:
            stem = word.removesuffix(suffix)
            return stem[:-1] if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeious" else stem
    return word


def _resolve_prefixes(signs: Signs, known_words: Set[str]) -> dict[str, int]:
    """Replace a word with a negating prefix by its root, denied, if the texts know that root."""
    resolved: dict[str, int] = {}
    for word, sign in signs.items():
        for prefix in _PREFIXES:
            rest = word.removeprefix(prefix)
            if rest != word and len(rest) >= MIN_ROOT and rest in known_words:
                resolved[rest] = resolved.get(rest, 0) | _flip_sign(sign) | OPPOSED
                break
        else:
            resolved[word] = resolved.get(word, 0) | sign
    return resolved


def _is_contradicted(signs: Signs, facts: _Facts, known_words: Set[str]) -> bool:
    shared = Counter[int]()
    for word in signs:
        indices = facts.postings.get(word, ())
        if len(indices) <= MAX_SOURCE_SENTENCES:
            shared.update(dict.fromkeys(indices, 1))
    most = max(shared.values(), default=0)
    if not most or most < MIN_SHARED * len(signs):
        return False
    for index in (index for index, count in shared.items() if count == most):
        fact = _resolve_prefixes(facts.sentences[index], known_words)
        words = [word for word in signs if word in fact]
        # "Not safe" and "unsafe" agree in this word only, "not safe" and "safe" in none.
        opposed = [word for word in words if (signs[word] | fact[word]) & OPPOSED]
        if all(signs[word] & fact[word] & (AFFIRMED | DENIED) for word in opposed or words):
            return False
    return True
