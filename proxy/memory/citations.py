"""Citations of passages in a model's text, in the shape of OpenAI's annotations.

A sentence cites a passage by its number, as in `[2]`. Otherwise it cites the passage with most of its terms,
if that one has at least half of them and at least two.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...compression.memory import lexical

MIN_SHARED_TERMS = 2
MIN_SHARE = 0.5
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=[\s\"')\]*]|$)[\"')\]*]*|$)", re.MULTILINE)
_NUMBER = re.compile(r"[\[\u3010](\d{1,2})[\]\u3011]")


def build_annotations(text: str, hits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a `file_citation` for each sentence that rests on a passage; `index` is the sentence's end in `text`."""
    passage_terms = [frozenset(lexical.list_terms(f"{hit['name']} {hit['text']}")) for hit in hits]
    annotations: list[dict[str, Any]] = []
    for sentence in _SENTENCE.finditer(text):
        for number in _find_sources(sentence[0], passage_terms):
            hit = hits[number]
            annotation = {
                "type": "file_citation",
                "index": sentence.end(),
                "file_id": hit["file_id"],
                "filename": hit["name"],
            }
            if annotation not in annotations:
                annotations.append(annotation)
    return annotations


def _find_sources(sentence: str, passage_terms: Sequence[frozenset[str]]) -> list[int]:
    """Return the indexes of the passages that a sentence rests on."""
    numbers = [int(number) - 1 for number in _NUMBER.findall(sentence)]
    if cited := [number for number in dict.fromkeys(numbers) if 0 <= number < len(passage_terms)]:
        return cited
    terms = frozenset(lexical.list_terms(sentence))
    shared = [len(terms & known) for known in passage_terms]
    best = max(range(len(shared)), key=shared.__getitem__, default=None)
    if best is None or shared[best] < max(MIN_SHARED_TERMS, MIN_SHARE * len(terms)):
        return []
    return [best]
