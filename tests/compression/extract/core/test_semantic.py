"""Similarity in meaning: sentences without the question's words are found, and other languages stay as they were."""

from typing import Any

import numpy as np
import pytest

from clara_proxy.compression import embeddings
from clara_proxy.compression.extract import numbered_documents
from clara_proxy.compression.extract.core import passage_ranking, semantic
from clara_proxy.compression.extract.numbered_documents import DEFAULT_DOCUMENT_WEIGHTS

from ..samples import compress_text

TEXT = "Document [1](Title: A) It rains. A physician came.\nDocument [2](Title: B) The mill fell. Nobody rebuilt it."
FILLER = (
    "The train to the coast leaves at noon",
    "Carpets are woven in the northern valleys",
    "The museum opened a new wing for paintings",
    "Farmers planted barley after the harvest",
    "The bridge was painted green last year",
)
FACTS = (
    ("How much did the doctor charge?", "The physician asked for forty dollars."),
    ("Why was the game called off?", "Heavy rain flooded the pitch, so nobody could play."),
    ("Who leads the company?", "Ms Okafor became its chief executive in spring."),
    ("Is the program safe from attackers?", "An intruder could steal passwords through the old login form."),
)
OTHER_LANGUAGES = {
    "谁支付新医院的费用？": ["市长星期一为新桥揭幕。", "这座医院的费用由地区政府支付。"],
    "Кто оплатит новую больницу?": ["Мэр открыл новый мост.", "Половину расходов на больницу оплатит область."],
    "Wer bezahlt das neue Krankenhaus?": ["Die Brücke wurde grün gestrichen.", "Das Land bezahlt das Krankenhaus."],
    "من يدفع ثمن المستشفى الجديد؟": ["افتتح العمدة الجسر الجديد.", "تدفع المنطقة نصف تكاليف المستشفى."],
}


class StubModel:
    """Embeds a text about a mill as the question, and other texts at a right angle to it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, text: str) -> Any:
        self.texts.append(text)
        return np.array([1.0, 0.0] if "mill" in text or "doctor" in text else [0.0, 1.0], np.float32)


class StubSession:
    """Returns the token ids as hidden states of width 2."""

    def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
        ids = inputs["input_ids"]
        assert inputs["attention_mask"].all()
        return [np.stack([ids, np.ones_like(ids)], axis=-1).astype(np.float32)]


@pytest.fixture(autouse=True)
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "load_installed_model", lambda: None)


def _best_sentence(question: str) -> str:
    layout = numbered_documents.build_layout(TEXT, numbered_documents.find_headings(TEXT))
    scores = passage_ranking.score_layout(layout, question, DEFAULT_DOCUMENT_WEIGHTS)
    return TEXT[slice(*layout.spans[max(filter(layout.sizes.__getitem__, range(len(scores))), key=scores.__getitem__)])]


def test_a_sentence_of_documents_without_the_words_of_the_question_is_found() -> None:
    assert _best_sentence("Did a doctor come?") == "A physician came."


@pytest.mark.parametrize(("question", "answer"), FACTS)
def test_a_sentence_of_prose_without_the_words_of_the_question_is_found(question: str, answer: str) -> None:
    sentences = [f"{FILLER[index % len(FILLER)]}, as people said for the {index}th time." for index in range(60)]
    sentences[33] = answer
    assert answer in compress_text("prose", " ".join(sentences), question, ratio=8)


def test_a_sentence_of_a_transcript_counts_with_its_neighbours() -> None:
    topic = ["We should talk about the doctor's salary.", "Fine by me.", "The hospital pays too little."]
    texts = [*FILLER, *topic, *FILLER]
    question = "What was said about wages of physicians?"
    alone, together = (semantic.compute_similarities(question, texts, window) for window in (0, 1))
    reply = texts.index("Fine by me.")
    assert together[reply] > alone[reply]
    assert max(range(len(texts)), key=together.__getitem__) in range(reply - 1, reply + 2)


@pytest.mark.parametrize("question", OTHER_LANGUAGES)
def test_scores_of_other_languages_stay_the_same(question: str) -> None:
    texts = OTHER_LANGUAGES[question]
    assert semantic.add_similarity([0.0, 1.0], texts, question, 2.0) == [0.0, 1.0]
    assert semantic.add_similarity([0.0, 1.0], texts, "Who pays for the hospital?", 2.0) == [0.0, 1.0]
    assert semantic.add_similarity([0.0, 1.0], list(FILLER[:2]), question, 2.0) == [0.0, 1.0]


def test_scores_stay_the_same_without_a_question() -> None:
    assert semantic.add_similarity([0.5], ["A physician came."], " ", 2.0) == [0.5]
    assert semantic.add_similarity([], [], "Did a doctor come?", 2.0) == []


def test_the_model_of_the_extra_ranks_the_best_texts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = StubModel()
    monkeypatch.setattr(semantic, "load_installed_model", lambda: model)
    texts = [*(f"The physician came on day {index}." for index in range(40)), "The mill fell."]
    scores = [0.0] * 40 + [5.0]
    ranks = semantic.add_similarity(scores, texts, "Did a doctor come?", 1.0)
    assert len(model.texts) == semantic.MAX_REFINED + 1
    assert ranks[-1] == pytest.approx(5.0 + semantic.compute_similarities("Did a doctor come?", texts)[-1] + 1.0)


def test_an_embedding_of_the_model_is_the_normalized_mean_of_its_states() -> None:
    ids = semantic.tokenize("a lamp")
    vector = semantic.SentenceEncoder(StubSession()).embed("a lamp")
    mean = np.array([sum(ids) / len(ids), 1.0])
    assert vector.tolist() == pytest.approx((mean / np.linalg.norm(mean)).tolist())


@pytest.mark.parametrize(
    "text", ["The café's lamp_post (old) cost $4.50!", "東京 is big", "zzzqqqxxx 😀", "word " * 100]
)
def test_tokens_equal_those_of_the_reference_implementation(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the reference implementation")
    reference = tokenizers.BertWordPieceTokenizer(str(embeddings.FOLDER / "vocabulary.txt"), lowercase=True)
    reference.enable_truncation(semantic.MAX_TOKENS)
    assert semantic.tokenize(text) == reference.encode(text).ids
