"""The worker thread that owns the model: callers submit jobs and get futures.

Jobs that wait together are encoded and decoded together; later jobs join a running batch between two tokens. Encoding
does one forward pass per turn, so that a long document delays neither running answers nor short jobs. The queue is
bounded. Cancelled and late jobs are dropped, even if they have started. The model is loaded at the first job and
unloaded after a time without jobs. Importing this module does not load torch; the loader does.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from . import resources
from .exceptions import ClaraError, DeadlineError, QueueFullError
from .jobs import ModelCost, ModelJob

if TYPE_CHECKING:
    from torch import Tensor

    from .clara import Clara, PreparedPrompt
    from .decoding import DecodingBatch, GeneratedRow, TextStream
    from .latents import Latents

_log = logging.getLogger(__name__)

MAX_QUESTION_CHARACTERS = 65_536  # many times what a prompt of 1,024 tokens can hold
LONG_JOB_CHARACTERS = 40_000  # a job with more, some forty windows, starts in a batch of its own
_EXHAUSTED = object()


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


@dataclass(eq=False, slots=True)
class _JobRequest:
    job: ModelJob
    deadline: float | None
    on_text: Callable[[str], None] | None
    cost: ModelCost
    future: "Future[Any]" = field(default_factory=Future[Any])
    prompt: "PreparedPrompt | None" = None
    stream: "TextStream | None" = None


class _StartingBatch(NamedTuple):
    """Jobs being encoded, and the steps of one forward pass that encode them."""

    jobs: list[_JobRequest]
    steps: Generator[None]


class Worker:
    """Runs jobs on one `Clara`, which `load` creates in the worker's thread at the first job."""

    def __init__(self, load: "Callable[[], Clara]", limits: WorkerLimits | None = None) -> None:
        self._load, self._limits = load, limits or WorkerLimits()
        self.keep_alive = self._limits.keep_alive
        self._is_loading = False
        self._idle_since: float | None = None
        self._waiting: queue.Queue[_JobRequest] = queue.Queue(self._limits.max_waiting)
        self._wake_event, self._is_closing, self._should_unload = threading.Event(), False, False
        self._clara: Clara | None = None
        self._decoding: DecodingBatch | None = None
        self._running: list[tuple[_JobRequest, GeneratedRow]] = []
        self._starting_batches: list[_StartingBatch] = []
        self._busy_seconds, self._uses_accelerator = 0.0, False
        self._thread = threading.Thread(target=self._run, name="clara-worker", daemon=True)
        self._thread.start()

    def submit(
        self,
        job: ModelJob,
        *,
        deadline: float | None = None,
        on_text: Callable[[str], None] | None = None,
        cost: ModelCost | None = None,
    ) -> "Future[Any]":
        """Queue a job and return its future; cancelling the future drops the job.

        After `deadline`, a time of `time.monotonic()`, the future fails with `DeadlineError`. `on_text` gets the text
        in pieces, in the worker's thread, and must not block. The job's cost is added to `cost`. Raises
        `QueueFullError`, or `ClaraError` if the worker is closed or the question is too long.
        """
        if self._is_closing:
            raise ClaraError("the worker is closed")
        if len(job.question) > MAX_QUESTION_CHARACTERS:  # tokenizing a longer one would delay all other jobs
            raise ClaraError(
                f"the question has {len(job.question):,} characters; at most {MAX_QUESTION_CHARACTERS:,} are read"
            )
        request = _JobRequest(job, deadline, on_text, cost or ModelCost())
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            raise QueueFullError(f"{self._limits.max_waiting} jobs are waiting already; try again later") from None
        self._wake_event.set()
        if self._is_closing:  # closed in the meantime: the thread does not read the queue again
            request.future.cancel()
        return request.future

    def status(self) -> WorkerStatus:
        """Return the worker's state; never loads the model."""
        is_loaded, waiting, running = self._clara is not None, self._waiting.qsize(), self._count_running()
        loading, busy_seconds = self._is_loading, self._busy_seconds
        return WorkerStatus(is_loaded, waiting, running, busy_seconds, loading, self.keep_alive, self._idle_since)

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
            for request in (request for batch in self._starting_batches for request in batch.jobs):
                request.future.cancel()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._is_closing:
            groups = _group_jobs(self._take_jobs())
            self._starting_batches.extend(_StartingBatch(group, self._start_batch(group)) for group in groups)
            if self._starting_batches and self._ensure_loaded():
                self._advance_starting()
            if self._running:
                self._decode_step()
            elif self._waiting.empty() and not self._starting_batches:
                self._wait_for_work()
        starting = [request for batch in self._starting_batches for request in batch.jobs]
        running = [request for request, _ in self._running]
        for request in [*starting, *running, *self._take_jobs(everything=True)]:
            request.future.cancel()
        self._release_model()

    def _count_running(self) -> int:
        return len(self._running) + sum(len(batch.jobs) for batch in self._starting_batches)

    def _take_jobs(self, *, everything: bool = False) -> list[_JobRequest]:
        room = self._limits.max_waiting if everything else self._limits.max_running - self._count_running()
        requests: list[_JobRequest] = []
        while len(requests) < room:
            try:
                request = self._waiting.get_nowait()
            except queue.Empty:
                break
            if _is_active(request):
                requests.append(request)
        return requests

    def _ensure_loaded(self) -> bool:
        """Load the model unless it is loaded; if that fails, the starting jobs fail with its error."""
        if self._clara is not None:
            return True
        self._is_loading = True
        try:
            self._clara = self._load()
            self._uses_accelerator = self._clara.uses_accelerator
            resources.release_memory()  # what loading has freed
        except Exception as error:  # noqa: BLE001 - passed to the futures
            for request in (request for batch in self._starting_batches for request in batch.jobs):
                _set_error(request, error)
            self._starting_batches = []
        finally:
            self._is_loading = False
        return self._clara is not None

    def _advance_starting(self) -> None:
        """Do one forward pass of every starting batch; a batch without active jobs ends here."""
        unfinished: list[_StartingBatch] = []
        for batch in self._starting_batches:
            active = [request for request in batch.jobs if _is_active(request)]  # late jobs fail here
            if not active:
                batch.steps.close()
                continue
            with self._charge_time(active):
                if next(batch.steps, _EXHAUSTED) is not _EXHAUSTED:
                    unfinished.append(batch)
        self._starting_batches = unfinished

    @contextmanager
    def _charge_time(self, requests: Sequence[_JobRequest]) -> Generator[None]:
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
        self._idle_since = time.time() if self._clara is not None else None
        has_event = self._wake_event.wait(self.keep_alive if self._clara is not None else None)
        self._wake_event.clear()
        self._idle_since = None
        if not has_event:
            self._release_model()

    def _release_model(self) -> None:
        self._should_unload = False
        if self._clara is None:
            return
        self._clara, self._decoding, self._running, self._starting_batches = None, None, [], []
        resources.release_memory()

    def _start_batch(self, requests: list[_JobRequest]) -> Generator[None]:
        # Any failure of a job goes to its future; the thread and the other jobs continue.
        if self._clara is None:
            raise ClaraError("a job cannot start before the model is loaded")
        try:
            yield from self._prepare_batch(self._clara, requests)
        except Exception as error:  # noqa: BLE001 - passed to the future
            self._drop_orphaned_rows()
            if len(requests) == 1:
                _set_error(requests[0], error)
                return
            _log.warning("a batch of %d failed (%s); its jobs run one by one", len(requests), type(error).__name__)
            for request in requests:
                yield from self._start_batch([request])

    def _drop_orphaned_rows(self) -> None:
        """Remove rows that a failed batch had added to the decoding batch: they belong to no future."""
        if self._decoding is not None:
            row_ids = {id(row) for _, row in self._running}
            self._decoding.remove_rows([row for row in self._decoding.rows if id(row) not in row_ids])

    def _prepare_batch(self, clara: "Clara", requests: list[_JobRequest]) -> Generator[None]:
        documents = [_cut_documents(clara, request.job) for request in requests]
        latents = yield from clara.collect_latents_steps(documents, len(requests))
        retrieving_kinds = ("retrieve", "answer", "ask") if clara.can_retrieve else ("retrieve", "answer")
        retrieving = [
            request for request in requests if request.job.kind in retrieving_kinds and not request.job.has_no_documents
        ]
        queries = clara.encode_questions([request.job.question for request in retrieving]) if retrieving else []
        query_of = {id(request): query for request, query in zip(retrieving, queries, strict=True)}
        prepared: list[_JobRequest] = []
        for request, own_latents in zip(requests, latents, strict=True):
            try:
                if self._prepare_job(clara, request, own_latents, query_of.get(id(request))):
                    prepared.append(request)
            except ClaraError as error:
                _set_error(request, error)
        self._start_decoding(clara, [request for request in prepared if _is_active(request)])

    def _prepare_job(self, clara: "Clara", request: _JobRequest, latents: "Latents", query: "Tensor | None") -> bool:
        """Return True if the job is ready to decode, False if it is done without decoding."""
        job = request.job
        request.cost.tokens += sum(latents.token_counts) if latents is not job.documents else 0
        retrieval = None if query is None else clara.find_nearest(query, latents, job.k)
        if job.kind in ("compress", "retrieve"):
            _set_result(request, latents if job.kind == "compress" else retrieval)
            return False
        if job.kind == "paraphrase":
            request.prompt = clara.prepare_paraphrase(job.template, latents)
        else:
            request.prompt = clara.prepare_answer(job.question, latents, retrieval)
        if job.prompt_only:
            from .embedded_prompt import EmbeddedPrompt  # noqa: PLC0415 - loads torch

            _set_result(request, EmbeddedPrompt(clara, request.prompt))
        return not job.prompt_only

    def _start_decoding(self, clara: "Clara", requests: Sequence[_JobRequest]) -> None:
        if not requests:
            return
        if self._decoding is None:
            self._decoding = clara.create_batch()
        prepared = [request.prompt for request in requests if request.prompt is not None]
        rows = clara.add_to_batch(self._decoding, prepared, [request.job.max_new_tokens for request in requests])
        for request in requests:
            request.stream = clara.text_stream() if request.on_text is not None else None
        self._running.extend(zip(requests, rows, strict=True))
        self._deliver_results()

    def _decode_step(self) -> None:
        if self._decoding is None or self._clara is None:
            return
        unwanted = [row for request, row in self._running if not _is_active(request)]
        if unwanted:
            unwanted_ids = {id(row) for row in unwanted}
            self._decoding.remove_rows(unwanted)
            self._running = [(request, row) for request, row in self._running if id(row) not in unwanted_ids]
        try:
            with self._charge_time([request for request, _ in self._running]):
                self._decoding.step()
        except Exception as error:  # noqa: BLE001 - passed to the futures of the batch
            _log.warning("a running batch of %d failed: %s", len(self._running), type(error).__name__)
            for request, _ in self._running:
                _set_error(request, error)
            self._decoding, self._running = None, []
        self._deliver_results()

    def _deliver_results(self) -> None:
        """Send new text to the listeners, and the replies of finished rows to their futures."""
        unfinished: list[tuple[_JobRequest, GeneratedRow]] = []
        for request, row in self._running:
            if not _send_text(request, row):
                if self._decoding is not None:
                    self._decoding.remove_rows([row])
            elif row.finish is None:
                unfinished.append((request, row))
            elif self._clara is not None and request.prompt is not None:
                reply = self._clara.build_reply(request.prompt, row)
                # An abstention is not decoded: it costs no tokens.
                is_decoded = not request.prompt.should_abstain
                request.cost.tokens += reply.prompt_tokens + len(reply.tokens) if is_decoded else 0
                _set_result(request, reply)
        self._running = unfinished


def _group_jobs(requests: Sequence[_JobRequest]) -> list[list[_JobRequest]]:
    """Return groups of jobs that start together; a job with long documents is a group of its own."""
    short = [request for request in requests if request.job.count_characters() <= LONG_JOB_CHARACTERS]
    return [
        *([short] if short else []),
        *([request] for request in requests if request.job.count_characters() > LONG_JOB_CHARACTERS),
    ]


def _cut_documents(clara: "Clara", job: ModelJob) -> "Sequence[str] | Latents":
    """Return a job's documents; with `max_document_tokens`, the beginning of each text."""
    if job.max_document_tokens is None or not isinstance(job.documents, Sequence):
        return job.documents
    return [clara.tokenizer.cut_text(text, job.max_document_tokens) for text in job.documents]


def _is_active(request: _JobRequest) -> bool:
    if request.future.done():
        return False
    if request.deadline is not None and time.monotonic() > request.deadline:
        _set_error(request, DeadlineError("the deadline passed before the answer was complete"))
        return False
    return True


def _send_text(request: _JobRequest, row: "GeneratedRow") -> bool:
    """Send new text to the listener; return False if the listener failed, which ends its own job only."""
    if request.on_text is None or request.stream is None:
        return True
    piece = request.stream.feed(row.tokens, last=row.finish is not None)
    try:
        if piece:
            request.on_text(piece)
    except Exception as error:  # noqa: BLE001 - the listener is the caller's code
        _set_error(request, error)
        return False
    return True


def _set_result(request: _JobRequest, result: object) -> None:
    try:
        request.future.set_result(result)
    except InvalidStateError:
        _log.debug("a job was cancelled as it ended")


def _set_error(request: _JobRequest, error: BaseException) -> None:
    try:
        request.future.set_exception(error)
    except InvalidStateError:
        _log.debug("a job was cancelled as it failed")
