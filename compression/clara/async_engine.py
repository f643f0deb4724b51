"""The process's local CLaRa with an asynchronous interface: a worker, a store of latents, and counters.

Importing this module does not load torch; the worker's thread does, at the first job. All errors are `ModelError`s.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..compressor import ModelUsage
from ..models import resources
from ..models.cost import ModelCost
from ..models.errors import DeadlineError, ModelError
from ..models.processor import choose_thread_count, count_physical_cores
from ..models.worker import WorkerLimits, WorkerStatus
from . import locate
from .exceptions import UnknownRateError
from .jobs import ClaraAnswer, ModelJob
from .locate import NANO_NAME
from .model_source import MLX_DEVICE
from .worker import Worker

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .checkpoint_config import Quantization
    from .clara import Clara
    from .latent_quantization import Precision
    from .latent_store import LatentStore
    from .latents import Latents
    from .quantized_weights import QuantizedWeightStore
    from .replies import Reply
    from .shared_latents import SharedLatents


@dataclass(frozen=True, slots=True)
class LocalModelConfig:
    """The model's source and device; `latents_folder` stores compressed documents across restarts.

    `cache_folder` holds downloaded repositories, beside the hub client's own cache; `quantized_folder` keeps quantized
    weights. Both stores, of latents and of weights, are bounded in bytes. `threads` compute on the processor; None
    chooses by the model's size. `abstention_threshold` replaces that of the checkpoint's abstention head.
    """

    model: str
    subfolder: str | None
    base: str | None
    device: str
    quantization: "Quantization | None"
    latents_folder: Path | None
    latents_precision: "Precision" = "exact"
    dtype: str = "auto"
    threads: int | None = None
    cache_folder: Path | None = None
    latents_memory_bytes: int = 1 << 28
    latents_disk_bytes: int = 1 << 33
    quantized_folder: Path | None = None
    quantized_disk_bytes: int = 1 << 34
    shared_latents: "SharedLatents | None" = None
    abstention_threshold: float | None = None


class ClaraBackend(Protocol):
    """CLaRa as the proxy uses it: in this process, or on another machine. `seconds` is the timeout of a call."""

    @property
    def config(self) -> LocalModelConfig:
        """Return the configuration of the model."""
        ...

    @property
    def worker(self) -> "WorkerBackend":
        """Return the queue of jobs."""
        ...

    @property
    def name(self) -> str:
        """Return the model's name in responses."""
        ...

    @property
    def rates(self) -> list[int]:
        """Return the compression rates that the model has, the default rate first."""
        ...

    def select_rate(self, rate: int | None) -> "ClaraBackend":
        """Return the model at a compression rate. Raises `UnknownRateError`."""
        ...

    def set_keep_alive(self, seconds: float | None) -> None:
        """Set the seconds without work until the model is unloaded."""
        ...

    async def run_job(self, job: ModelJob, seconds: float) -> ClaraAnswer:
        """Return the answer of a job that generates text."""
        ...

    async def answer(self, documents: Sequence[str], question: str, max_new_tokens: int, seconds: float) -> ClaraAnswer:
        """Return the answer to a question from documents."""
        ...

    def stream(
        self, documents: Sequence[str], question: str, max_new_tokens: int, seconds: float
    ) -> AsyncGenerator[str | ClaraAnswer]:
        """Yield the answer's text in pieces, and the whole `ClaraAnswer` at the end."""
        ...

    async def embed(
        self, texts: Sequence[str], seconds: float, cost: ModelCost | None = None, max_tokens: int | None = None
    ) -> list[list[float]]:
        """Return one vector of length 1 per text."""
        ...

    def status(self) -> dict[str, Any]:
        """Return the state of the model; never loads it."""
        ...

    def unload(self) -> bool:
        """Unload the model; return True if it was loaded."""
        ...

    async def aclose(self) -> None:
        """Cancel all jobs and release everything."""
        ...


class WorkerBackend(Protocol):
    """A queue of jobs, in this process or on another machine."""

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        """Queue a job. Raises `QueueFullError`, or `ModelError` if closed."""
        ...

    def status(self) -> WorkerStatus:
        """Return the state of the queue."""
        ...


class LocalClara:
    """Compresses documents, answers questions and embeds texts; `seconds` is the timeout of a call.

    After the timeout, calls raise `DeadlineError`. `select_rate` returns the same model at another compression rate.
    """

    def __init__(self, config: LocalModelConfig, limits: WorkerLimits, parent: "LocalClara | None" = None) -> None:
        self.config, self._limits, self._parent = config, limits, parent
        self.totals: Counter[str] = Counter() if parent is None else parent.totals
        self._store: LatentStore | None = None
        self._store_lock = threading.Lock()
        self.device, self.dtype = "", ""
        self.load_seconds: float | None = None
        self.abstention_threshold: float | None = None
        self.worker = self._create_worker()
        self._rates: dict[int, str | None] = {}
        self._siblings: dict[int, LocalClara] = {}

    @property
    def name(self) -> str:
        """Return the model's name in responses: `clara-nano`, or `clara` for other checkpoints."""
        return NANO_NAME if self.config.model == NANO_NAME else "clara"

    @property
    def rates(self) -> list[int]:
        """Return the compression rates that the model has on this machine, the default rate first."""
        if not self._rates:
            config = self.config
            try:
                self._rates = locate.find_rates(config.model, config.subfolder, locate.HubAccess(config.cache_folder))
            except ModelError:
                return []
        if self._rates:
            return list(self._rates)
        return [int((self.config.subfolder or locate.DEFAULT_SUBFOLDER).rpartition("-")[2])]

    def select_rate(self, rate: int | None) -> "LocalClara":
        """Return the model at a compression rate, or at its default rate for None.

        Rates share the weights of the base model. Raises `UnknownRateError` for a rate that the model does not have.
        """
        rates = self.rates
        if rate is None or rate == next(iter(rates), None):
            return self
        if rate not in rates:
            available = ", ".join(map(str, rates)) or "none"
            raise UnknownRateError(f"the model has no compression rate {rate}; available: {available}")
        if rate not in self._siblings:
            config = replace(self.config, subfolder=self._rates[rate])
            self._siblings[rate] = LocalClara(config, self._limits, self)
        return self._siblings[rate]

    def _create_worker(self) -> Worker:
        return Worker(self._load_model, self._limits)

    def _load_model(self) -> "Clara":
        from .clara import Clara  # noqa: PLC0415 - slow; the worker loads it at the first job

        config, started = self.config, time.perf_counter()
        if config.device != MLX_DEVICE:
            resources.load_torch_libraries()  # before anything imports torch
        store = self._open_store()
        resources.set_thread_count(config.threads or max(1, count_physical_cores() - 1))  # requests need a core
        clara = Clara.from_pretrained(
            config.model,
            subfolder=config.subfolder,
            base=config.base,
            device=config.device,
            dtype=config.dtype,
            quantization=config.quantization,
            cache=config.cache_folder,
            store=store,
            quantized_weights=_open_quantized_weights(config),
            abstention_threshold=config.abstention_threshold,
        )
        base = clara.model.base
        resources.set_thread_count(choose_thread_count(base.config.hidden_size, config.threads))
        check = clara.memory_check
        self.abstention_threshold = None if check is None else check.threshold
        self.device, self.dtype = str(base.device), str(base.dtype).removeprefix("torch.")
        self.load_seconds = round(time.perf_counter() - started, 3)
        self.totals["loads"] += 1
        return clara

    def _open_store(self) -> "LatentStore":
        """Return the store of latents, shared by all rates and opened once."""
        from .shared_latents import SharingLatentStore  # noqa: PLC0415 - loads torch, or numpy

        if self._parent is not None:
            return self._parent._open_store()
        config = self.config
        with self._store_lock:
            if self._store is None:
                self._store = SharingLatentStore(
                    config.shared_latents,
                    config.latents_folder,
                    precision=config.latents_precision,
                    memory_bytes=config.latents_memory_bytes,
                    disk_bytes=config.latents_disk_bytes,
                    counts=self.totals,
                    arrays="numpy" if config.device == MLX_DEVICE else "torch",
                )
            return self._store

    async def compress(self, texts: Sequence[str], seconds: float, cost: ModelCost | None = None) -> "Latents":
        """Compress documents to memories; the job's cost is added to `cost`."""
        return await self._compress(ModelJob("compress", list(texts)), seconds, cost or ModelCost())

    async def answer(self, documents: Sequence[str], question: str, max_new_tokens: int, seconds: float) -> ClaraAnswer:
        """Return the answer to a question from documents."""
        return await self.run_job(ModelJob("ask", documents, question, max_new_tokens=max_new_tokens), seconds)

    async def run_job(self, job: ModelJob, seconds: float) -> ClaraAnswer:
        """Return the answer of a job that generates text from documents."""
        deadline, cost = time.monotonic() + seconds, ModelCost()
        if not isinstance(job.documents, Sequence):
            raise ModelError("documents must be a list of texts")
        latents = await self.compress(job.documents, seconds, cost)
        reply: Reply = await self._run_job(replace(job, documents=latents), deadline - time.monotonic(), cost)
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
            while (piece := await _get_before(pieces, deadline)) is not None:
                yield piece
            reply: Reply = future.result()
            yield self._build_answer(latents, reply, cost)
        finally:
            future.cancel()

    async def embed(
        self, texts: Sequence[str], seconds: float, cost: ModelCost | None = None, max_tokens: int | None = None
    ) -> list[list[float]]:
        """Return one float32 vector [H] of length 1 per text: the direction of the mean of its memory vectors.

        With `max_tokens`, only the beginning of each text is read.
        """
        job = ModelJob("compress", list(texts), max_document_tokens=max_tokens)
        latents = await self._compress(job, seconds, cost or ModelCost())
        return await asyncio.to_thread(latents.embed_documents)

    def status(self) -> dict[str, Any]:
        """Return the state of model and worker; never loads the model."""
        worker = self.worker.status()
        return {
            "model": self.config.model,
            "subfolder": self.config.subfolder,
            "rates": self.rates,
            "device": self.device or self.config.device,
            "quantization": self.config.quantization,
            "backend": self.device.partition(":")[0] or self.config.device,
            "dtype": self.dtype or self.config.dtype,
            "loaded": worker.loaded,
            "initialized": worker.loaded,
            "loading": worker.loading,
            "load_seconds": self.load_seconds,
            "abstention_threshold": self.abstention_threshold,
            "keep_alive_seconds": -1 if worker.keep_alive is None else worker.keep_alive,
            "waiting": worker.waiting,
            "running": worker.running,
            "memory_bytes": {"process": resources.resident_bytes(), "device": resources.device_bytes(self.device)},
            "busy_seconds": round(worker.busy_seconds, 3),
            "totals": dict(self.totals),
        }

    def set_keep_alive(self, seconds: float | None) -> None:
        """Set the seconds without work until the model is unloaded; None restores the default, -1 never unloads."""
        default = self._limits.keep_alive
        self.worker.keep_alive = default if seconds is None else None if seconds < 0 else seconds

    def unload(self) -> bool:
        """Unload the model, at all its rates, as soon as no job runs; return True if it was loaded."""
        workers = [clara.worker for clara in (self, *self._siblings.values())]
        was_loaded = any(worker.status().loaded for worker in workers)
        for worker in workers:
            worker.unload()
        return was_loaded

    async def aclose(self) -> None:
        """Stop the workers; it waits for a forward pass that runs, and not for a model that loads."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Stop the workers."""
        for clara in (self, *self._siblings.values()):
            clara.worker.close()
        if self.config.shared_latents is not None:
            self.config.shared_latents.close()

    def _build_answer(self, latents: "Latents", reply: "Reply", cost: ModelCost) -> ClaraAnswer:
        self.totals.update(answers=1, completion_tokens=len(reply.tokens), prompt_tokens=reply.prompt_tokens)
        windows, read = Counter(latents.document_indices), Counter(latents.document_indices[row] for row in reply.used)
        return ClaraAnswer(
            text=reply.text,
            finish=reply.finish,
            document_tokens=sum(latents.document_token_counts),
            text_tokens=sum(latents.token_counts[index] for index in reply.used),
            memory_tokens=len(reply.used) * latents.vectors.shape[1],
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=len(reply.tokens),
            left_out=len(windows) - len(read),
            cut=sum(read[document] < windows[document] for document in read),
            usage=ModelUsage(cost.tokens, cost.gpu_seconds),
            tokens=reply.tokens,
            not_in_memory=reply.not_in_memory,
        )

    async def _compress(self, job: ModelJob, seconds: float, cost: ModelCost) -> "Latents":
        latents: Latents = await self._run_job(job, seconds, cost)
        self.totals.update(documents=latents.document_count, text_tokens=sum(latents.document_token_counts))
        return latents

    async def _run_job(self, job: ModelJob, seconds: float, cost: ModelCost) -> Any:
        future = asyncio.wrap_future(self.worker.submit(job, deadline=time.monotonic() + seconds, cost=cost))
        try:
            return await asyncio.wait_for(future, max(0.0, seconds))  # the worker itself may be loading
        except TimeoutError:
            raise DeadlineError(f"no answer within {seconds:.3g} seconds") from None


def _open_quantized_weights(config: LocalModelConfig) -> "QuantizedWeightStore | None":
    if config.quantized_folder is None or config.quantized_disk_bytes == 0 or config.device == MLX_DEVICE:
        return None
    from .quantized_weights import QuantizedWeightStore  # noqa: PLC0415 - loads torch

    return QuantizedWeightStore(config.quantized_folder, config.quantized_disk_bytes)


async def _get_before(pieces: "asyncio.Queue[str | None]", deadline: float) -> str | None:
    try:
        return await asyncio.wait_for(pieces.get(), max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise DeadlineError("the deadline passed before the answer was complete") from None


def _build_ask_job(latents: "Latents", question: str, max_new_tokens: int) -> ModelJob:
    return ModelJob("ask", latents, question=question, max_new_tokens=max_new_tokens)
