"""Jobs for the worker, and their answers. Importing this module does not load torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..compressor import ModelUsage

if TYPE_CHECKING:
    from .latents import Latents

JobKind = Literal["compress", "generate", "paraphrase", "retrieve", "answer", "ask"]


@dataclass(frozen=True, slots=True)
class ModelJob:
    """One call of the `Clara` method named by `kind`.

    "ask" is "answer" if the checkpoint can retrieve, and "generate" otherwise. The future's result is a `Latents` for
    "compress", a `RetrievalResult` for "retrieve" and a `Reply` for the others. `documents` are texts or a `Latents`;
    `k` is for "retrieve" and "answer", `template` for "paraphrase". With `max_document_tokens`, the beginning of each
    text is read. With `prompt_only`, the result is an `EmbeddedPrompt` instead of a `Reply`.
    """

    kind: JobKind
    documents: "Sequence[str] | Latents"
    question: str = ""
    k: int | None = None
    template: int | str = 0
    max_new_tokens: int = 128
    max_document_tokens: int | None = None
    prompt_only: bool = False

    @property
    def has_no_documents(self) -> bool:
        """Return True for "ask" without documents: there is nothing to retrieve."""
        return self.kind == "ask" and len(self.documents) == 0

    def count_characters(self) -> int:
        """Return the number of characters of the documents; 0 for a `Latents` and for invalid documents."""
        try:
            return sum(map(len, self.documents)) if isinstance(self.documents, Sequence) else 0
        except TypeError:  # the job itself will fail
            return 0


class ClaraAnswer(NamedTuple):
    """CLaRa's answer and its size in tokens.

    `document_tokens` are those of all documents. `memory_tokens` of the prompt's `prompt_tokens` stand for
    `text_tokens` of text. `left_out` counts the documents without a memory in the prompt, `cut` those that were read in
    part. `usage` includes the compression of the documents; `tokens` are the ids of the text.
    With `not_in_memory`, the checkpoint's abstention head says that the memories do not hold the answer; the text is
    empty.
    """

    text: str
    finish: str
    document_tokens: int
    text_tokens: int
    memory_tokens: int
    prompt_tokens: int
    completion_tokens: int
    left_out: int
    cut: int
    usage: ModelUsage
    tokens: tuple[int, ...] = ()
    not_in_memory: bool = False
