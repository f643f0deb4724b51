"""Semantic similarity: the embeddings of the reference implementation, and no effect without the extra."""

from pathlib import Path
from typing import Any

import pytest

from clara_proxy.compression.extract import numbered_documents
from clara_proxy.compression.extract.core import passage_ranking, semantic
from clara_proxy.compression.extract.numbered_documents import DEFAULT_DOCUMENT_WEIGHTS

from ..samples import PROSE, compress_text

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "lamp", "river", "old", "is", "by", "."]
TEXT = "Document [1](Title: A) It rains. A physician came.\nDocument [2](Title: B) The mill fell. Nobody rebuilt it."


class StubModel:
    """Embeds a text that names a physician or a doctor as 1, and others as 0."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, text: str) -> "StubEmbedding":
        self.texts.append(text)
        return StubEmbedding("physician" in text or "doctor" in text or "otter of valley 8" in text)


class StubEmbedding(float):
    """A number that multiplies like a vector."""

    def __matmul__(self, other: float) -> float:
        return self * other


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubModel:
    model = StubModel()
    monkeypatch.setattr(semantic, "load_installed_model", lambda: model)
    return model


def _best(question: str) -> str:
    layout = numbered_documents.build_layout(TEXT, numbered_documents.find_headings(TEXT))
    scores = passage_ranking.score_layout(layout, question, DEFAULT_DOCUMENT_WEIGHTS)
    return TEXT[slice(*layout.spans[max(filter(layout.sizes.__getitem__, range(len(scores))), key=scores.__getitem__)])]


def test_a_similar_sentence_is_raised(stub: StubModel) -> None:
    assert _best("Did a doctor come?") == "A physician came."
    assert "A. A physician came." in stub.texts


def test_without_the_extra_only_words_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "load_installed_model", lambda: None)
    assert _best("Did a doctor come?") == "It rains."
    assert semantic.compute_similarities("x", {0: 1.0}, str) == {}


def test_only_the_best_sentences_are_embedded(stub: StubModel) -> None:
    similarities = semantic.compute_similarities("a doctor", {index: -float(index) for index in range(500)}, str)
    assert sorted(similarities) == list(range(semantic.MAX_SENTENCES))
    assert len(stub.texts) == semantic.MAX_SENTENCES + 1


def test_a_similar_sentence_of_prose_is_raised(stub: StubModel) -> None:
    assert "otter of valley 8" in compress_text("prose", PROSE, "the otter and a doctor", ratio=12)
    assert len(stub.texts) > 1


def test_nothing_is_embedded_without_a_question(stub: StubModel) -> None:
    assert semantic.compute_similarities(" ", {0: 1.0}, str) == {}
    assert stub.texts == []


def _checkpoint(folder: Path) -> Any:
    transformers, torch, tokenizers = (
        pytest.importorskip(name, reason="the reference implementation")
        for name in ("transformers", "torch", "tokenizers")
    )
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    reference = transformers.BertModel(config).eval()
    reference.save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocab={word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    return reference


@pytest.mark.parametrize("text", ["the old lamp", "the river is by the lamp . " * 30, "zzz"])
def test_embeddings_equal_those_of_the_reference_implementation(tmp_path: Path, text: str) -> None:
    reference = _checkpoint(tmp_path)
    torch = pytest.importorskip("torch")
    model = semantic.SentenceEncoder.load(tmp_path)
    ids = model.tokenizer.encode(text).ids
    assert 0 < len(ids) <= semantic.MAX_TOKENS
    with torch.inference_mode():
        mean = reference(torch.tensor([ids])).last_hidden_state[0].mean(0)
    assert model.embed(text).tolist() == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
