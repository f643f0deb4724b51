"""Checks model-written text against its source and drops sentences with unsupported literals (the faithful invariant).

A literal is a number, a date, a path, an id, a URL, an e-mail address, a code identifier or a quotation. It is
supported if the source contains the same tokens, whole: 5 is not supported by 15, nor 3 by 3.5. Only thousands
separators, the kind of dash or quotation mark, blanks, and punctuation around a literal may differ. Of the meaning only
the polarity is checked (`polarity`): another wrong sentence made of the source's own words passes. When in doubt, a
sentence is dropped. Linear time in both texts.
"""

import re
from collections.abc import Iterator, Sequence, Set
from itertools import takewhile
from typing import NamedTuple

from . import polarity

TokenSequence = tuple[str, ...]
Spellings = tuple[TokenSequence, ...]  # the spellings of a literal; the source must contain one

_CHARACTER_MAP = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02", '"'),
        **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
        **{chr(code + 0xFEE0): chr(code) for code in range(0x23, 0x7F)},  # full-width forms
    }
)
_THOUSANDS_NUMBER = re.compile(r"(?<![\w.,])[1-9]\d{0,2}([,'_\u00a0\u202f\u2009])\d{3}(?:\1\d{3})*(?!\d|\1\d)")
# Scripts without spaces, in which a number touches its neighbours.
_UNSPACED_SCRIPTS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(
    r"\s+"
    rf"|[{_UNSPACED_SCRIPTS}]"
    r"|(?:(?<![\w.)\]-])-)?(?:\d++(?:\.\d++)++"
    # 30 in 30s, 5 in 5GB; none in 5f00c1
    rf"|\d++(?=[^\W\d_]{{0,3}}(?![^\W{_UNSPACED_SCRIPTS}])|[{_UNSPACED_SCRIPTS}]|T\d))"
    r"|[vV](?=\d+\.)|T(?=\d\d:)"
    rf"|[^\W{_UNSPACED_SCRIPTS}]+"
    r"|.",
    re.DOTALL,
)
_SENTENCE_END = re.compile(
    r"[.!?][\"'\u201d\u2019)\]*_`]{0,4}\s+(?=[^\sa-z])|[\u3002\uff01\uff1f]|[\n\r\u2028\u2029]\s*"
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|St|Prof|vs|etc|cf|al|No|Vol|Fig)\.$"
)
_NON_BLANK_RUN = re.compile(rf"[^\s{_UNSPACED_SCRIPTS}\u2014\u3000-\u303f]+")
_LEADING_PUNCTUATION, _TRAILING_PUNCTUATION = "([{<)]}>\"'`*,;:!?|=#&\u2248", "([{<)]}>\"'`*,;:!?|.\u2026"
_NUMBER_WORDS_TO_TWENTY = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
)
_NUMBER_WORDS_TENS = "thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {
    **{word: str(value) for value, word in enumerate(re.findall(r"\w+", _NUMBER_WORDS_TO_TWENTY), 2)},
    **{word: f"{value}0" for value, word in enumerate(re.findall(r"\w+", _NUMBER_WORDS_TENS), 3)},
}
_LARGE_NUMBER_WORDS = r"hundred|thousand|million|billion|trillion"
_ANY_NUMBER_WORD = f"{'|'.join(_NUMBER_WORDS)}|{_LARGE_NUMBER_WORDS}"
_SPELLED_NUMBER = re.compile(rf"\b(?:{_ANY_NUMBER_WORD})(?:[- ](?:{_ANY_NUMBER_WORD}|one))*\b", re.IGNORECASE)
_QUANTITY = re.compile(rf"(?<![\w.])\d[\d.]{{0,20}} (?:{_LARGE_NUMBER_WORDS}|percent|per cent)\b")
_MONTHS = (
    "January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"(?<![\w.,:/-]){_DAY} (?:of )?(?:{_MONTHS})\b(?:,? \d{{4}})?(?![.,:/-]?\d)"
    rf"|\b(?:{_MONTHS})\.? (?:{_DAY}\b(?:,? \d{{4}})?|\d{{4}})\b(?![.,:/-]?\d)"
)
_CALENDAR_NAME = re.compile(  # without March and May, which have other meanings
    r"\b(?:January|February|April|June|July|August|September|October|November|December"
    r"|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)\b"
)
_NUMBER_COMPOUND = re.compile(r"(~?\d[\d.]*)-[a-z]+$")  # 30-minute
_SLASHED_WORDS = frozenset({"and/or", "either/or", "he/she", "she/he", "his/her", "n/a", "yes/no"})
_INITIALS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]$")  # e.g, U.S
_CODE_LITERAL = re.compile(
    r"\w@\w|@\w|://|\\|/\w|\w/|::|->|\w=|=\w|\$\w|\w_\w|^_+\w|^--?[A-Za-z]|[a-z][A-Z]|\w\.\w|^\.\w|^~/"
)
_SINGLE_QUOTED = re.compile(r"(?<![\w'])'((?:[^'\n]|(?<=\w)'(?=\w))++)'(?!\w)")
_WORD_CHARACTER = re.compile(r"\w")
_EMPTY_ANSWER = re.compile(
    r"\W*(?:(?:the )?(?:answer|it|this|that)(?: is|:) )?"
    r"(?:unknown|none|nothing|null|nil|n/a|unanswerable|unclear|unspecified|not sure|not applicable)\W*"
)
_ABSTENTION = re.compile(
    r"\bnot (?:been )?(?:\w+ly )?"
    r"(?:stated|mentioned|specified|provided|given|available|known|found|disclosed|indicated|described|answerable)\b"
    r"|\b(?:cannot|\w{1,6}(?: not|n't))(?: be)?(?: \w+ly)? "
    r"(?:know|sure|certain|found|find|determined?|answer(?:ed)?|tell|told|identif(?:y|ied)|inferred|established)\b"
    r"|\b(?:text|documents?|passages?|context|sources?|articles?|background|excerpts?|information|it|they|i|we)"
    r" (?:\w+ ){0,2}?(?:do|does|did)(?: not|n't) (?:\w+ly )?"
    r"(?:say|state|mention|specify|provide|contain|include|indicate|give|answer|have|describe|address)\b"
    r"|\b(?:no|insufficient|not enough|without any|lacks?|lack of) (?:\w+ ){0,3}"
    r"(?:information|mention|answer|data|details?|indication|context)\b"
    r"|\b(?:unable|impossible) to (?:\w+ly )?(?:find|determine|answer|say|tell|locate|identify|provide)\b"
    r"|\b(?:is|are|remains?) (?:unknown|unclear|unspecified|unanswerable)\b"
)
_ELLIPSIS = re.compile(r"\.{3,}|\u2026|\[\.{3}\]")


def drop_unsupported(text: str, source: str) -> str:
    """Return the text without sentences that the source does not support; "" if none remains.

    Such a sentence contains a literal missing from the source, or contradicts the source. A sentence with
    semicolons keeps the clauses before its first unsupported one. Sentences that were not neighbours are joined by a
    line break.
    """
    sentences = list(_split_sentences(text))
    clauses = [_split_clauses(text[start:end]) for start, end in sentences]
    literals = [[_extract_literals(clause) for clause in sentence] for sentence in clauses]
    spellings = {spelling for sentence in literals for clause in sentence for literal in clause for spelling in literal}
    matches = _find_sequences(spellings, source)
    # The number of leading clauses of each sentence that are supported.
    supported = [len(list(takewhile(lambda clause: _are_supported(clause, matches), group))) for group in literals]
    contradicted = polarity.find_contradicted([text[start:end] for start, end in sentences], source)
    supported = [0 if turned else count for count, turned in zip(supported, contradicted, strict=True)]
    is_whole = [count == len(group) for count, group in zip(supported, clauses, strict=True)]
    parts: list[str] = []
    for index, (start, end) in enumerate(sentences):
        if not supported[index]:
            continue
        if parts:
            parts.append(text[sentences[index - 1][1] : start] if is_whole[index - 1] else "\n")
        parts.append(text[start:end] if is_whole[index] else "; ".join(clauses[index][: supported[index]]) + ".")
    remaining = "".join(parts)
    return remaining if _WORD_CHARACTER.search(remaining) else ""


def is_abstention(text: str) -> bool:
    """Return True if an answer is empty or its first sentence says that the answer is not known.

    The rest of such an answer is ignored: it is seldom of use.
    """
    plain = text.translate(_CHARACTER_MAP)
    if not _WORD_CHARACTER.search(plain):
        return True
    start, end = next(_split_sentences(plain))
    first = " ".join(plain[start:end].lower().split())
    return bool(_EMPTY_ANSWER.fullmatch(plain.lower()) or _ABSTENTION.search(first))


def _are_supported(literals: Sequence[Spellings], matches: set[TokenSequence]) -> bool:
    return all(any(spelling in matches for spelling in literal) for literal in literals)


def _split_sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield the span of each sentence without surrounding blanks; a line break always ends a sentence."""
    start = 0
    for match in _SENTENCE_END.finditer(text):
        before = text[max(start, match.start() - 7) : match.start() + 1]
        if match[0][0] == "." and "\n" not in match[0] and _ABBREVIATION.search(before):
            continue
        yield from _trim_span(text, start, match.end())
        start = match.end()
    yield from _trim_span(text, start, len(text))


def _trim_span(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = text[start:end]
    if piece.strip():
        yield start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())


def _split_clauses(sentence: str) -> list[str]:
    """Split a sentence at its semicolons, unless it has quotations or brackets that may enclose one."""
    has_quotation = re.search(r"[\"'`()\[\]{}\u201c-\u201f\u00ab\u00bb]", sentence)
    return [sentence] if has_quotation else re.split(r";\s+", sentence)


def _extract_literals(sentence: str) -> list[Spellings]:
    """Return the literals of a sentence, each with its spellings."""
    plain = sentence.translate(_CHARACTER_MAP)
    quotations = [piece for mark in '"`' for piece in plain.split(mark)[1::2]] + _SINGLE_QUOTED.findall(plain)
    texts = [piece.strip(" \t.,;:!?") for quotation in quotations for piece in _ELLIPSIS.split(quotation)]
    plain = _THOUSANDS_NUMBER.sub(_join_thousands, plain)
    texts += [match[0] for pattern in (_DATE, _QUANTITY, _CALENDAR_NAME) for match in pattern.finditer(plain)]
    texts += [literal for match in _NON_BLANK_RUN.finditer(plain) if (literal := extract_run_literal(match[0]))]
    number_words = [_spell_number(match[0]) for match in _SPELLED_NUMBER.finditer(plain)]
    return [(_tokenize(text),) for text in texts if _WORD_CHARACTER.search(text)] + number_words


def extract_run_literal(chunk: str) -> str:
    """Return the literal (a number, a path, an id, ...) in a run of characters without blanks, or ""."""
    core = chunk.lstrip(_LEADING_PUNCTUATION)
    core = core.rstrip(_TRAILING_PUNCTUATION).removesuffix("'s")
    compound = _NUMBER_COMPOUND.match(core)
    if compound is not None:
        return compound[1].lstrip("~")
    if any(map(str.isnumeric, core)):
        return core.lstrip("~") if core[1:2].isdigit() else core
    if core.lower() in _SLASHED_WORDS or _INITIALS.match(core):
        return ""
    return core if "()" in chunk or _CODE_LITERAL.search(core) else ""


def _spell_number(number: str) -> Spellings:
    forms = [number, number.lower(), number.capitalize()]
    digits = _NUMBER_WORDS.get(number.lower())
    return tuple(dict.fromkeys(map(_tokenize, [*forms, digits] if digits else forms)))


def _join_thousands(match: re.Match[str]) -> str:
    return match[0].replace(match[1], "")


def _tokenize(text: str) -> TokenSequence:
    """Split a text into numbers, words, marks and blanks, so that equal tokens mean equal literals."""
    plain = _THOUSANDS_NUMBER.sub(_join_thousands, text.translate(_CHARACTER_MAP))
    return tuple(" " if token.isspace() else token for token in _TOKEN.findall(plain))


class _TrieNode(NamedTuple):
    children: dict[str, int]
    matches: list[TokenSequence]


def _find_sequences(sequences: Set[TokenSequence], source: str) -> set[TokenSequence]:
    """Return the token sequences that the source contains, by the Aho-Corasick algorithm."""
    if not sequences:
        return set()
    nodes, order = _build_trie(sequences)
    fail = _build_failure_links(nodes, order)
    seen = bytearray(len(nodes))
    node = 0
    for token in _tokenize(source):
        while node and token not in nodes[node].children:
            node = fail[node]
        node = nodes[node].children.get(token, 0)
        seen[node] = 1
    for node in reversed(order):  # a suffix of a sequence that was seen was seen, too
        seen[fail[node]] |= seen[node]
    return {match for node in order if seen[node] for match in nodes[node].matches}


def _build_trie(sequences: Set[TokenSequence]) -> tuple[list[_TrieNode], list[int]]:
    """Return the nodes of the trie, and their indices without the root in order of depth."""
    nodes = [_TrieNode({}, [])]
    depths = [0]
    for tokens in sequences:
        node = 0
        for token in tokens:
            if token not in nodes[node].children:
                nodes[node].children[token] = len(nodes)
                nodes.append(_TrieNode({}, []))
                depths.append(depths[node] + 1)
            node = nodes[node].children[token]
        nodes[node].matches.append(tokens)
    return nodes, sorted(range(1, len(nodes)), key=depths.__getitem__)


def _build_failure_links(nodes: Sequence[_TrieNode], order: Sequence[int]) -> list[int]:
    """Return each node's longest proper suffix in the trie: the node to continue from on a mismatch."""
    fail = [0] * len(nodes)
    for node in (0, *order):
        for token, child in nodes[node].children.items():
            back = fail[node]
            while back and token not in nodes[back].children:
                back = fail[back]
            fail[child] = nodes[back].children.get(token, 0) if node else 0
    return fail
