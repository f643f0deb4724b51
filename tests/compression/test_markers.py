import pytest

from clara_proxy.compression.compressor import CompressedPassage, Gap
from clara_proxy.compression.markers import render

FETCH = "GET /v1/retrieve/0123456789abcdef"
TWO = CompressedPassage(("head", Gap(80, "lines"), "middle\n", Gap(8, "lines"), "\ntail"), 100, "lines")


def test_a_gap_says_how_much_is_missing() -> None:
    assert render(TWO, None).split("\n") == [
        "head",
        "[80 lines left out]",
        "middle",
        "[8 lines left out]",
        "tail",
    ]


def test_the_last_gap_leads_to_the_original() -> None:
    assert render(TWO, FETCH).split("\n") == [
        "head",
        "[80 lines left out]",
        "middle",
        f"[88 of 100 lines left out; {FETCH}]",
        "tail",
    ]


def test_without_a_gap_the_way_back_comes_last() -> None:
    assert render(CompressedPassage(("a", "b"), 2, "rows"), FETCH) == f"a\nb\n[reformatted; {FETCH}]"
    assert render(CompressedPassage(("a", "b"), 2, "rows"), None) == "a\nb"


@pytest.mark.parametrize("fetch", [None, FETCH])
def test_a_marker_claims_a_way_back_only_where_there_is_one(fetch: str | None) -> None:
    assert ("retrieve" in render(TWO, fetch)) == (fetch is not None)


def test_blanks_within_a_line_stay() -> None:
    condensed = CompressedPassage(("  indented\n\n", Gap(1, "lines"), "\n\tx "), 3, "lines")
    assert render(condensed, None) == "  indented\n[1 lines left out]\n\tx "


def test_between_sentences_a_gap_is_as_people_write_it() -> None:
    prose = CompressedPassage(("One.", Gap(3, "sentences"), "Five.", Gap(2, "sentences"), "Eight."), 8, "sentences")
    assert render(prose, None) == "One.\n[...]\nFive.\n[5 of 8 sentences left out]\nEight."
    assert render(prose, FETCH) == f"One.\n[...]\nFive.\n[5 of 8 sentences left out; {FETCH}]\nEight."
