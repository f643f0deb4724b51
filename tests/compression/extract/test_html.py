"""Web pages: content before furniture, headings with what stands under them, markup left out without harm."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.extract import html_parser
from clara_proxy.compression.extract.html import HtmlCompressor
from clara_proxy.compression.markers import render

from .samples import CODE, PROSE, SAMPLES, condense, pieces

MENU = "".join(f'<li class="item"><a class="link" href="/docs/page-{at}">Chapter {at}</a></li>\n' for at in range(40))
PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Keeping bees</title><style>.a { margin: 0 }</style>\n"
    f"<script>var secret = 'not text <b>at all</b>';{'f(1);' * 80}</script></head>\n<body>"
    f"<nav><ul>{MENU}</ul></nav>\n<main>"
    + "".join(
        f'<section><h2 id="s{at}">Hive {at}</h2>\n<p class="text">Hive number {at} stands in the {place}. '
        f'It gave <b>{at * 7} kg</b> of <a href="https://bees.example/honey/{at}">honey</a> last year.</p>\n</section>'
        for at, place in enumerate(["orchard", "meadow", "garden", "wood", "quarry"] * 4)
    )
    + '<div class="warning"><p>Error: the hive of the quarry could not be opened.</p></div>\n'
    "</main><footer><p>Imprint and contact of the bee club</p></footer></body></html>"
)


def shortened(question: str, ratio: float = 6, text: str = PAGE) -> str:
    condensed = condense(HtmlCompressor(), text, question, ratio)
    assert condensed is not None
    return render(condensed, None)


def test_what_is_asked_for_stays_under_its_heading_and_the_title_comes_first() -> None:
    out = shortened("How much honey did hive number 13 give?")
    assert out.index("Keeping bees") < out.index("Hive 13") < out.index("Hive number 13 stands") < out.index("91 kg")


def test_scripts_styles_menus_and_tags_between_lines_are_left_out() -> None:
    out = shortened("")
    assert not [word for word in ("secret", "margin", "<section", "class=", "Chapter 3", "</html>") if word in out]
    assert "pieces of text left out" in out


def test_an_error_stays_though_nobody_asks_for_it() -> None:
    assert "could not be opened" in shortened("How much honey did hive number 13 give?")


def test_where_links_lead_stays_only_where_links_are_asked_for() -> None:
    assert "bees.example" not in shortened("How much honey did hive number 13 give?")
    assert "https://bees.example/honey/13" in shortened("the URL of honey of hive number 13", 4)


def test_data_in_a_page_can_be_asked_for() -> None:
    data = '<script type="application/ld+json">{"@type": "Offer", "price": "41.90"}</script>'
    assert '"price": "41.90"' in shortened("price of the Offer", text=PAGE.replace("</head>", f"{data}</head>"))


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
def test_a_page_with_broken_markup_is_still_read(broken: str) -> None:
    assert registry.find_compressor(broken).name == "html"
    assert "hive number 13 stands" in shortened("hive number 13", 3, broken).lower()


@pytest.mark.parametrize("text", [CODE, PROSE, "<document>a</document>\n" * 20, "a < b > c\n" * 50, "<a>" * 5])
def test_what_is_no_page_is_not_taken_for_one(text: str) -> None:
    assert not HtmlCompressor().recognises(text)


def test_no_other_kind_is_taken_for_a_page() -> None:
    assert not [kind for kind, text in SAMPLES.items() if HtmlCompressor().recognises(text)]


MARKUP = '< > </ <!-- --> <p> </p> <script> </script <a href= " <h2> <nav> </nav> <svg <title> &amp; <![CDATA[ <?p <td>'
BITS = st.sampled_from([*MARKUP.split(), "'", "hive 13 stands here. ", "日本", "İ", "\n", " ", "\x00"])


@settings(max_examples=150, deadline=None)
@given(st.lists(BITS, max_size=80).map("".join), st.booleans())
def test_pieces_of_any_text_are_apart_in_order_and_without_blanks_around_them(text: str, links: bool) -> None:
    at = 0
    for piece in html_parser.iter_pieces(text, include_links=links):
        start, end = piece.span
        assert at <= start < end <= len(text)
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        at = end


@settings(max_examples=60, deadline=None)
@given(st.lists(BITS, max_size=200).map("".join), st.sampled_from(["", "hive 13", "links of 日本"]))
def test_what_stays_of_any_text_is_verbatim_and_in_order(text: str, question: str) -> None:
    condensed = condense(HtmlCompressor(), text, question, 3)
    at = 0
    for piece in pieces(condensed) if condensed is not None else ():
        found = text.find(piece, at)
        assert found >= 0
        at = found + len(piece)
