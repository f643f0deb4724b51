"""LangChain: a document compressor that keeps verbatim pieces, and a retriever over CLaRa's compressed documents.

Neither needs a running proxy. The invariant: as many documents come back from the compressor as went in, in their
order, each with its metadata, and none with more tokens than it had.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, PrivateAttr, SkipValidation
from typing_extensions import override

from ..runtime.in_process import compress_text

if TYPE_CHECKING:
    from ...compression.clara.clara import RetrievalResult
    from ...compression.clara.latents import Latents


class ClaraCompressor(BaseDocumentCompressor):
    """Shortens each document to the parts that the query is about; gaps are marked.

    `ratio` is how many times smaller; documents of less than `min_tokens` tokens, counted as `model` does, stay whole.
    What was shortened says so in its metadata, under `clara`.
    """

    ratio: float = Field(default=3, ge=1, le=1000)
    min_tokens: int = Field(default=150, ge=1)
    model: str = "gpt-4o"

    @override
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return the documents, shorter where they can be."""
        return [self._shorten_document(document, query) for document in documents]

    def _shorten_document(self, document: Document, query: str) -> Document:
        found = compress_text(document.page_content, query, self.ratio, self.model, self.min_tokens)
        if found is None:
            return document
        told = {
            **document.metadata,
            "clara": {"tokens_before": found.tokens_before, "tokens_after": found.tokens_after},
        }
        return document.model_copy(update={"page_content": found.text, "metadata": told})


class DocumentRetriever(Protocol):
    """What the retriever needs of `compression.clara.clara.Clara`: an E2E checkpoint, loaded."""

    def compress(self, documents: Sequence[str]) -> "Latents":
        """Return the documents' memories."""
        ...

    def retrieve(self, question: str, latents: "Latents", k: int | None = None) -> "RetrievalResult":
        """Return the k memories nearest to a question, best first."""
        ...


class ClaraRetriever(BaseRetriever):
    """Finds documents by their memories, the very ones that CLaRa reads: no other embedding and no other index.

    `k` documents come back, best first, with the cosine of the nearest memory in their metadata, under `score`.
    """

    clara: SkipValidation[Any]
    documents: list[Document]
    k: int = Field(default=4, ge=1)
    _latents: Any = PrivateAttr(default=None)

    @classmethod
    def from_documents(cls, clara: DocumentRetriever, documents: Sequence[Document], k: int = 4) -> Self:
        """Compress the documents, once, and return what finds them."""
        made = cls(clara=clara, documents=list(documents), k=k)
        made._latents = clara.compress([document.page_content for document in documents])
        return made

    @override
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        if not self.documents:
            return []
        latents: Latents = self._latents
        found: RetrievalResult = self.clara.retrieve(query, latents, len(latents))
        best: dict[int, float] = {}
        for memory, score in zip(found.indices, found.scores, strict=True):
            best.setdefault(latents.document_indices[memory], score)  # the nearest memory comes first
        return [self._add_score(owner, score) for owner, score in list(best.items())[: self.k]]

    def _add_score(self, owner: int, score: float) -> Document:
        document = self.documents[owner]
        return document.model_copy(update={"metadata": {**document.metadata, "score": score}})
