"""Merges the tokens of a token classifier into words, with the mean of their scores.

The rules are those of the package llmlingua: on BERT a word begins at each token without `##`, on XLM-R at each token
with a word mark and at each mark of punctuation. For other models, a word is a run of characters without blanks.
"""

import string
from collections.abc import Sequence

from ..extract.core.bm25 import Span

_WORD_MARK = "\u2581"


def merge_tokens(
    text: str, tokens: Sequence[str], offsets: Sequence[Span], scores: Sequence[float], *, is_wordpiece: bool
) -> tuple[list[Span], list[float]]:
    """Return the spans of the words, without blanks at their ends, and their scores.

    A word without characters has an empty span. Without `tokens`, blanks separate words.
    """
    spans: list[Span] = []
    sums: list[float] = []
    counts: list[int] = []
    for index, (offset, score) in enumerate(zip(offsets, scores, strict=True)):
        start, end = _trim_span(text, offset)
        if tokens and tokens[index] == _WORD_MARK:  # which some tokenizers align with the character behind it
            end = start
        begins = _begins_word(tokens[index], is_wordpiece=is_wordpiece) if tokens else _follows_blank(text, start)
        if begins or not spans:
            spans.append((start, end))
            sums.append(score)
            counts.append(1)
        else:
            first, last = spans[-1]
            spans[-1] = (start, end) if first == last else (first, max(last, end))
            sums[-1] += score
            counts[-1] += 1
    return spans, [total / count for total, count in zip(sums, counts, strict=True)]


def _trim_span(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _follows_blank(text: str, start: int) -> bool:
    return start == 0 or text[start - 1].isspace()


def _begins_word(token: str, *, is_wordpiece: bool) -> bool:
    if is_wordpiece:
        return not token.startswith("##")
    return token.startswith(_WORD_MARK) or token in string.punctuation
