"""The real langchain-core: its compressor interface, its retriever interface, and a real (tiny, random) CLaRa."""

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


def test_documents_come_back_shorter_with_what_the_query_is_about() -> None:
    long, short = ClaraCompressor().compress_documents([LONG, SHORT], "why is the disk full?")
    assert "ERROR disk full on /dev/sda1" in long.page_content
    assert count(long.page_content) * 2 < count(LONG.page_content)
    sizes = {"tokens_before": count(LONG.page_content), "tokens_after": count(long.page_content)}
    assert long.metadata == {"source": "log", "clara": sizes}
    assert long.id == "1"
    assert short is SHORT
    assert LONG.metadata == {"source": "log"}


async def test_it_is_a_runnable_piece_of_langchain() -> None:
    (document,) = await ClaraCompressor(ratio=10).acompress_documents([LONG], "disk")
    assert count(document.page_content) * 5 < count(LONG.page_content)


def test_a_ratio_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio"):
        ClaraCompressor(ratio=0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=3000), max_size=4), st.text(max_size=40), st.floats(1, 20))
def test_as_many_as_went_in_and_none_longer(texts: list[str], query: str, ratio: float) -> None:
    documents = [Document(page_content=text, metadata={"at": at}) for at, text in enumerate(texts)]
    made = ClaraCompressor(ratio=ratio, min_tokens=1).compress_documents(documents, query)
    assert [document.metadata["at"] for document in made] == list(range(len(texts)))
    assert all(count(new.page_content) <= count(text) for new, text in zip(made, texts, strict=True))


def test_the_retriever_finds_by_memories_and_returns_documents_once(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    from clara_proxy.compression.clara.clara import Clara  # noqa: PLC0415 - needs torch
    from clara_proxy.tests.compression.clara.tiny import make_checkpoint  # noqa: PLC0415

    folder = make_checkpoint(tmp_path)
    clara = Clara.from_pretrained(folder / "clara", base=folder / "base", device="cpu")
    texts = ["the fox", "the river and the stone bridge " * 30, "lamp"]  # the second becomes several memories
    retriever = ClaraRetriever.from_documents(clara, [Document(page_content=text) for text in texts], k=3)
    found = retriever.invoke("Question: the bridge?")
    assert sorted(document.page_content for document in found) == sorted(texts)
    scores = [document.metadata["score"] for document in found]
    assert scores == sorted(scores, reverse=True)
    latents = clara.compress(texts)
    first = clara.retrieve("Question: the bridge?", latents, 1)
    assert found[0].page_content == texts[latents.document_indices[first.indices[0]]]
    assert scores[0] == pytest.approx(first.scores[0], abs=1e-5)
    one = retriever.model_copy(update={"k": 1}).invoke("Question: the bridge?")
    assert one == found[:1]
    assert ClaraRetriever.from_documents(clara, []).invoke("anything") == []
