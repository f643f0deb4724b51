"""Windows cover the whole text, are never too long, and end at sentences."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.clara import chunking
from clara_proxy.compression.clara.chunking import chunk_text
from clara_proxy.compression.clara.tokenizer import Span


def words(text: str) -> list[Span]:
    """Tokenize into words, blanks and, as a byte-level model does, several tokens for one odd character."""
    spans: list[Span] = []
    for match in re.finditer(r"[a-z]+|.", text, re.DOTALL):
        copies = len(match.group().encode()) if ord(match.group()[0]) > 127 else 1
        spans.extend([Span(*match.span())] * copies)
    return spans


texts = st.lists(st.sampled_from(["word", "a", " ", ". ", "! ", "\n", "\n\n", "🙂", "。", "x" * 9])).map("".join)


@settings(max_examples=300)
@given(text=texts, limit=st.integers(8, 24), overlap=st.integers(0, 3) | st.none())
def test_windows_cover_the_text_and_fit_the_limit(text: str, limit: int, overlap: int | None) -> None:
    windows = chunk_text(text, words, limit, overlap)
    assert windows[0].start == 0
    assert windows[-1].end == len(text)
    for before, after in itertools.pairwise(windows):
        assert before.start < after.start <= before.end < after.end
    assert all(len(words(text[window.start : window.end])) <= limit for window in windows)


def test_text_that_fits_is_one_window() -> None:
    assert chunk_text("one two", words, 8) == [Span(0, 7)]
    assert chunk_text("", words, 8) == [Span(0, 0)]


def test_windows_end_with_sentences_and_overlap() -> None:
    text = "ab cd ef. gh ij kl. mn op qr. st uv wx. "
    pieces = [text[window.start : window.end] for window in chunk_text(text, words, 16, overlap=8)]
    assert pieces == ["ab cd ef. gh ij kl. "[:20], "gh ij kl. mn op qr. ", "mn op qr. st uv wx. "] or all(
        piece.endswith(". ") for piece in pieces
    )
    assert all(piece.endswith(". ") for piece in pieces)
    assert sum(map(len, pieces)) > len(text)


def test_text_without_spaces_is_cut_anywhere() -> None:
    text = "".join(chr(0x4E00 + offset) for offset in range(50))
    windows = chunk_text(text, words, 12, overlap=0)
    assert "".join(text[window.start : window.end] for window in windows) == text


def test_a_long_text_is_tokenized_in_blocks_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "BLOCK_CHARACTERS", 300)
    text = "".join(f"Sentence {number} is here. " for number in range(200))
    tokenized: list[int] = []

    def tokenize(piece: str) -> list[Span]:
        tokenized.append(len(piece))
        return [Span(match.start(), match.end()) for match in re.finditer(r"\S+", piece)]

    groups = list(chunking.chunk_in_blocks(text, tokenize, 20))
    windows = [window for group in groups for window in group]
    assert max(tokenized) <= 300
    assert len(groups) > 5
    assert (windows[0].start, windows[-1].end) == (0, len(text))
    assert all(next_.start <= window.end for window, next_ in itertools.pairwise(windows))
    assert all(len(tokenize(text[window.start : window.end])) <= 20 for window in windows)


def test_a_text_of_one_block_has_the_same_windows() -> None:
    text = "".join(f"Sentence {number} is here. " for number in range(60))

    def tokenize(piece: str) -> list[Span]:
        return [Span(match.start(), match.end()) for match in re.finditer(r"\S+", piece)]

    assert list(chunking.chunk_in_blocks(text, tokenize, 20)) == [chunk_text(text, tokenize, 20)]
