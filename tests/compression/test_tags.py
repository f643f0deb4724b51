import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import tags
from clara_proxy.compression.tags import TaggedSpan


def test_spans_are_in_order_with_and_without_tags() -> None:
    text = "a<clara:keep>b</clara:keep>c<clara:compress>d</clara:compress>"
    keep, compress = tags.find_tagged_spans(text)
    assert (keep.action, text[slice(*keep.outer)], text[slice(*keep.inner)]) == ("keep", text[1:27], "b")
    assert (compress.action, text[slice(*compress.outer)], text[slice(*compress.inner)]) == ("compress", text[28:], "d")


def test_span_may_be_empty() -> None:
    assert tags.find_tagged_spans("<clara:keep></clara:keep>") == [TaggedSpan("keep", (0, 25), (12, 12))]


def test_spans_do_not_nest() -> None:
    text = "<clara:keep>a<clara:compress>b</clara:compress>c</clara:keep>"
    assert [text[slice(*span.inner)] for span in tags.find_tagged_spans(text)] == [
        "a<clara:compress>b</clara:compress>c"
    ]


@pytest.mark.parametrize("text", ["a <clara:keep>b", "a <clara:keep>b</clara:compress>", "a <clara:keep>b<clara:keep>"])
def test_unclosed_keep_reaches_to_the_end(text: str) -> None:
    assert tags.find_tagged_spans(text) == [TaggedSpan("keep", (2, len(text)), (2, len(text)))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "<clara:compress>never closed",
        "never opened</clara:keep>",
        "</clara:compress>the wrong way round<clara:compress>",
        "<clara:compress>mixed</clara:keep>",
        "<clara:KEEP>x</clara:KEEP>",
        "<clara:keep >x</clara:keep >",
        "<clara:drop>x</clara:drop>",
        "<keep>x</keep>",
    ],
)
def test_other_text_has_no_tags(text: str) -> None:
    assert tags.find_tagged_spans(text) == []


def test_unmatched_closing_tag_is_ignored() -> None:
    text = "<clara:keep>a</clara:compress>b<clara:keep>c</clara:keep>d</clara:keep>"
    assert [text[slice(*span.inner)] for span in tags.find_tagged_spans(text)] == ["a</clara:compress>b<clara:keep>c"]


PIECES = st.sampled_from(["<clara:keep>", "</clara:keep>", "<clara:compress>", "</clara:compress>", "x", "<clara:"])


@given(st.lists(PIECES).map("".join))
def test_spans_do_not_overlap_and_lie_within_their_tags(text: str) -> None:
    position = 0
    for span in tags.find_tagged_spans(text):
        if span.outer == span.inner:  # an unclosed keep
            assert (span.action, text[slice(*span.outer)][:12], span.outer[1]) == ("keep", "<clara:keep>", len(text))
            assert position <= span.outer[0]
            position = len(text)
            continue
        assert position <= span.outer[0] < span.inner[0] <= span.inner[1] < span.outer[1] <= len(text)
        assert text[span.outer[0] : span.inner[0]] == f"<clara:{span.action}>"
        assert text[span.inner[1] : span.outer[1]] == f"</clara:{span.action}>"
        position = span.outer[1]
