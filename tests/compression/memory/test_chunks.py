"""Chunks of a document: verbatim, in order, complete, along its structure."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.memory.chunks import CHARACTERS_PER_TOKEN, Chunk, split_document

LINES = st.sampled_from(
    [
        "# Title",
        "## Part",
        "Title",
        "=====",
        "-----",
        "",
        "   ",
        "```",
        "def f():",
        "    return 1",
        "word " * 60,
        "a" * 900,
    ]
)
GUIDE = """# Guide

Intro text.

## Install

Run the installer.

### Linux

Use the package of your distribution. It needs root.

## Remove

Delete the folder.
"""


def read(text: str, chunks: list[Chunk]) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in chunks]


@given(st.one_of(st.text(max_size=400), st.lists(LINES, max_size=40).map("\n".join)), st.integers(1, 300))
def test_chunks_are_ordered_bounded_and_complete(text: str, max_tokens: int) -> None:
    chunks = split_document(text, max_tokens)
    position = 0
    for chunk in chunks:
        assert position <= chunk.start < chunk.end <= len(text)
        assert not text[position : chunk.start].strip()
        assert text[chunk.start : chunk.end].strip()
        assert chunk.end - chunk.start <= max_tokens * CHARACTERS_PER_TOKEN
        position = chunk.end
    assert not text[position:].strip()


@given(st.lists(LINES, max_size=40).map("\n".join), st.integers(30, 200))
def test_overlap_only_extends_chunks_to_the_left(text: str, max_tokens: int) -> None:
    plain = split_document(text, max_tokens - 20)
    overlapping = split_document(text, max_tokens, overlap_tokens=20)
    assert [chunk.end for chunk in overlapping] == [chunk.end for chunk in plain]
    assert all(late.start <= early.start for late, early in zip(overlapping, plain, strict=True))


def test_sections_begin_chunks_and_know_their_titles() -> None:
    chunks = split_document(GUIDE, 20)
    pieces = dict(zip(read(GUIDE, chunks), chunks, strict=True))
    linux = next(chunk for piece, chunk in pieces.items() if "distribution" in piece)
    assert linux.titles[:2] == ("Guide", "Install")
    assert next(chunk for piece, chunk in pieces.items() if "Delete" in piece).titles[0] == "Guide"
    assert not any(piece.rstrip().endswith(("## Install", "### Linux", "## Remove")) for piece in pieces)


def test_comments_of_code_are_no_headings_and_functions_begin_chunks() -> None:
    code = "import os\n\n" + "\n\n".join(f"# helper {n}\ndef f{n}(x):\n" + "    x = x + 1\n" * 20 for n in range(4))
    chunks = split_document(code, 120)
    assert all(chunk.titles == () for chunk in chunks)
    assert sum("def f" in piece for piece in read(code, chunks)) == 4


def test_blank_document_has_no_chunks() -> None:
    assert split_document(" \n\n\t") == []
