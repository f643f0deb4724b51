"""LangChain: a document compressor that keeps verbatim pieces, and a retriever over CLaRa's compressed documents.

Neither needs a running proxy. Invariant: the compressor returns every document, in order, with its metadata and no more
tokens than before.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import Field, PrivateAttr, SkipValidation
from typing_extensions import override

from ...config.extras import describe_install
from ..runtime.in_process import compress_text

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
except ImportError as error:
    raise ImportError(f"LangChain's classes need the extra: {describe_install('langchain')}") from error

if TYPE_CHECKING:
    from ...compression.clara.latents import Latents
    from ...compression.clara.memory_ranking import RetrievalResult


class ClaraCompressor(BaseDocumentCompressor):
    """Compresses each document to the verbatim pieces that matter for the query; gaps are marked.

    `ratio` is the compression ratio. Documents with fewer than `min_tokens` tokens, counted with the vocabulary of
    `model`, are returned unchanged. A compressed document has its token counts in its metadata, under `clara`.
    """

    ratio: float = Field(default=3, ge=1, le=1000)
    min_tokens: int = Field(default=150, ge=1)
    model: str = "gpt-4o"

    @override
    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return the documents, compressed if possible."""
        return [self._compress_document(document, query) for document in documents]

    def _compress_document(self, document: Document, query: str) -> Document:
        result = compress_text(document.page_content, query, self.ratio, self.model, self.min_tokens)
        if result is None:
            return document
        counts = {"tokens_before": result.tokens_before, "tokens_after": result.tokens_after}
        metadata = {**document.metadata, "clara": counts}
        return document.model_copy(update={"page_content": result.text, "metadata": metadata})


class DocumentRetriever(Protocol):
    """The part of `compression.clara.clara.Clara`, with an E2E checkpoint loaded, that the retriever needs."""

    def compress(self, documents: Sequence[str]) -> "Latents":
        """Return the latents of the documents."""
        ...

    def retrieve(self, question: str, latents: "Latents", k: int | None = None) -> "RetrievalResult":
        """Return the k latents nearest to a question, best first."""
        ...


class ClaraRetriever(BaseRetriever):
    """Retrieves documents by the latents that CLaRa also reads, without another embedding or index.

    It returns the best `k` documents, best first. The metadata of each has the cosine similarity of its nearest latent,
    under `score`.
    """

    clara: SkipValidation[Any]
    documents: list[Document]
    k: int = Field(default=4, ge=1)
    _latents: Any = PrivateAttr(default=None)

    @classmethod
    def from_documents(cls, clara: DocumentRetriever, documents: Sequence[Document], k: int = 4) -> Self:
        """Compress the documents once and return a retriever over them."""
        retriever = cls(clara=clara, documents=list(documents), k=k)
        retriever._latents = clara.compress([document.page_content for document in documents])
        return retriever

    @override
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        if not self.documents:
            return []
        latents: Latents = self._latents
        result: RetrievalResult = self.clara.retrieve(query, latents, len(latents))
        best_scores: dict[int, float] = {}
        for latent, score in zip(result.indices, result.scores, strict=True):
            best_scores.setdefault(latents.document_indices[latent], score)  # the nearest latent comes first
        return [self._add_score(index, score) for index, score in list(best_scores.items())[: self.k]]

    def _add_score(self, index: int, score: float) -> Document:
        document = self.documents[index]
        return document.model_copy(update={"metadata": {**document.metadata, "score": score}})
