"""Counting what is asked for: the quick way finds what the plain way finds, in any script."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract.core import bm25
from clara_proxy.compression.extract.core import terms as words

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


def _plainly(text: str, spans: list[tuple[int, int]], asked: bm25.Query) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for index, span in enumerate(spans):
        said = words.choose_word_pattern(text).findall(text, *span)
        terms = Counter(term for word in said for term in words.extract_terms(word) if term in asked.weights)
        if terms:
            found[index] = dict(terms)
    return found


@given(text=TEXTS, question=TEXTS, size=st.integers(1, 40))
def test_words_are_counted_as_one_by_one(text: str, question: str, size: int) -> None:
    spans = [(at, min(at + size, len(text))) for at in range(0, len(text), size + 1)]
    asked = bm25.parse_query(question)._replace(literals=())
    assert bm25.count_terms(text, spans, asked) == (_plainly(text, spans, asked) if asked.weights else {})


@given(text=TEXTS, filler=st.sampled_from(("", "plain words " * 2_000)), data=st.data())
def test_a_reader_finds_the_words_that_the_pattern_finds(text: str, filler: str, data: st.DataObject) -> None:
    whole = text + filler  # with many letters of one script, and with few
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    assert words.make_word_reader(whole)(start, end) == words.choose_word_pattern(whole).findall(whole, start, end)


def test_what_was_counted_is_added_up_by_owner() -> None:
    counted = {0: {"a": 1}, 1: {"a": 2, "b": 1}, 3: {"b": 5}, 4: {"c": 1}}
    assert bm25.merge_counts(counted, [0, 0, 1, 1, -1]) == {0: {"a": 3, "b": 1}, 1: {"b": 5}}
