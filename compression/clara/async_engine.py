"""The process's local CLaRa with an asynchronous interface: a worker, a store of latents, and counters.

Importing this module does not load torch; the worker's thread does, at the first job. All errors are `ClaraError`s.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..compressor import ModelUsage
from . import resources
from .jobs import ModelCost, ModelJob
from .locate import NANO_NAME
from .worker import Worker, WorkerLimits

if TYPE_CHECKING:
    from .clara import Clara, Reply
    from .latent_quantization import Precision
    from .latents import Latents
    from .loading import Quantization


@dataclass(frozen=True, slots=True)
class LocalModelConfig:
    """The model's source and device; `latents_folder` stores compressed documents across restarts."""

    model: str
    subfolder: str | None
    base: str | None
    device: str
    quantization: "Quantization | None"
    latents_folder: Path | None
    latents_precision: "Precision" = "exact"


class ClaraAnswer(NamedTuple):
    """CLaRa's answer and its size in tokens.

    `memory_tokens` of the prompt's `prompt_tokens` stand for `text_tokens` of text; `left_out` counts the memories
    without room. `usage` includes the compression of the documents.
    """

    text: str
    finish: str
    text_tokens: int
    memory_tokens: int
    prompt_tokens: int
    completion_tokens: int
    left_out: int
    usage: ModelUsage


class LocalClara:
    """Compresses documents, answers questions and embeds texts; `seconds` is the timeout of a call.

    After the timeout, calls raise `DeadlineError`.
    """

    def __init__(self, config: LocalModelConfig, limits: WorkerLimits) -> None:
        self.config = config
        self.totals: Counter[str] = Counter()
        self.device = ""
        self.worker = Worker(self._load_model, limits)

    @property
    def name(self) -> str:
        """Return the model's name in responses: `clara-nano`, or `clara` for other checkpoints."""
        return NANO_NAME if self.config.model == NANO_NAME else "clara"

    def _load_model(self) -> "Clara":
        from .clara import Clara  # noqa: PLC0415 - loads torch, at the first job
        from .latent_store import LatentStore  # noqa: PLC0415

        config = self.config
        clara = Clara.from_pretrained(
            config.model,
            subfolder=config.subfolder,
            base=config.base,
            device=config.device,
            quantization=config.quantization,
            store=LatentStore(config.latents_folder, precision=config.latents_precision, counts=self.totals),
        )
        self.device = str(clara.model.base.device)
        self.totals["loads"] += 1
        return clara

    async def compress(self, texts: Sequence[str], seconds: float, cost: ModelCost | None = None) -> "Latents":
        """Compress documents to memories; the job's cost is added to `cost`."""
        latents: Latents = await self._run_job(ModelJob("compress", list(texts)), seconds, cost or ModelCost())
        self.totals.update(documents=len(texts), text_tokens=sum(latents.token_counts))
        return latents

    async def answer(self, documents: Sequence[str], question: str, max_new_tokens: int, seconds: float) -> ClaraAnswer:
        """Return the answer to a question from documents."""
        deadline, cost = time.monotonic() + seconds, ModelCost()
        latents = await self.compress(documents, seconds, cost)
        job = _build_ask_job(latents, question, max_new_tokens)
        reply: Reply = await self._run_job(job, deadline - time.monotonic(), cost)
        return self._build_answer(latents, reply, cost)

    async def stream(
        self, documents: Sequence[str], question: str, max_new_tokens: int, seconds: float
    ) -> AsyncGenerator["str | ClaraAnswer"]:
        """Yield the answer's text in pieces, and the whole `ClaraAnswer` at the end."""
        deadline, cost = time.monotonic() + seconds, ModelCost()
        latents = await self.compress(documents, seconds, cost)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def on_text(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = _build_ask_job(latents, question, max_new_tokens)
        future = self.worker.submit(job, deadline=deadline, on_text=on_text, cost=cost)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(pieces.put_nowait, None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            reply: Reply = future.result()
            yield self._build_answer(latents, reply, cost)
        finally:
            future.cancel()

    async def embed(self, texts: Sequence[str], seconds: float, cost: ModelCost | None = None) -> list[list[float]]:
        """Return one float32 vector [H] per text: the mean of its memory vectors."""
        latents = await self.compress(texts, seconds, cost)
        return await asyncio.to_thread(_average_documents, latents)

    def status(self) -> dict[str, Any]:
        """Return the state of model and worker; never loads the model."""
        worker = self.worker.status()
        return {
            "model": self.config.model,
            "subfolder": self.config.subfolder,
            "device": self.device or self.config.device,
            "quantization": self.config.quantization,
            "loaded": worker.loaded,
            "waiting": worker.waiting,
            "running": worker.running,
            "memory_bytes": {"process": resources.resident_bytes(), "device": resources.device_bytes(self.device)},
            "busy_seconds": round(worker.busy_seconds, 3),
            "totals": dict(self.totals),
        }

    def unload(self) -> None:
        """Unload the model as soon as no job runs."""
        self.worker.unload()

    def close(self) -> None:
        """Stop the worker."""
        self.worker.close()

    def _build_answer(self, latents: "Latents", reply: "Reply", cost: ModelCost) -> ClaraAnswer:
        self.totals.update(answers=1, completion_tokens=len(reply.tokens), prompt_tokens=reply.prompt_tokens)
        used = sum(latents.token_counts[index] for index in reply.used)
        return ClaraAnswer(
            text=reply.text,
            finish=reply.finish,
            text_tokens=used,
            memory_tokens=len(reply.used) * latents.vectors.shape[1],
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=len(reply.tokens),
            left_out=len(latents) - len(reply.used),
            usage=ModelUsage(cost.tokens, cost.gpu_seconds),
        )

    async def _run_job(self, job: ModelJob, seconds: float, cost: ModelCost) -> Any:
        return await asyncio.wrap_future(self.worker.submit(job, deadline=time.monotonic() + seconds, cost=cost))


def _average_documents(latents: "Latents") -> list[list[float]]:
    vectors = latents.vectors.float().mean(dim=1).cpu()  # [memories, H]
    rows: list[list[int]] = [[] for _ in range(latents.document_count)]
    for row, owner in enumerate(latents.document_indices):
        rows[owner].append(row)
    means = [vectors[text_rows].mean(dim=0) for text_rows in rows]  # each [H]
    return [[float(value) for value in mean.numpy()] for mean in means]


def _build_ask_job(latents: "Latents", question: str, max_new_tokens: int) -> ModelJob:
    return ModelJob("ask", latents, question=question, max_new_tokens=max_new_tokens)
