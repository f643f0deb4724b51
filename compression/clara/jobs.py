"""What the worker is asked to do, and what that cost. Importing this loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .latents import Latents

JobKind = Literal["compress", "generate", "paraphrase", "retrieve", "answer", "ask"]


@dataclass(frozen=True, slots=True)
class ModelJob:
    """One thing to do, as the methods of `Clara` do it.

    "ask" is "answer" where the checkpoint can retrieve, as it was trained to, and "generate" elsewhere. The future of
    "compress" brings a `Latents`, of "retrieve" a `Retrieved`, of the others a `Reply`. `documents` are
    texts or a `Latents`; `k` is for "retrieve" and "answer", `template` for "paraphrase".
    """

    kind: JobKind
    documents: "Sequence[str] | Latents"
    question: str = ""
    k: int | None = None
    template: int | str = 0
    max_new_tokens: int = 128


@dataclass(slots=True)
class ModelCost:
    """What jobs have cost: tokens read and written, and their share of the seconds in which an accelerator computed."""

    tokens: int = 0
    gpu_seconds: float = 0.0
