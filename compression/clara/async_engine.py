"""One local CLaRa for a whole process, asynchronous: a worker, a store of latents, and counts of what was done.

Importing this loads no torch; the worker's thread does, at the first job. Errors of the model are `ClaraError`s.
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
    """Where the model comes from and where it runs; `latents` is the folder that keeps compressed documents."""

    model: str
    subfolder: str | None
    base: str | None
    device: str
    quantization: "Quantization | None"
    latents_folder: Path | None
    latents_precision: "Precision" = "exact"


class ClaraAnswer(NamedTuple):
    """What CLaRa said, and from how much: `text_tokens` stand behind `memory_tokens`; `prompt_tokens` is all it saw.

    `spent` counts the tokens it read and wrote in all, and its share of an accelerator's time.
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
    """Compresses, answers and embeds; `seconds` is always how long the caller is willing to wait."""

    def __init__(self, origin: LocalModelConfig, limits: WorkerLimits) -> None:
        self.config = origin
        self.totals: Counter[str] = Counter()
        self.device = ""
        self.worker = Worker(self._load_model, limits)

    @property
    def name(self) -> str:
        """Return what answers: `clara-nano`, or `clara` for every other checkpoint."""
        return NANO_NAME if self.config.model == NANO_NAME else "clara"

    def _load_model(self) -> "Clara":
        from .clara import Clara  # noqa: PLC0415 - torch is loaded when the first job comes
        from .latent_store import LatentStore  # noqa: PLC0415

        origin = self.config
        clara = Clara.from_pretrained(
            origin.model,
            subfolder=origin.subfolder,
            base=origin.base,
            device=origin.device,
            quantization=origin.quantization,
            store=LatentStore(origin.latents_folder, precision=origin.latents_precision, counts=self.totals),
        )
        self.device = str(clara.model.base.device)
        self.totals["loads"] += 1
        return clara

    async def compress(self, texts: Sequence[str], seconds: float, cost: ModelCost | None = None) -> "Latents":
        """Compress documents to memories; what that costs is added to `cost`."""
        latents: Latents = await self._run_job(ModelJob("compress", list(texts)), seconds, cost or ModelCost())
        self.totals.update(documents=len(texts), text_tokens=sum(latents.token_counts))
        return latents

    async def answer(self, documents: Sequence[str], question: str, most: int, seconds: float) -> ClaraAnswer:
        """Answer a question from documents, in at most so many new tokens."""
        end, cost = time.monotonic() + seconds, ModelCost()
        latents = await self.compress(documents, seconds, cost)
        reply: Reply = await self._run_job(_build_ask_job(latents, question, most), end - time.monotonic(), cost)
        return self._build_answer(latents, reply, cost)

    async def stream(
        self, documents: Sequence[str], question: str, most: int, seconds: float
    ) -> AsyncGenerator["str | ClaraAnswer"]:
        """Answer piece by piece; the last thing that comes is the whole `Answer`."""
        end, cost = time.monotonic() + seconds, ModelCost()
        latents = await self.compress(documents, seconds, cost)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def say(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        future = self.worker.submit(_build_ask_job(latents, question, most), deadline=end, on_text=say, cost=cost)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(pieces.put_nowait, None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            reply: Reply = future.result()
            yield self._build_answer(latents, reply, cost)
        finally:
            future.cancel()

    async def embed(self, texts: Sequence[str], seconds: float, cost: ModelCost | None = None) -> list[list[float]]:
        """Return one vector a text: the mean of its memory vectors, of the model's hidden size, in float32."""
        latents = await self.compress(texts, seconds, cost)
        vectors = latents.vectors.float().mean(dim=1).cpu()  # [memories, H]
        owners = latents.document_indices
        rows = [[row for row, owner in enumerate(owners) if owner == index] for index in range(latents.document_count)]
        means = [vectors[own].mean(dim=0) for own in rows]
        return [[float(value) for value in mean.numpy()] for mean in means]

    def status(self) -> dict[str, Any]:
        """Say what is going on; never loads the model."""
        now = self.worker.status()
        return {
            "model": self.config.model,
            "subfolder": self.config.subfolder,
            "device": self.device or self.config.device,
            "quantization": self.config.quantization,
            "loaded": now.loaded,
            "waiting": now.waiting,
            "running": now.running,
            "memory_bytes": {"process": resources.resident_bytes(), "device": resources.device_bytes(self.device)},
            "busy_seconds": round(now.busy_seconds, 3),
            "totals": dict(self.totals),
        }

    def unload(self) -> None:
        """Let the model go as soon as nothing runs."""
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


def _build_ask_job(latents: "Latents", question: str, most: int) -> ModelJob:
    return ModelJob("ask", latents, question=question, max_new_tokens=most)
