"""What an answer to a question would look like: a name for who, a date for when, a number for how many.

A hint for ranking and no more: it looks for shapes, knows nothing of meaning, and says nothing where the question does
not name a kind of answer. What the question itself says is no answer to it.
"""

import re
from collections.abc import Sequence
from heapq import nlargest

from .bm25 import Span

MAX_CHARACTERS = 400  # characters of what is asked, and of a unit, that are looked at
MAX_UNITS = 300  # units that are looked at: those that are likeliest to be kept
_MAX_QUESTION_TAIL = 4_000  # characters of a question in which the last thing asked is looked for

_QUESTION_SENTENCE = re.compile(r"[^.!?\n。！？؟]{1,4000}[?？؟]")
_WORD = re.compile(r"\w+")
_MONTH = "Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep|Oct|Nov|Dec"
_ANSWER_TYPES = (
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
    (
        (r"\b(?:where|(?:what|which) (?:\w+ )?(?:city|country|state|town|place|county|island|continent|region))\b",),
        (r" (?:in|at|of|from|near|to|on|across|between|into) (?:the )?(?:[a-z]+ )?[A-Z]\w+",),
    ),
)
_ANSWER_PATTERNS = [  # how it is asked, and what an answer looks like
    (re.compile("|".join(extract_last_question), re.IGNORECASE), tuple(map(re.compile, shapes)))
    for extract_last_question, shapes in _ANSWER_TYPES
]


def asking(question: str) -> str:
    """Return the last thing that is asked with a question mark; without one a short question as it is, or nothing."""
    asked = _QUESTION_SENTENCE.findall(question[-_MAX_QUESTION_TAIL:])
    return asked[-1][-MAX_CHARACTERS:] if asked else question if len(question) <= MAX_CHARACTERS else ""


def match_answer_type(text: str, spans: Sequence[Span], question: str, scores: Sequence[float]) -> list[bool]:
    """Say of each span whether it holds something of the kind that the question asks for; only of the best by score."""
    asked = asking(question)
    shapes = [shape for asks, some in _ANSWER_PATTERNS if asks.search(asked) for shape in some]
    found = [False] * len(spans)
    if shapes:
        said = {word.lower() for word in _WORD.findall(asked)}
        for index in nlargest(MAX_UNITS, range(len(spans)), scores.__getitem__):
            found[index] = any(_has_new_match(text, spans[index], shape, said) for shape in shapes)
    return found


def _has_new_match(text: str, span: Span, shape: re.Pattern[str], said: set[str]) -> bool:
    start, end = span
    for match in shape.finditer(text, start, min(end, start + MAX_CHARACTERS)):
        if not all(word.lower() in said for word in _WORD.findall(match[0])):
            return True
    return False
