"""Expected answer types of questions: a name for "who", a date for "when", a number for "how many".

A hint for ranking. It matches patterns, not meaning, and ignores questions without a known type. Words of the question
itself are no answer.
"""

import re
from collections.abc import Sequence
from heapq import nlargest

from .bm25 import Span

MAX_CHARACTERS = 400  # of a question, and of a unit
MAX_UNITS = 300  # units examined, the best by score
_MAX_QUESTION_TAIL = 4_000  # characters searched for the last question

_CHANGED = (
    r"(?:changed|modified|updated|created|added|written|edited|seen|touched|started|deployed|released|published|opened|"
    r"sent|received|ordered|built|installed|joined|hired)"
)
_GREATEST = re.compile(
    rf"\b(?:{_CHANGED} last|last {_CHANGED})\b|"
    r"\b(?:most|largest|biggest|highest|greatest|longest|strongest|newest|latest|youngest|slowest|max(?:imum)?|top|busiest|"
    r"heaviest|hottest|fullest|why\b.{0,40}\bso (?:large|big|high|long))\b|"
    r"\b(?:größt|meist|höchst|längst|langsamst)\w{0,2}\b|\bplus (?:grande?s?|gros(?:se)?s?|longue?s?)\b|"
    r"\bmás (?:grande|larg|alt)",
    re.IGNORECASE,
)
_LEAST = re.compile(
    rf"\bout of (?:stock|space|quota|credit)\b|\b(?:{_CHANGED} first|first {_CHANGED})\b|"
    r"\b(?:least|smallest|lowest|shortest|weakest|oldest|earliest|fewest|fastest|cheapest|min(?:imum)?)\b|"
    r"\b(?:kleinst|niedrigst|kürzest|ältest)\w{0,2}\b|"
    r"\b(?:worst|poor(?:est)?|weak(?:est)?|low)\b(?=.{0,200}\bcover)|\bcover(?:age|ed)\b.{0,200}\b(?:worst|poor|low|down)",
    re.IGNORECASE,
)
EMPTY = re.compile(
    r"\b(?:nobody|no ?one|never|unset|empty|blank|missing|(?:not|n't) (?:been |yet )?(?:set|filled|given|assigned))\b",
    re.IGNORECASE,
)
_NEGATED_WORD = re.compile(r"(?:\bnot|n't|\bother than|\bexcept) (?:yet |being |been |a |an )?(\w+)")
_AGE_WORDS = (
    rf"\b(?:{_CHANGED} last|last {_CHANGED}|newest|latest|youngest|oldest|earliest|(?:most|least) recent(?:ly)?)\b"
)
# A question about one of these reads the columns and fields whose names match.
_MEASURES = (
    (r"memory|\bram\b|speicher|mémoire", r"mem(?:ory)?|ram|%mem|rss|res|pss|vsz"),
    (r"\bcpus?\b|processor|busiest|busy|hottest|load", r"%?cpu(?:perc)?|%?util|load"),
    (
        r"\bspace\b|\bdisk|size|larg|\bbig|heav|storage|full|platz|groß|größ",
        r"(?:\w+[-_ ])?size|size/off|(?:use|used|use%|capacity|bytes|length)",
    ),
    (
        r"slow|long|fast|short|durat|latenc|langsam|lange",
        r"(?:total[-_ ]?)?time|(?:\w+[-_ ])?(?:duration|elapsed)(?:[-_ ]?ms)?|latency|took|uptime|days|seconds",
    ),
    (_AGE_WORDS, r"age|etime|uptime|(?:\w+[-_ ]?)?(?:date|created|updated|modified|time|at)|last[-_ ]?\w+"),
    (r"\bcover", r"(?:line |branch )?cover(?:age)?|%? ?(?:stmts|lines|branch(?:es)?|rate)"),
    (
        r"expensive|cheap|teuer|cost|amount|betrag|montant|importe",
        r"(?:\w+[-_. ])?(?:price|cost|amount|cents|total|betrag|montant|importe)",
    ),
)
_MEASURE_PATTERNS = [
    (re.compile(question, re.IGNORECASE), re.compile(name, re.IGNORECASE)) for question, name in _MEASURES
]
_AGE_NAME = re.compile(r"age|etime|elapsed|uptime", re.IGNORECASE)
_QUESTION_SENTENCE = re.compile(r"[^.!?\n。！？؟]{1,4000}[?？؟]")
_WORD = re.compile(r"\w+")
_MONTH = "Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep|Oct|Nov|Dec"
_ANSWER_TYPES = (  # patterns of questions, patterns of their answers
    (
        (
            r"\b(?:who|whom|whose|(?:what|which) (?:\w+ )?(?:person|actor|actress|author|singer|player))\b",
            r"\b(?:qui|quién|wer|кто|кого)\b|谁|誰|누가|누구",
        ),
        (r"[^\W\d_a-z][\w'’.-]+(?: (?:[a-z]{2,3} )?[^\W\d_a-z][\w'’.-]+)+",),
    ),
    (
        (
            r"\b(?:when|(?:what|which) (?:year|date|day|month|decade|century)|how old|born)\b",
            r"\b(?:quand|cuándo|wann|quando|когда|в каком году|متى)\b|什么时候|何时|哪年|哪一年|いつ|何年|언제|เมื่อ",
        ),
        (r"[12]\d{3}(?!\d)", rf"(?:{_MONTH})[a-z]{{0,6}}\.? \d", rf"\d (?:{_MONTH})", r"\d ?[年月년월]"),
    ),
    (
        (
            r"\bhow (?:many|much|long|far|tall|large|big|high|old|often|deep|fast|heavy|wide)\b",
            r"\b(?:what|which) (?:number|percentage|age|size|length|height)\b|\bpopulation\b",
            r"\b(?:combien|cuánt\w+|wie ?viele?|quant[io]|hoeveel|сколько|كم)\b",
            r"多少|几个|幾|いくつ|何人|얼마|몇|कितन|กี่|เท่าไ",
        ),
        (r"\d+", r"(?:two|three|four|five|six|seven|eight|nine|twelve|hundred|thousand|million|billion|dozen)\b"),
    ),
    ((r"\b(?:ip|ip ?v[46]|gateway|nameserver)\b",), (r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)",)),
    (
        (r"\b(?:slow|fast|how long|duration|latency)\b",),
        (r"\d ?(?:ms|msecs?|s|secs?|seconds?|min|minutes?|h|hours?)\b",),
    ),
    (
        (r"\b(?:where|(?:what|which) (?:\w+ )?(?:city|country|state|town|place|county|island|continent|region))\b",),
        (r" (?:in|at|of|from|near|to|on|across|between|into) (?:the )?(?:[a-z]+ )?[A-Z]\w+",),
    ),
)
_ANSWER_PATTERNS = [
    (re.compile("|".join(question_patterns), re.IGNORECASE), tuple(map(re.compile, answer_patterns)))
    for question_patterns, answer_patterns in _ANSWER_TYPES
]


def extract_last_question(question: str) -> str:
    """Return the last sentence with a question mark; else a short question as it is, or an empty string."""
    sentences: list[str] = _QUESTION_SENTENCE.findall(question[-_MAX_QUESTION_TAIL:])
    if sentences:
        return sentences[-1][-MAX_CHARACTERS:]
    return question if len(question) <= MAX_CHARACTERS else ""


def list_directions(question: str) -> list[bool]:
    """Return False if the question asks for the greatest of something, and True if it asks for the least."""
    return [least for pattern, least in ((_GREATEST, False), (_LEAST, True)) if pattern.search(question)]


def list_negated_words(question: str) -> set[str]:
    """Return the words behind "not", "other than" or "except" in the last question, in lower case."""
    return set(_NEGATED_WORD.findall(extract_last_question(question).lower()))


def is_measure(name: str, question: str) -> bool:
    """Return True if a column or field of this name measures what the question asks about: SIZE for "space"."""
    return any(
        measure.fullmatch(name.strip()) is not None
        for pattern, measure in _MEASURE_PATTERNS
        if pattern.search(question) is not None
    )


def asks_for_age(question: str) -> bool:
    """Return True if the question asks for the newest or the oldest of something."""
    return re.search(_AGE_WORDS, question, re.IGNORECASE) is not None


def is_reversed(name: str, question: str) -> bool:
    """Return True if the least value of a column is the greatest that is asked for: AGE for "newest"."""
    return _AGE_NAME.fullmatch(name.strip()) is not None and asks_for_age(question)


def match_answer_type(text: str, spans: Sequence[Span], question: str, scores: Sequence[float]) -> list[bool]:
    """Return for each span whether it contains an answer of the expected type; examine only the best by score."""
    last_question = extract_last_question(question)
    patterns = [
        pattern
        for question_pattern, answer_patterns in _ANSWER_PATTERNS
        if question_pattern.search(last_question)
        for pattern in answer_patterns
    ]
    matches = [False] * len(spans)
    if patterns:
        question_words = {word.lower() for word in _WORD.findall(last_question)}
        for index in nlargest(MAX_UNITS, range(len(spans)), scores.__getitem__):
            matches[index] = any(_has_new_match(text, spans[index], pattern, question_words) for pattern in patterns)
    return matches


def _has_new_match(text: str, span: Span, pattern: re.Pattern[str], question_words: set[str]) -> bool:
    start, end = span
    for match in pattern.finditer(text, start, min(end, start + MAX_CHARACTERS)):
        if not all(word.lower() in question_words for word in _WORD.findall(match[0])):
            return True
    return False
