import pytest

from clara_proxy.compression.compressor import CompressedPassage, Gap
from clara_proxy.compression.markers import render

FETCH = "GET /v1/retrieve/0123456789abcdef"
TWO_GAPS = CompressedPassage(("head", Gap(80, "lines"), "middle\n", Gap(8, "lines"), "\ntail"), 100, "lines")


def test_gap_counts_the_lines_left_out() -> None:
    assert render(TWO_GAPS, None).split("\n") == [
        "head",
        "[80 lines left out]",
        "middle",
        "[8 lines left out]",
        "tail",
    ]


def test_last_gap_has_the_reference_to_the_original() -> None:
    assert render(TWO_GAPS, FETCH).split("\n") == [
        "head",
        "[80 lines left out]",
        "middle",
        f"[88 of 100 lines left out; {FETCH}]",
        "tail",
    ]


def test_reference_is_appended_if_there_is_no_gap() -> None:
    assert render(CompressedPassage(("a", "b"), 2, "rows"), FETCH) == f"a\nb\n[reformatted; {FETCH}]"
    assert render(CompressedPassage(("a", "b"), 2, "rows"), None) == "a\nb"


@pytest.mark.parametrize("fetch", [None, FETCH])
def test_marker_has_a_reference_only_if_given(fetch: str | None) -> None:
    assert ("retrieve" in render(TWO_GAPS, fetch)) == (fetch is not None)


def test_white_space_within_lines_is_kept() -> None:
    compressed = CompressedPassage(("  indented\n\n", Gap(1, "lines"), "\n\tx "), 3, "lines")
    assert render(compressed, None) == "  indented\n[1 line left out]\n\tx "


def test_gap_between_sentences_is_an_ellipsis() -> None:
    prose = CompressedPassage(("One.", Gap(3, "sentences"), "Five.", Gap(2, "sentences"), "Eight."), 8, "sentences")
    assert render(prose, None) == "One.\n[...]\nFive.\n[5 of 8 sentences left out]\nEight."
    assert render(prose, FETCH) == f"One.\n[...]\nFive.\n[5 of 8 sentences left out; {FETCH}]\nEight."


@pytest.mark.parametrize(
    ("unit", "marker"),
    [
        ("lines", "[1 line left out]"),
        ("similar rows", "[1 similar row left out]"),
        ("pieces of text", "[1 piece of text left out]"),
        ("values under items", "[1 value under items left out]"),
        ("files' modes, owners, sizes and times", "[1 file's modes, owners, sizes and times left out]"),
    ],
)
def test_a_gap_of_one_unit_is_in_the_singular(unit: str, marker: str) -> None:
    assert render(CompressedPassage(("a", Gap(1, unit), "b"), 3, "lines"), None) == f"a\n{marker}\nb"
    assert "[2 " + unit in render(CompressedPassage(("a", Gap(2, unit), "b"), 3, "lines"), None)
