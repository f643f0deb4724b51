"""Term counts: the fast way equals a simple one, in any script."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract.core import bm25, terms

LETTERS = st.text(st.sampled_from("abcCDe019_ -.,\n\t'’éÉßİK日本かกข\u0301\u093fПри\x1f\ud800"), max_size=80)
WORDS = st.lists(
    st.sampled_from(
        [
            "Failed",
            "failing",
            "read_all",
            "readAll2",
            "user123",
            "42",
            "x",
            "é",
            "naïve",
            "İstanbul",
            "HTTPError",
            "人口",
            "\n",
        ]
    ),
    max_size=30,
).map(" ".join)
TEXTS = st.one_of(LETTERS, WORDS, st.tuples(WORDS, LETTERS).map("".join))


def _count_simply(text: str, spans: list[tuple[int, int]], query: bm25.Query) -> dict[int, dict[str, int]]:
    counts: dict[int, dict[str, int]] = {}
    for index, span in enumerate(spans):
        words = terms.choose_word_pattern(text).findall(text, *span)
        term_counts = Counter(
            term for word in words for term in terms.extract_terms(word) if term in query.term_weights
        )
        if term_counts:
            counts[index] = dict(term_counts)
    return counts


@given(text=TEXTS, question=TEXTS, size=st.integers(1, 40))
def test_terms_are_counted_as_by_a_simple_loop(text: str, question: str, size: int) -> None:
    spans = [(index, min(index + size, len(text))) for index in range(0, len(text), size + 1)]
    query = bm25.parse_query(question)._replace(literals=())
    assert bm25.count_terms(text, spans, query) == (_count_simply(text, spans, query) if query.term_weights else {})


@given(text=TEXTS, filler=st.sampled_from(("", "plain words " * 2_000)), data=st.data())
def test_a_word_reader_finds_the_words_of_the_pattern(text: str, filler: str, data: st.DataObject) -> None:
    whole = text + filler  # with many letters of one script, and with few
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    pattern = terms.choose_word_pattern(whole)
    words = terms.make_word_reader(whole, pattern)([(0, start), (start, end)])
    expected = [pattern.findall(whole, *span) for span in ((0, start), (start, end))]
    assert words == [*expected[0], terms.SPAN_END, *expected[1], terms.SPAN_END]


def test_counts_are_added_up_by_owner() -> None:
    counts = {0: {"a": 1}, 1: {"a": 2, "b": 1}, 3: {"b": 5}, 4: {"c": 1}}
    assert bm25.merge_counts(counts, [0, 0, 1, 1, -1]) == {0: {"a": 3, "b": 1}, 1: {"b": 5}}
