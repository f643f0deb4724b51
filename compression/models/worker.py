"""A worker thread that owns a model: callers submit jobs and get futures.

The queue is bounded. Cancelled and late jobs are dropped, even if they have started. The model is loaded at the first
job and unloaded after a time without jobs. A subclass starts jobs and advances them, one forward pass per step, so that
jobs of many requests share a pass and a long job does not delay a short one.
"""

import gc
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from . import resources
from .cost import ModelCost
from .errors import DeadlineError, ModelError, QueueFullError

_log = logging.getLogger(__name__)


class WorkerLimits(NamedTuple):
    """The most jobs that wait and run, and the seconds until an idle model is unloaded (None: never)."""

    max_waiting: int = 256
    max_running: int = 32
    keep_alive: float | None = 900.0


class WorkerStatus(NamedTuple):
    """A worker's state; `busy_seconds` is the total time that its model has computed.

    `keep_alive` is the time in seconds until an idle model is unloaded, None for never. `idle_since` is the Unix time
    since which a loaded model has no work.
    """

    loaded: bool
    waiting: int
    running: int
    busy_seconds: float
    loading: bool = False
    keep_alive: float | None = 900.0
    idle_since: float | None = None


@dataclass(eq=False, slots=True, kw_only=True)
class JobRequest:
    """A job with its deadline, a time of `time.monotonic()`; a subclass adds the job itself."""

    deadline: float | None
    cost: ModelCost
    future: "Future[Any]" = field(default_factory=Future[Any])

    def is_active(self) -> bool:
        """Return False if the job is done or cancelled; a late job fails here with `DeadlineError`."""
        if self.future.done():
            return False
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.set_error(DeadlineError("the deadline passed before the answer was complete"))
            return False
        return True

    def set_result(self, result: object) -> None:
        """Resolve the future, unless it was cancelled."""
        try:
            self.future.set_result(result)
        except InvalidStateError:
            _log.debug("a job was cancelled as it ended")

    def set_error(self, error: BaseException) -> None:
        """Let the future fail, unless it was cancelled."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            _log.debug("a job was cancelled as it failed")


Model = TypeVar("Model")
Request = TypeVar("Request", bound=JobRequest)


class JobWorker(ABC, Generic[Model, Request]):
    """Runs requests on one model, which `load` creates in the worker's thread at the first job."""

    def __init__(self, load: Callable[[], Model], limits: WorkerLimits | None, thread_name: str) -> None:
        self._load, self._limits = load, limits or WorkerLimits()
        self.keep_alive = self._limits.keep_alive
        self._is_loading = self._has_loaded = False
        self._idle_since: float | None = None
        self._waiting: queue.Queue[Request] = queue.Queue(self._limits.max_waiting)
        self._wake_event, self._is_closing, self._should_unload = threading.Event(), False, False
        self._model: Model | None = None
        self._busy_seconds, self._uses_accelerator = 0.0, False
        self._thread = threading.Thread(target=self._run, name=thread_name, daemon=True)
        self._thread.start()

    def status(self) -> WorkerStatus:
        """Return the worker's state; never loads the model."""
        return WorkerStatus(
            self._model is not None,
            self._waiting.qsize(),
            len(self._list_requests()),
            self._busy_seconds,
            self._is_loading,
            self.keep_alive,
            self._idle_since,
        )

    def unload(self) -> None:
        """Unload the model as soon as no job runs; the next job loads it again."""
        self._should_unload = True
        self._wake_event.set()

    def close(self, timeout: float = 10.0) -> None:
        """Cancel all jobs, unload the model and stop the thread, waiting up to `timeout` seconds for it.

        A model that loads cannot be stopped: its jobs end at once, and its thread with the process.
        """
        self._is_closing = True
        self._wake_event.set()
        if self._is_loading:
            timeout = 0.0
            for request in self._list_requests():
                request.future.cancel()
        self._thread.join(timeout)

    def _enqueue(self, request: Request) -> "Future[Any]":
        """Queue a request and return its future. Raises `QueueFullError`, or `ModelError` if closed."""
        if self._is_closing:
            raise ModelError("the worker is closed")
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            raise QueueFullError(f"{self._limits.max_waiting} jobs are waiting already; try again later") from None
        self._wake_event.set()
        if self._is_closing:  # closed in the meantime: the thread does not read the queue again
            request.future.cancel()
        return request.future

    @abstractmethod
    def _start_jobs(self, requests: list[Request]) -> None:
        """Accept requests that were waiting, before the model is loaded."""

    @abstractmethod
    def _advance(self) -> None:
        """Do one step of every accepted request on the loaded model."""

    @abstractmethod
    def _list_requests(self) -> Sequence[Request]:
        """Return the accepted requests that are not done."""

    @abstractmethod
    def _drop_requests(self) -> None:
        """Forget all accepted requests, and their references to the model."""

    @abstractmethod
    def _has_accelerator(self, model: Model) -> bool:
        """Return True if the model computes on an accelerator; its seconds are counted."""

    def _run(self) -> None:
        while not self._is_closing:
            self._start_jobs(self._take_jobs())
            if not self._list_requests():
                if self._waiting.empty():
                    self._wait_for_work()
            elif self._ensure_loaded():
                self._advance()
        for request in [*self._list_requests(), *self._take_jobs(everything=True)]:
            request.future.cancel()
        self._release_model()

    def _take_jobs(self, *, everything: bool = False) -> list[Request]:
        room = self._limits.max_waiting if everything else self._limits.max_running - len(self._list_requests())
        requests: list[Request] = []
        while len(requests) < room:
            try:
                request = self._waiting.get_nowait()
            except queue.Empty:
                break
            if request.is_active():
                requests.append(request)
        return requests

    def _ensure_loaded(self) -> bool:
        """Load the model unless it is loaded; if that fails, the accepted requests fail with its error."""
        if self._model is not None:
            return True
        self._is_loading = True
        try:
            self._model = self._load()
            self._uses_accelerator = self._has_accelerator(self._model)
            if not self._has_loaded:
                gc.freeze()  # the library's objects: each later collection would stop all threads for 0.1 s
            self._has_loaded = True
            resources.release_memory()  # what loading has freed
        except Exception as error:  # noqa: BLE001 - passed to the futures
            for request in self._list_requests():
                request.set_error(error)
            self._drop_requests()
        finally:
            self._is_loading = False
        return self._model is not None

    @contextmanager
    def _charge_time(self, requests: Sequence[Request]) -> Generator[None]:
        """Charge the time of the `with` block to jobs, in equal shares."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._busy_seconds += seconds
            for request in requests:
                request.cost.gpu_seconds += seconds / len(requests) if self._uses_accelerator else 0.0

    def _wait_for_work(self) -> None:
        """Wait for work; unload the model on request, or if no work comes for `keep_alive` seconds."""
        if self._should_unload:
            self._release_model()
        self._idle_since = time.time() if self._model is not None else None
        has_event = self._wake_event.wait(self.keep_alive if self._model is not None else None)
        self._wake_event.clear()
        self._idle_since = None
        if not has_event:
            self._release_model()

    def _release_model(self) -> None:
        self._should_unload = False
        if self._model is None:
            return
        self._model = None
        self._drop_requests()
        resources.release_memory()
