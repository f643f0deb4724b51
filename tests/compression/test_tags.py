import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import tags
from clara_proxy.compression.tags import TaggedSpan


def test_stretches_in_order_with_and_without_their_tags() -> None:
    text = "a<clara:keep>b</clara:keep>c<clara:compress>d</clara:compress>"
    keep, compress = tags.find_tagged_spans(text)
    assert (keep.action, text[slice(*keep.outer)], text[slice(*keep.inner)]) == ("keep", text[1:27], "b")
    assert (compress.action, text[slice(*compress.outer)], text[slice(*compress.inner)]) == ("compress", text[28:], "d")


def test_an_empty_stretch() -> None:
    assert tags.find_tagged_spans("<clara:keep></clara:keep>") == [TaggedSpan("keep", (0, 25), (12, 12))]


def test_stretches_do_not_nest_and_the_outer_one_counts() -> None:
    text = "<clara:keep>a<clara:compress>b</clara:compress>c</clara:keep>"
    assert [text[slice(*one.inner)] for one in tags.find_tagged_spans(text)] == ["a<clara:compress>b</clara:compress>c"]


@pytest.mark.parametrize("text", ["a <clara:keep>b", "a <clara:keep>b</clara:compress>", "a <clara:keep>b<clara:keep>"])
def test_a_keep_that_never_closes_holds_to_the_end_and_stands(text: str) -> None:
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
def test_anything_else_is_ordinary_text(text: str) -> None:
    assert tags.find_tagged_spans(text) == []


def test_what_closes_nothing_does_not_end_what_is_open() -> None:
    text = "<clara:keep>a</clara:compress>b<clara:keep>c</clara:keep>d</clara:keep>"
    assert [text[slice(*one.inner)] for one in tags.find_tagged_spans(text)] == ["a</clara:compress>b<clara:keep>c"]


PIECES = st.sampled_from(["<clara:keep>", "</clara:keep>", "<clara:compress>", "</clara:compress>", "x", "<clara:"])


@given(st.lists(PIECES).map("".join))
def test_stretches_are_apart_and_each_within_its_tags(text: str) -> None:
    at = 0
    for one in tags.find_tagged_spans(text):
        if one.outer == one.inner:  # a keep without an end
            assert (one.action, text[slice(*one.outer)][:12], one.outer[1]) == ("keep", "<clara:keep>", len(text))
            assert at <= one.outer[0]
            at = len(text)
            continue
        assert at <= one.outer[0] < one.inner[0] <= one.inner[1] < one.outer[1] <= len(text)
        assert text[one.outer[0] : one.inner[0]] == f"<clara:{one.action}>"
        assert text[one.inner[1] : one.outer[1]] == f"</clara:{one.action}>"
        at = one.outer[1]
