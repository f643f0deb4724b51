"""The LangChain compressor and retriever with langchain-core and a tiny random CLaRa model."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.integrations.langchain import ClaraCompressor, ClaraRetriever
from clara_proxy.tests.running import LOG_TEXT

LONG = Document(page_content=f"{LOG_TEXT}\n2024-01-01 ERROR disk full on /dev/sda1", metadata={"source": "log"}, id="1")
SHORT = Document(page_content="It rained.", metadata={"source": "diary"})
count = get_token_counter("gpt-4o").count


def test_documents_are_compressed_for_the_query() -> None:
    long, short = ClaraCompressor().compress_documents([LONG, SHORT], "why is the disk full?")
    assert "ERROR disk full on /dev/sda1" in long.page_content
    assert count(long.page_content) * 2 < count(LONG.page_content)
    sizes = {"tokens_before": count(LONG.page_content), "tokens_after": count(long.page_content)}
    assert long.metadata == {"source": "log", "clara": sizes}
    assert long.id == "1"
    assert short is SHORT
    assert LONG.metadata == {"source": "log"}


async def test_compressor_works_asynchronously() -> None:
    (document,) = await ClaraCompressor(ratio=10).acompress_documents([LONG], "disk")
    assert count(document.page_content) * 5 < count(LONG.page_content)


def test_invalid_ratio_is_rejected() -> None:
    with pytest.raises(ValueError, match="ratio"):
        ClaraCompressor(ratio=0.5)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=3000), max_size=4), st.text(max_size=40), st.floats(1, 20))
def test_every_document_is_returned_and_none_is_longer(texts: list[str], query: str, ratio: float) -> None:
    documents = [Document(page_content=text, metadata={"index": index}) for index, text in enumerate(texts)]
    compressed = ClaraCompressor(ratio=ratio, min_tokens=1).compress_documents(documents, query)
    assert [document.metadata["index"] for document in compressed] == list(range(len(texts)))
    assert all(count(document.page_content) <= count(text) for document, text in zip(compressed, texts, strict=True))


def test_retriever_ranks_by_latents_without_duplicates(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    from clara_proxy.compression.clara.clara import Clara  # noqa: PLC0415 - needs torch
    from clara_proxy.tests.compression.clara.tiny import make_checkpoint  # noqa: PLC0415

    folder = make_checkpoint(tmp_path)
    clara = Clara.from_pretrained(folder / "clara", base=folder / "base", device="cpu")
    texts = ["the fox", "the river and the stone bridge " * 30, "lamp"]  # the second has several latents
    retriever = ClaraRetriever.from_documents(clara, [Document(page_content=text) for text in texts], k=3)
    documents = retriever.invoke("Question: the bridge?")
    assert sorted(document.page_content for document in documents) == sorted(texts)
    scores = [document.metadata["score"] for document in documents]
    assert scores == sorted(scores, reverse=True)
    latents = clara.compress(texts)
    first = clara.retrieve("Question: the bridge?", latents, 1)
    assert documents[0].page_content == texts[latents.document_indices[first.indices[0]]]
    assert scores[0] == pytest.approx(first.scores[0], abs=1e-5)
    best = retriever.model_copy(update={"k": 1}).invoke("Question: the bridge?")
    assert best == documents[:1]
    assert ClaraRetriever.from_documents(clara, []).invoke("anything") == []
