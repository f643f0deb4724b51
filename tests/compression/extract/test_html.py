"""Web pages: content before boilerplate, text under its headings, and broken markup."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.extract import html_parser
from clara_proxy.compression.extract.html import DEFAULT_HTML_WEIGHTS, HtmlCompressor
from clara_proxy.compression.markers import render

from .samples import CODE, PROSE, SAMPLES, list_pieces, run_compressor

MENU = "".join(
    f'<li class="item"><a class="link" href="/docs/page-{index}">Chapter {index}</a></li>\n' for index in range(40)
)
PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Keeping bees</title><style>.a { margin: 0 }</style>\n"
    f"<script>var secret = 'not text <b>at all</b>';{'f(1);' * 80}</script></head>\n<body>"
    f"<nav><ul>{MENU}</ul></nav>\n<main>"
    + "".join(
        f'<section><h2 id="s{index}">Hive {index}</h2>\n<p class="text">Hive number {index} stands in the {place}. '
        f'It gave <b>{index * 7} kg</b> of <a href="https://bees.example/honey/{index}">honey</a> last year.</p>\n'
        "</section>"
        for index, place in enumerate(["orchard", "meadow", "garden", "wood", "quarry"] * 4)
    )
    + '<div class="warning"><p>Error: the hive of the quarry could not be opened.</p></div>\n'
    "</main><footer><p>Imprint and contact of the bee club</p></footer></body></html>"
)


def compress_page(question: str, ratio: float = 6, text: str = PAGE) -> str:
    passage = run_compressor(HtmlCompressor(), text, question, ratio)
    assert passage is not None
    return render(passage, None)


def test_the_answer_is_kept_under_the_title_and_its_heading() -> None:
    out = compress_page("How much honey did hive number 13 give?")
    assert out.index("Keeping bees") < out.index("Hive 13") < out.index("Hive number 13 stands") < out.index("91 kg")


def test_scripts_styles_menus_and_block_tags_are_left_out() -> None:
    out = compress_page("")
    assert not [word for word in ("secret", "margin", "<section", "class=", "Chapter 3", "</html>") if word in out]
    assert "pieces of text left out" in out


def test_an_error_not_in_the_question_is_kept() -> None:
    assert "could not be opened" in compress_page("How much honey did hive number 13 give?")


def test_link_targets_are_kept_only_if_the_question_asks_for_links() -> None:
    assert "bees.example" not in compress_page("How much honey did hive number 13 give?")
    assert "https://bees.example/honey/13" in compress_page("the URL of honey of hive number 13", 4)


def test_json_data_in_a_page_can_match_the_question() -> None:
    data = '<script type="application/ld+json">{"@type": "Offer", "price": "41.90"}</script>'
    assert '"price": "41.90"' in compress_page("price of the Offer", text=PAGE.replace("</head>", f"{data}</head>"))


@pytest.mark.parametrize(
    "broken",
    [
        PAGE.replace("</", "<"),
        PAGE.replace("</p>", "").replace("</section>", "").replace("</li>", ""),
        PAGE.replace("</script>", ""),
        PAGE[: len(PAGE) - 200],
        PAGE.replace("<p", "<!-- never closed <p", 1),
        PAGE.upper(),
    ],
)
def test_a_page_with_broken_markup_is_compressed(broken: str) -> None:
    assert registry.find_compressor(broken).name == "html"
    assert "hive number 13 stands" in compress_page("hive number 13", 3, broken).lower()


@pytest.mark.parametrize("text", [CODE, PROSE, "<document>a</document>\n" * 20, "a < b > c\n" * 50, "<a>" * 5])
def test_text_that_is_not_html_is_not_recognised(text: str) -> None:
    assert not HtmlCompressor().recognises(text)


def test_no_other_content_type_is_recognised_as_html() -> None:
    assert not [content_type for content_type, text in SAMPLES.items() if HtmlCompressor().recognises(text)]


MARKUP = '< > </ <!-- --> <p> </p> <script> </script <a href= " <h2> <nav> </nav> <svg <title> &amp; <![CDATA[ <?p <td>'
BITS = st.sampled_from([*MARKUP.split(), "'", "hive 13 stands here. ", "日本", "İ", "\n", " ", "\x00"])


@settings(max_examples=150)
@given(st.lists(BITS, max_size=80).map("".join), st.booleans())
def test_pieces_are_ordered_disjoint_and_stripped_for_any_text(text: str, include_links: bool) -> None:
    index = 0
    for piece in html_parser.iter_pieces(text, DEFAULT_HTML_WEIGHTS, include_links=include_links):
        start, end = piece.span
        assert index <= start < end <= len(text)
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        index = end


@settings(max_examples=60)
@given(st.lists(BITS, max_size=200).map("".join), st.sampled_from(["", "hive 13", "links of 日本"]))
def test_kept_pieces_of_any_text_are_verbatim_and_in_order(text: str, question: str) -> None:
    passage = run_compressor(HtmlCompressor(), text, question, 3)
    index = 0
    for piece in list_pieces(passage) if passage is not None else ():
        start = text.find(piece, index)
        assert start >= 0
        index = start + len(piece)
