import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract.core import word_search
from clara_proxy.compression.extract.core.word_search import WordFinder

WORDS = ("error", "errors", "fail", "ran ", "not found", "a?cd", "✗", "é", "na", "exit")
PARTS = st.sampled_from([*WORDS, "e", "rr", " ", "\n", "?", "ł", "\U0001f600", "x"])
TEXTS = st.lists(PARTS, max_size=60).map("".join)


def list_offsets(finder: WordFinder, word: str) -> list[int]:
    offsets: list[int] = []
    offset = finder.find(word, 0)
    while offset >= 0:
        offsets.append(offset)
        offset = finder.find(word, offset + 1)
    return offsets


def make_finder(text: str, min_characters: int) -> WordFinder:
    """Return a WordFinder that indexes texts of at least so many characters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_search, "MIN_CHARACTERS", min_characters)
        return WordFinder(text, WORDS)


@given(text=TEXTS, min_characters=st.sampled_from((8, 1_000)))
def test_all_words_are_found_as_one_by_one(text: str, min_characters: int) -> None:
    finder = make_finder(text, min_characters)
    for word in WORDS:
        assert list_offsets(finder, word) == [start for start in range(len(text)) if text.startswith(word, start)]


@given(text=TEXTS, min_characters=st.sampled_from((8, 1_000)))
def test_lines_with_a_word_are_found_except_behind_a_character(text: str, min_characters: int) -> None:
    finder = make_finder(text, min_characters)
    spans = [match.span() for match in re.finditer(r"[^\n]+", text)]
    for word in WORDS:
        pattern = re.compile(f"(?<!x){re.escape(word)}")
        expected = [index for index, span in enumerate(spans) if pattern.search(text, *span)]
        assert finder.find_spans(word, [start for start, _ in spans], spans, not_after="x") == expected
