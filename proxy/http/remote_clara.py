"""CLaRa on another machine: another clara-proxy runs the model, and this one needs no torch.

Jobs that arrive together travel in one request. A request that fails on the way, or meets a full queue, is sent again
until its jobs' deadlines: the same job has the same result. A stream is a request of its own.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import aiohttp

from ...compression.clara.async_engine import LocalModelConfig
from ...compression.clara.jobs import ClaraAnswer, ModelJob
from ...compression.compressor import ModelUsage
from ...compression.models.cost import ModelCost
from ...compression.models.errors import DeadlineError, ModelError, QueueFullError
from ...compression.models.worker import WorkerStatus
from .remote_connection import RemoteConnection, read_error

BATCH_SECONDS = 0.005  # jobs that arrive within this time travel together
MAX_BATCH = 32
STATUS_INTERVAL = 30.0
UNLOAD_CHECKS, UNLOAD_INTERVAL = 20, 0.25  # seconds
DEFAULT_SECONDS = 120.0  # of a job without a deadline
log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _RemoteJob:
    job: ModelJob
    deadline: float
    cost: ModelCost
    rate: int | None
    counts_cut: bool
    future: "Future[ClaraAnswer]" = field(default_factory=Future[ClaraAnswer])


class RemoteClara:
    """The model of the clara-proxy at `url`; `key` is one of its keys. Belongs to one event loop."""

    def __init__(self, config: LocalModelConfig, url: str, key: str | None, max_waiting: int) -> None:
        self.config, self._url, self._max_waiting = config, url.rstrip("/"), max_waiting
        self._loop = asyncio.get_running_loop()
        self._connection = RemoteConnection(self._url, key)
        self._remote_status: dict[str, Any] = {}
        self._keep_alive: float | None = None
        self._root = self
        self._rate: int | None = None
        self._pending: list[_RemoteJob] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy_jobs = 0
        self._is_closed = False
        self.worker = RemoteQueue(self)
        self._start_task(self._watch_status())

    @property
    def name(self) -> str:
        """Return the name of the model in responses."""
        return "clara"

    @property
    def rates(self) -> list[int]:
        """Return the compression rates of the remote model as far as they are known."""
        return [int(rate) for rate in self._remote_status.get("rates", [])]

    def select_rate(self, rate: int | None) -> "RemoteClara":
        """Return the model at a compression rate; the other machine refuses a rate that it does not have."""
        if rate is None:
            return self
        clara = copy(self)  # it shares the connections and the queue
        clara._rate = rate
        return clara

    def set_keep_alive(self, seconds: float | None) -> None:
        """Set the seconds without work until the other machine unloads the model."""
        self._root._keep_alive = seconds

    def submit(
        self,
        job: ModelJob,
        *,
        deadline: float | None = None,
        cost: ModelCost | None = None,
        counts_cut: bool = False,
    ) -> "Future[ClaraAnswer]":
        """Queue a job, from any thread; cancelling its future drops the job. Raises like `Worker.submit`.

        With `counts_cut`, documents that were read in part count as left out.
        """
        root = self._root
        root._check_queue()
        end = time.monotonic() + DEFAULT_SECONDS if deadline is None else deadline
        request = _RemoteJob(job, end, cost or ModelCost(), self._rate, counts_cut)
        self._loop.call_soon_threadsafe(root._enqueue, request)
        return request.future

    async def run_job(self, job: ModelJob, seconds: float) -> ClaraAnswer:
        """Return the answer of a job that generates text."""
        future = self.submit(job, deadline=time.monotonic() + seconds)
        return await asyncio.wrap_future(future)

    async def answer(self, documents: Sequence[str], question: str, max_new_tokens: int, seconds: float) -> ClaraAnswer:
        """Return the answer to a question from documents."""
        return await self.run_job(ModelJob("ask", documents, question, max_new_tokens=max_new_tokens), seconds)

    async def stream(
        self, documents: Sequence[str], question: str, max_new_tokens: int, seconds: float
    ) -> AsyncGenerator[str | ClaraAnswer]:
        """Yield the answer's text in pieces as the other machine sends them, and the whole answer."""
        root, deadline = self._root, time.monotonic() + seconds
        root._check_queue()
        job = ModelJob("ask", documents, question, max_new_tokens=max_new_tokens)
        request = _RemoteJob(job, deadline, ModelCost(), self._rate, counts_cut=False)
        body = root._build_body([request], stream=True)
        root._busy_jobs += 1
        try:
            async with aclosing(root._connection.post_for_lines("/clara/jobs", body, deadline)) as lines:
                async for line in lines:
                    if "piece" in line:
                        yield line["piece"]
                        continue
                    _resolve(request, line.get("results", [line])[0])  # an older version sends one JSON object
                    yield request.future.result()
                    return
            raise ModelError(f"{self._url} ended the answer before its end")
        finally:
            root._busy_jobs -= 1

    async def embed(
        self,
        texts: Sequence[str],
        seconds: float,
        cost: ModelCost | None = None,  # noqa: ARG002 - the other machine's ledger has it
        max_tokens: int | None = None,
    ) -> list[list[float]]:
        """Return one vector of length 1 per text."""
        body = {
            "texts": list(texts),
            "max_length": max_tokens,
            "compression_rate": self._rate,
            "keep_alive": self._root._keep_alive,
        }
        reply = await self._connection.post("/embed", body, time.monotonic() + seconds)
        embeddings: list[list[float]] = reply["embeddings"]
        return embeddings

    def count_jobs(self) -> tuple[int, int]:
        """Return the number of jobs that wait to be sent, and of those that are on the other machine."""
        return len(self._pending), self._busy_jobs

    def status(self) -> dict[str, Any]:
        """Return the status of the other machine as last seen, with its address."""
        known = {"loaded": False, "loading": False, "waiting": 0, "running": 0, **self._remote_status}
        return {**known, "backend": self._url, "model": self._remote_status.get("model", self.config.model)}

    def unload(self) -> bool:
        """Ask the other machine to unload its model; return True if it was loaded when last seen."""
        self._start_task(self._unload())
        return bool(self._remote_status.get("loaded"))

    async def aclose(self) -> None:
        """Cancel all jobs and close the connections."""
        self._is_closed = True
        for request in self._pending:
            request.future.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.aclose()

    def _check_queue(self) -> None:
        if self._is_closed:
            raise ModelError("the connection to the CLaRa machine is closed")
        if sum(self.count_jobs()) >= self._max_waiting:
            raise QueueFullError(f"{self._max_waiting} jobs are waiting already; try again later")

    def _build_body(self, batch: list[_RemoteJob], *, stream: bool = False) -> dict[str, Any]:
        return {
            "jobs": [_encode_job(request) for request in batch],
            "compression_rate": batch[0].rate,
            "keep_alive": self._keep_alive,
            "stream": stream,
        }

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _enqueue(self, request: _RemoteJob) -> None:
        if not self._pending:
            self._loop.call_later(BATCH_SECONDS, self._flush)
        self._pending.append(request)

    def _flush(self) -> None:
        waiting, self._pending = self._pending, []
        for rate in dict.fromkeys(request.rate for request in waiting):
            group = [request for request in waiting if request.rate == rate and not request.future.done()]
            for start in range(0, len(group), MAX_BATCH):
                batch = group[start : start + MAX_BATCH]
                task = self._start_task(self._send_batch(batch))
                for request in batch:
                    request.future.add_done_callback(partial(self._stop_unwanted, batch, task))

    def _stop_unwanted(self, batch: list[_RemoteJob], task: asyncio.Task[None], _: object) -> None:
        """Cancel a request if all its jobs have ended; runs in any thread."""
        if all(request.future.done() for request in batch) and not task.done():
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task.cancel)

    async def _send_batch(self, batch: list[_RemoteJob]) -> None:
        timers = [
            self._loop.call_later(max(0.0, request.deadline - time.monotonic()), _expire, request) for request in batch
        ]
        self._busy_jobs += len(batch)
        last = max(request.deadline for request in batch)
        try:
            reply = await self._connection.post("/clara/jobs", self._build_body(batch), last)
            for request, result in zip(batch, reply["results"], strict=True):
                _resolve(request, result)
        except (ModelError, KeyError, TypeError, ValueError) as error:
            cause = error if isinstance(error, ModelError) else ModelError(f"{self._url} is not a clara-proxy")
            for request in batch:
                _set_error(request, cause)
        finally:
            self._busy_jobs -= len(batch)
            for timer in timers:
                timer.cancel()
            for request in batch:
                request.future.cancel()

    async def _unload(self) -> None:
        with suppress(ModelError):
            await self._connection.post("/unload", {}, time.monotonic() + 10)
        for _ in range(UNLOAD_CHECKS):  # the other machine unloads as soon as no job runs
            await self._read_status()
            if not self._remote_status.get("loaded"):
                break
            await asyncio.sleep(UNLOAD_INTERVAL)

    async def _watch_status(self) -> None:
        while True:
            await self._read_status()
            await asyncio.sleep(STATUS_INTERVAL)

    async def _read_status(self) -> None:
        try:
            self._remote_status = await self._connection.read_status() or self._remote_status
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.warning("the CLaRa machine %s cannot be reached: %s", self._url, type(error).__name__)


class RemoteQueue:
    """The queue of a `RemoteClara`, as compressors and metrics use it."""

    def __init__(self, clara: RemoteClara) -> None:
        self._clara = clara

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        """Queue a job; see `RemoteClara.submit`."""
        return self._clara.submit(job, deadline=deadline, cost=cost, counts_cut=True)

    def status(self) -> WorkerStatus:
        """Return the jobs of this proxy, and the state of the model when it was last seen."""
        status = self._clara.status()
        return WorkerStatus(bool(status["loaded"]), *self._clara.count_jobs(), 0.0, bool(status["loading"]))


def _encode_job(request: _RemoteJob) -> dict[str, Any]:
    job = request.job
    return {
        "kind": job.kind,
        "documents": list(cast("Sequence[str]", job.documents)),
        "question": job.question,
        "k": job.k,
        "template": job.template,
        "max_new_tokens": job.max_new_tokens,
        "seconds": max(0.001, request.deadline - time.monotonic()),
    }


def _resolve(request: _RemoteJob, result: dict[str, Any]) -> None:
    if "error" in result:
        _set_error(request, read_error(result, 400))
        return
    usage = ModelUsage(*result["usage"])
    fields: dict[str, Any] = {**result, "tokens": tuple(result["tokens"]), "usage": usage}
    answer = ClaraAnswer(**{name: fields[name] for name in fields.keys() & set(ClaraAnswer._fields)})
    if request.counts_cut:
        answer = answer._replace(left_out=answer.left_out + answer.cut)
    request.cost.tokens += usage.tokens
    request.cost.gpu_seconds += usage.gpu_seconds
    with suppress(InvalidStateError):
        request.future.set_result(answer)


def _expire(request: _RemoteJob) -> None:
    _set_error(request, DeadlineError("the deadline passed before the answer was complete"))


def _set_error(request: _RemoteJob, error: Exception) -> None:
    with suppress(InvalidStateError):
        request.future.set_exception(error)
