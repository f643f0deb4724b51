import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.stores.excerpt import CONTEXT_LINES, MAX_MATCHES, MAX_PIECE_CHARS, cut_excerpt

LINES = "\n".join(f"line {number}" for number in range(1, 31))


def test_without_arguments_the_whole_text_is_returned() -> None:
    assert cut_excerpt(LINES) == LINES


@given(st.lists(st.text(st.characters(exclude_characters="\n"))).filter(bool), st.data())
def test_line_ranges_are_verbatim_and_adjacent(rows: list[str], data: st.DataObject) -> None:
    text = "\n".join(rows)
    first = data.draw(st.integers(1, len(rows)))
    last = data.draw(st.integers(first, len(rows) + 3))
    assert cut_excerpt(text, lines=f"{first}-{last}") == "\n".join(rows[first - 1 : last])
    assert cut_excerpt(text, lines=f"{first}-") == "\n".join(rows[first - 1 :])
    assert cut_excerpt(text, lines=f"{first}") == rows[first - 1]
    if first > 1:
        assert cut_excerpt(text, lines=f"1-{first - 1}") + "\n" + cut_excerpt(text, lines=f"{first}-") == text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0", "counted from 1"),
        ("0-5", "counted from 1"),
        ("9-5", "end .5. before they begin .9."),
        ("31", "begin at 31, but there are only 30"),
        ("31-40", "begin at 31, but there are only 30"),
        *(
            (invalid, "N, N-M or N-")
            for invalid in ("", "-", "-5", "a-b", "1-2-3", "1,5", "1 - 5", "١-٢", "9" * 99, "1.5", "--1")
        ),
    ],
)
def test_invalid_line_ranges_are_rejected(lines: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_excerpt(LINES, lines=lines)


def test_a_query_returns_matches_with_context() -> None:
    rows = [f"step {number} went well" for number in range(1, 41)]
    rows[9] = "step 10: ERROR disk_full on /dev/sda"
    assert cut_excerpt("\n".join(rows), query="which disk full error?") == "\n".join(
        [
            "8-step 8 went well",
            "9-step 9 went well",
            "10:step 10: ERROR disk_full on /dev/sda",
            "11-step 11 went well",
            "12-step 12 went well",
        ]
    )


def test_distant_matches_are_separated() -> None:
    rows = ["-"] * 30
    rows[4] = rows[20] = "needle"
    assert [piece.split("\n") for piece in cut_excerpt("\n".join(rows), query="needle").split("\n--\n")] == [
        ["3--", "4--", "5:needle", "6--", "7--"],
        ["19--", "20--", "21:needle", "22--", "23--"],
    ]


def test_rare_words_outweigh_common_ones() -> None:
    rows = ["the error code"] * 50 + ["zebra"] + ["the error code"] * 50
    assert ":zebra" in cut_excerpt("\n".join(rows), query="the error code zebra")


def test_the_whole_query_outweighs_its_words() -> None:
    rows = ["full disk"] * 5 + ["-"] * 10 + ["a disk full of b"] + ["-"] * 10
    assert "16:a disk full of b" in cut_excerpt("\n".join(rows), query="Disk full").split("\n")
    assert cut_excerpt("x\n=> !!\ny", query="!!") == "1-x\n2:=> !!\n3-y"


def test_a_query_within_lines_keeps_their_numbers() -> None:
    assert cut_excerpt("a\nneedle\nb\nneedle\nc", query="needle", lines="3-5") == "3-b\n4:needle\n5-c"


@pytest.mark.parametrize("query", ["", "   ", "absent", "?!"])
def test_a_query_without_matches_returns_nothing(query: str) -> None:
    assert cut_excerpt(LINES, query=query) == ""


def test_only_the_matching_piece_of_a_long_line_is_returned() -> None:
    text = "x" * 5_500 + " needle " + "y" * 10_000
    excerpt = cut_excerpt(text, query="needle")
    assert f"1@5001:{text[5_000:6_000]}" in excerpt.split("\n")
    assert len(excerpt) < (2 * CONTEXT_LINES + 2) * MAX_PIECE_CHARS


@given(st.text("ab \nc", max_size=300), st.text("ab ", max_size=5))
def test_every_returned_line_is_in_the_text(text: str, query: str) -> None:
    rows = text.split("\n")
    excerpt = cut_excerpt(text, query=query)
    matches = 0
    for line in excerpt.split("\n") if excerpt else []:
        if line != "--":
            number, sign, row = re.fullmatch(r"(\d+)([:-])(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
            assert row == rows[int(number) - 1]
            matches += sign == ":"
    assert matches <= MAX_MATCHES
    phrase = query.strip()
    assert (matches > 0) == bool((phrase and phrase in text) or set(query.split()) & set(text.split()))
