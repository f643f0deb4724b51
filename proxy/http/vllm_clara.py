"""CLaRa with vLLM: this process encodes documents and lays out prompts, and vLLM servers generate the answers."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...compression.clara.async_engine import LocalClara, LocalModelConfig
from ...compression.clara.exceptions import UnknownRateError
from ...compression.clara.jobs import ModelJob
from ...compression.clara.worker import Worker
from ...compression.models.cost import ModelCost
from ...compression.models.errors import DeadlineError, ModelError, QueueFullError
from ...compression.models.worker import WorkerLimits, WorkerStatus
from .vllm_decoders import VllmDecoders
from .vllm_generation import Generation

if TYPE_CHECKING:
    from ...compression.clara.clara import Clara
    from ...compression.clara.embedded_prompt import EmbeddedPrompt

DEFAULT_SECONDS = 120.0  # of a job without a deadline


class VllmClara(LocalClara):
    """The model of `config`, decoded by the vLLM servers at `urls`. Belongs to one event loop.

    A server has one base with one vocabulary, so only the default compression rate is available.
    """

    def __init__(self, config: LocalModelConfig, limits: WorkerLimits, urls: Sequence[str], key: str | None) -> None:
        self._decoders = VllmDecoders(urls, key)
        super().__init__(config, limits)

    def _create_worker(self) -> Worker:
        return VllmWorker(self._load_model, self._limits, self._decoders)

    @property
    def rates(self) -> list[int]:
        """Return the compression rate of the exported checkpoint."""
        return super().rates[:1]

    def select_rate(self, rate: int | None) -> "VllmClara":
        """Return this model. Raises `UnknownRateError` for any rate but the default one."""
        if rate is None or rate in self.rates:
            return self
        available = ", ".join(map(str, self.rates)) or "none"
        raise UnknownRateError(f"the vLLM servers have no compression rate {rate}; available: {available}")

    def status(self) -> dict[str, Any]:
        """Return the state of the model and of the vLLM servers."""
        return {**super().status(), "backend": "vllm", "decoders": self._decoders.status()}

    async def aclose(self) -> None:
        """Cancel all jobs, and close the connections."""
        await super().aclose()
        await self._decoders.aclose()


class VllmWorker(Worker):
    """A worker that encodes documents and questions; answers are decoded elsewhere, all at the same time."""

    def __init__(self, load: "Callable[[], Clara]", limits: WorkerLimits, decoders: VllmDecoders) -> None:
        self._decoders, self._max_waiting = decoders, limits.max_waiting
        self._answers: set[Future[Any]] = set()
        self._answers_lock = threading.Lock()
        super().__init__(load, limits)

    def submit(
        self,
        job: ModelJob,
        *,
        deadline: float | None = None,
        on_text: Callable[[str], None] | None = None,
        cost: ModelCost | None = None,
    ) -> "Future[Any]":
        """Queue a job, as `Worker.submit` does; `on_text` is called in the event loop's thread."""
        if job.kind in ("compress", "retrieve"):
            return super().submit(job, deadline=deadline, cost=cost)
        answer, cost = Future[Any](), cost or ModelCost()
        end = time.monotonic() + DEFAULT_SECONDS if deadline is None else deadline
        with self._answers_lock:
            if len(self._answers) >= self._max_waiting:
                raise QueueFullError(f"{self._max_waiting} jobs are waiting already; try again later")
            self._answers.add(answer)
        answer.add_done_callback(self._forget_answer)

        def on_prepared(prepared: "Future[EmbeddedPrompt]") -> None:
            """Start to decode; runs in the worker's thread, or in that of a cancelling caller."""
            if answer.done() or prepared.cancelled():
                answer.cancel()
            elif (error := prepared.exception()) is not None:
                with suppress(InvalidStateError):
                    answer.set_exception(error)
            else:
                generation = Generation(prepared.result(), job.max_new_tokens, on_text)
                self._start_generation(generation, answer, end, cost)

        try:
            prepared = super().submit(replace(job, prompt_only=True), deadline=deadline, cost=cost)
        except ModelError:
            answer.cancel()
            raise
        answer.add_done_callback(lambda _: prepared.cancel())
        prepared.add_done_callback(on_prepared)
        return answer

    def status(self) -> WorkerStatus:
        """Return the worker's state; answers that are decoded elsewhere are running."""
        status = super().status()
        return status._replace(running=max(status.running, len(self._answers) - status.waiting))

    def close(self, timeout: float = 10.0) -> None:
        """Cancel all jobs and stop the thread."""
        super().close(timeout)
        with self._answers_lock:
            answers = list(self._answers)
        for answer in answers:
            answer.cancel()

    def _forget_answer(self, answer: "Future[Any]") -> None:
        with self._answers_lock:
            self._answers.discard(answer)

    def _start_generation(
        self, generation: Generation, answer: "Future[Any]", deadline: float, cost: ModelCost
    ) -> None:
        loop = self._decoders.loop

        def start() -> None:
            task = loop.create_task(self._decode(generation, answer, deadline, cost))
            answer.add_done_callback(lambda _: _call_in_loop(loop, task.cancel))

        if not _call_in_loop(loop, start):
            answer.cancel()

    async def _decode(self, generation: Generation, answer: "Future[Any]", deadline: float, cost: ModelCost) -> None:
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._decoders.decode(generation)
            reply = generation.build_reply()
            cost.tokens += generation.prompt.prompt.count_tokens(len(reply.tokens))
            with suppress(InvalidStateError):
                answer.set_result(reply)
        except TimeoutError:
            sentences = ["the deadline passed before the answer was complete", self._decoders.describe_problems()]
            _set_error(answer, DeadlineError("; ".join(filter(None, sentences))))
        except Exception as error:  # noqa: BLE001 - passed to the future
            _set_error(answer, error)
        finally:
            answer.cancel()


def _call_in_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> bool:
    """Call a function in a loop's thread; return False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return False
    return True


def _set_error(answer: "Future[Any]", error: Exception) -> None:
    with suppress(InvalidStateError):
        answer.set_exception(error)
