"""The index of a store in memory: BM25 with the statistics of the store, similarity, filters, growth."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.memory.passage_index import (
    LENGTH_SHARE,
    TERM_SATURATION,
    IndexRow,
    PassageIndex,
    encode_postings,
)

WORDS = ["battery", "charger", "screen", "moon", "planet", "cloth", "adapter"]
Documents = list[list[str]]
DOCUMENTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=12), min_size=1, max_size=30)


def build_rows(documents: Documents, first: int = 1) -> list[IndexRow]:
    """Return one row per document; the vector has the counts of the first two words."""
    return [
        IndexRow(
            chunk_id,
            f"file-{chunk_id % 3}",
            bytes((document.count(WORDS[0]), document.count(WORDS[1]))),
            encode_postings(document),
        )
        for chunk_id, document in enumerate(documents, first)
    ]


def score_document(document: Sequence[str], documents: Documents, weights: dict[str, float]) -> float:
    """Return the BM25 score of a document, as the literature defines it."""
    average = max(1.0, sum(map(len, documents)) / len(documents))
    norm = TERM_SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * len(document) / average)
    counts = Counter(document)
    score = 0.0
    for term, weight in weights.items():
        frequency = sum(term in other for other in documents)
        rarity = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
        score += weight * rarity * counts[term] * (TERM_SATURATION + 1) / (counts[term] + norm)
    return score


@given(DOCUMENTS, st.dictionaries(st.sampled_from(WORDS), st.sampled_from([0.5, 1.0]), max_size=4), st.integers(0, 30))
def test_words_are_ranked_by_bm25_however_the_index_grew(
    documents: Documents, weights: dict[str, float], cut: int
) -> None:
    rows = build_rows(documents)
    grown = PassageIndex().extend(rows[:cut])
    for row in rows[cut:]:
        grown = grown.extend([row])
    scores = {chunk: score_document(document, documents, weights) for chunk, document in enumerate(documents, 1)}
    whole = PassageIndex().extend(rows)
    assert grown.last_id == whole.last_id == len(documents)
    assert len(grown.segments) <= 1 + math.log2(len(documents) + 1)
    for index in (whole, grown):
        ranking = index.rank_by_words(weights, len(documents))
        assert set(ranking) == {chunk for chunk, score in scores.items() if score > 0}
        ranked = [scores[chunk] for chunk in ranking]
        assert ranked == pytest.approx(sorted(ranked, reverse=True), rel=1e-5)


def test_vectors_are_ranked_by_similarity_and_files_are_filtered() -> None:
    documents = [["battery"] * n + ["charger"] * (5 - n) for n in range(6)]
    index = PassageIndex().extend(build_rows(documents[:4])).extend(build_rows(documents[4:], 5))
    query = np.array([3, 1], np.int8)
    assert index.rank_by_vector(query, 3) == [6, 5, 4]
    assert index.rank_by_vector(query, 10, lambda file_id: file_id == "file-0") == [6, 3]
    assert index.rank_by_vector(np.array([-1, 0], np.int8), 10) == []
    assert index.rank_by_vector(np.zeros(2, np.int8), 10) == []
    assert index.rank_by_words({"battery": 1.0}, 10, lambda file_id: file_id == "file-1") == [4]


def test_index_without_terms_or_chunks_finds_nothing() -> None:
    assert PassageIndex().rank_by_words({"moon": 1.0}, 5) == []
    assert PassageIndex().rank_by_vector(np.ones(2, np.int8), 5) == []
    assert PassageIndex().extend([]).last_id == -1
    index = PassageIndex().extend([IndexRow(1, "file", b"\x01\x01", encode_postings([]))])
    assert index.rank_by_words({"moon": 1.0}, 5) == []
    assert index.rank_by_vector(np.ones(2, np.int8), 5) == [1]
    assert index.size_bytes > 0


def test_many_repetitions_of_a_term_are_counted_up_to_a_bound() -> None:
    assert encode_postings(["moon"] * 1000)[4] == 255


def test_a_word_that_every_chunk_has_finds_nothing_beside_rarer_words() -> None:
    index = PassageIndex().extend(build_rows([["moon", "screen"], ["moon", "planet"], ["moon"]]))
    question = {"moon": 1.0, "planet": 1.0, "battery": 1.0}
    assert index.rank_by_words(question, 5, min_share=0.05) == [2]
    assert index.rank_by_words({"moon": 1.0}, 5, min_share=0.05) == [3, 1, 2]
