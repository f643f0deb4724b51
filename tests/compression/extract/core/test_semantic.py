"""Nearness in meaning: the same embeddings as the reference implementation, and nothing at all without the extra."""

from pathlib import Path
from typing import Any

import pytest

from clara_proxy.compression.extract import numbered_documents
from clara_proxy.compression.extract.core import passage_ranking, semantic

from ..samples import PROSE, shortened

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "lamp", "river", "old", "is", "by", "."]
TEXT = "Document [1](Title: A) It rains. A physician came.\nDocument [2](Title: B) The mill fell. Nobody rebuilt it."


class Stub:
    """Finds a text near where it names a physician or a doctor."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def embed(self, text: str) -> "Near":
        self.read.append(text)
        return Near("physician" in text or "doctor" in text or "otter of valley 8" in text)


class Near(float):
    """A number that multiplies like a vector."""

    def __matmul__(self, other: float) -> float:
        return self * other


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(semantic, "load_installed_model", lambda: made)
    return made


def _best(question: str) -> str:
    layout = numbered_documents.build_layout(TEXT, numbered_documents.find_headings(TEXT))
    scores = passage_ranking.score_layout(layout, question)
    return TEXT[slice(*layout.spans[max(filter(layout.sizes.__getitem__, range(len(scores))), key=scores.__getitem__)])]


def test_what_is_near_in_meaning_is_raised(stub: Stub) -> None:
    assert _best("Did a doctor come?") == "A physician came."
    assert "A. A physician came." in stub.read


def test_without_the_extra_words_alone_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "load_installed_model", lambda: None)
    assert _best("Did a doctor come?") == "It rains."
    assert semantic.compute_similarities("x", {0: 1.0}, str) == {}


def test_only_the_best_by_words_are_read(stub: Stub) -> None:
    found = semantic.compute_similarities("a doctor", {at: -float(at) for at in range(500)}, str)
    assert sorted(found) == list(range(semantic.MAX_SENTENCES))
    assert len(stub.read) == semantic.MAX_SENTENCES + 1


def test_prose_is_raised_too(stub: Stub) -> None:
    assert "otter of valley 8" in shortened("prose", PROSE, "the otter and a doctor", ratio=12)
    assert len(stub.read) > 1


def test_nothing_is_read_where_nothing_is_asked(stub: Stub) -> None:
    assert semantic.compute_similarities(" ", {0: 1.0}, str) == {}
    assert stub.read == []


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
        tokenizers.models.WordPiece(vocab={word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    return reference


@pytest.mark.parametrize("text", ["the old lamp", "the river is by the lamp . " * 30, "zzz"])
def test_embeddings_are_those_of_the_reference_implementation(tmp_path: Path, text: str) -> None:
    reference = _checkpoint(tmp_path)
    torch = pytest.importorskip("torch")
    model = semantic.SentenceEncoder.load(tmp_path)
    ids = model.tokenizer.encode(text).ids
    assert 0 < len(ids) <= semantic.MAX_TOKENS
    with torch.inference_mode():
        mean = reference(torch.tensor([ids])).last_hidden_state[0].mean(0)
    assert model.embed(text).tolist() == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
