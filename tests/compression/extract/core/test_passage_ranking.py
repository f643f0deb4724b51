"""Ranking of sentences: by their words, heading and document, and by names in other sentences."""

from math import isfinite

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract import numbered_documents
from clara_proxy.compression.extract.core import passage_ranking
from clara_proxy.compression.extract.numbered_documents import DEFAULT_DOCUMENT_WEIGHTS

from ..samples import DOCUMENTS, SAMPLES

FILLER = "It rains there. The old mill fell in a storm. Nobody rebuilt it."


def _best(documents: dict[str, str], question: str) -> str:
    text = "\n".join(
        f"Document [{index}](Title: {title}) {body}" for index, (title, body) in enumerate(documents.items(), 1)
    )
    layout = numbered_documents.build_layout(text, numbered_documents.find_headings(text))
    scores = passage_ranking.score_layout(layout, question, DEFAULT_DOCUMENT_WEIGHTS)
    best = max(filter(layout.sizes.__getitem__, range(len(scores))), key=scores.__getitem__)
    return text[slice(*layout.spans[best])]


def _rank(documents: dict[str, str], question: str, sentence: str) -> int:
    text = "\n".join(
        f"Document [{index}](Title: {title}) {body}" for index, (title, body) in enumerate(documents.items(), 1)
    )
    layout = numbered_documents.build_layout(text, numbered_documents.find_headings(text))
    scores = passage_ranking.score_layout(layout, question, DEFAULT_DOCUMENT_WEIGHTS)
    order = sorted(filter(layout.sizes.__getitem__, range(len(scores))), key=lambda index: -scores[index])
    return [text[slice(*layout.spans[index])] for index in order].index(sentence)


def test_a_matching_title_raises_the_sentences_under_it() -> None:
    documents = {
        "Fire season": f"{FILLER} The season was dry in Chicago.",
        "Chicago Fire (season 4)": f"The season contained 23 episodes. {FILLER}",
        "Chicago": f"Chicago is a city. {FILLER}",
    }
    assert _best(documents, "how many episodes are in chicago fire season 4") == "The season contained 23 episodes."


def test_a_name_in_the_best_sentence_leads_to_a_second_document() -> None:
    second_hop = "Oddvar Lund grew up in Tromsby."
    documents = {
        "Rain": FILLER,
        "The Glass Ship": f"The Glass Ship is a film directed by Oddvar Lund. {FILLER}",
        "Fjord people": f"{FILLER} {second_hop}",
        "Snow": FILLER,
    }
    assert (
        _rank(documents, "In which town did the director of The Glass Ship grow up?", second_hop) <= 4
    )  # behind that document alone


def test_without_a_question_the_first_sentence_of_each_document_leads() -> None:
    documents = {f"T{index}": f"T{index} is a town. {FILLER}" for index in range(4)}
    assert _best(documents, "") == "T0 is a town."
    assert all(_rank(documents, "", f"T{index} is a town.") <= 4 for index in range(4))


@given(
    question=st.one_of(st.text(max_size=60), st.sampled_from(("When was Delph founded?", "how many 雨"))),
    cut=st.integers(0, len(DOCUMENTS)),
    noise=st.sampled_from(("", "\n[7] ", "\nDocument [9](Title: ) ", "\n<document>", SAMPLES["prose"])),
)
def test_every_span_has_a_finite_and_deterministic_score(question: str, cut: int, noise: str) -> None:
    text = DOCUMENTS[:cut] + noise + DOCUMENTS[cut:]
    layout = numbered_documents.build_layout(text, numbered_documents.find_headings(text))
    scores = passage_ranking.score_layout(layout, question, DEFAULT_DOCUMENT_WEIGHTS)
    assert scores == passage_ranking.score_layout(layout, question, DEFAULT_DOCUMENT_WEIGHTS)
    assert len(scores) == len(layout.spans) == len(layout.sizes) == len(layout.parents) == len(layout.document_indices)
    assert all(map(isfinite, scores))
    assert all(span[1] <= next_span[0] for span, next_span in zip(layout.spans, layout.spans[1:], strict=False))
