"""One thread owns the model; everybody else hands it jobs and gets futures.

Jobs that wait together are encoded together and decoded together, and newcomers join a running batch between two
tokens. Encoding goes forward one pass a turn, so that a long document holds up neither running answers nor short jobs.
The queue is bounded; a job that is cancelled or late is dropped, also half way. The model is loaded at the first job
and let go after a while without any. Importing this loads no torch: only the loader it is given does.
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
    from .clara import Clara, PreparedPrompt
    from .decoding import DecodingBatch, GeneratedRow, TextStream
    from .latents import Latents

_log = logging.getLogger(__name__)

LONG_JOB_CHARACTERS = 40_000  # characters in one job, some forty windows, from which on it starts on its own
_EXHAUSTED = object()


class WorkerLimits(NamedTuple):
    """How much may wait and run at once, and how many seconds a model without work stays loaded (None: for good)."""

    max_waiting: int = 256
    max_running: int = 32
    keep_alive: float | None = 900.0


class WorkerStatus(NamedTuple):
    """What a worker is doing, and the seconds its model has computed so far; asking for it never loads the model."""

    loaded: bool
    waiting: int
    running: int
    busy_seconds: float


@dataclass(eq=False, slots=True)
class _QueuedJob:
    job: ModelJob
    deadline: float | None
    on_text: Callable[[str], None] | None
    cost: ModelCost
    future: "Future[Any]" = field(default_factory=Future[Any])
    prompt: "PreparedPrompt | None" = None
    stream: "TextStream | None" = None


class _StartingBatch(NamedTuple):
    """Jobs on their way to decoding, and what brings them one forward pass further."""

    jobs: list[_QueuedJob]
    steps: Generator[None]


class Worker:
    """Runs jobs on one `Clara`, made by `load` in the worker's own thread when the first job comes."""

    def __init__(self, load: "Callable[[], Clara]", limits: WorkerLimits | None = None) -> None:
        self._load, self._limits = load, limits or WorkerLimits()
        self._waiting: queue.Queue[_QueuedJob] = queue.Queue(self._limits.max_waiting)
        self._wake_event, self._is_closing, self._should_unload = threading.Event(), False, False
        self._clara: Clara | None = None
        self._decoding: DecodingBatch | None = None
        self._running: list[tuple[_QueuedJob, GeneratedRow]] = []
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
        """Queue a job; cancelling the future drops it at once, `asyncio.wrap_future` makes it awaitable.

        `deadline` is a time of `time.monotonic()`; after it the future fails with `DeadlineError`. `say` gets the text
        piece by piece, in the worker's thread, so it must not block. `cost` is added to as the job goes on. Raises
        `QueueFullError`, or `ClaraError` when closed.
        """
        if self._is_closing:
            raise ClaraError("the worker is closed")
        ticket = _QueuedJob(job, deadline, on_text, cost or ModelCost())
        try:
            self._waiting.put_nowait(ticket)
        except queue.Full:
            raise QueueFullError(f"{self._limits.max_waiting} jobs are waiting already") from None
        self._wake_event.set()
        if self._is_closing:  # closed in between: nobody will look any more
            ticket.future.cancel()
        return ticket.future

    def status(self) -> WorkerStatus:
        """Say what is going on."""
        running = len(self._running) + sum(len(wave.jobs) for wave in self._starting_batches)
        return WorkerStatus(self._clara is not None, self._waiting.qsize(), running, self._busy_seconds)

    def unload(self) -> None:
        """Let the model go as soon as nothing runs; the next job loads it again."""
        self._should_unload = True
        self._wake_event.set()

    def close(self, timeout: float = 10.0) -> None:
        """Stop: what waits or runs is cancelled, the model let go."""
        self._is_closing = True
        self._wake_event.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._is_closing:
            tickets = self._take_jobs()
            self._starting_batches.extend(
                _StartingBatch(together, self._start_batch(together)) for together in _group_jobs(tickets)
            )
            if self._starting_batches and self._ensure_loaded():
                self._advance_starting()
            if self._running:
                self._decode_step()
            elif self._waiting.empty() and not self._starting_batches:
                self._wait_for_work()
        started = [ticket for wave in self._starting_batches for ticket in wave.jobs]
        for ticket in [*started, *(ticket for ticket, _ in self._running), *self._take_jobs(everything=True)]:
            ticket.future.cancel()
        self._release_model()

    def _take_jobs(self, *, everything: bool = False) -> list[_QueuedJob]:
        busy = len(self._running) + sum(len(wave.jobs) for wave in self._starting_batches)
        room = self._limits.max_waiting if everything else self._limits.max_running - busy
        tickets: list[_QueuedJob] = []
        while len(tickets) < room:
            try:
                ticket = self._waiting.get_nowait()
            except queue.Empty:
                break
            if _is_active(ticket):
                tickets.append(ticket)
        return tickets

    def _ensure_loaded(self) -> bool:
        """Load the model unless it is there; when it cannot be had, those who wait for it are told."""
        if self._clara is not None:
            return True
        try:
            self._clara = self._load()
            self._uses_accelerator = self._clara.uses_accelerator
        except Exception as error:  # noqa: BLE001 - handed to the futures
            for ticket in (ticket for wave in self._starting_batches for ticket in wave.jobs):
                _set_error(ticket, error)
            self._starting_batches = []
        return self._clara is not None

    def _advance_starting(self) -> None:
        """Let every wave do one forward pass; one that nobody waits for any more ends here."""
        going: list[_StartingBatch] = []
        for wave in self._starting_batches:
            wanted = [ticket for ticket in wave.jobs if _is_active(ticket)]  # all are looked at: the late are told
            if not wanted:
                wave.steps.close()
                continue
            with self._charge_time(wanted):
                if next(wave.steps, _EXHAUSTED) is not _EXHAUSTED:
                    going.append(wave)
        self._starting_batches = going

    @contextmanager
    def _charge_time(self, tickets: Sequence[_QueuedJob]) -> Generator[None]:
        """Share the time this takes out among jobs."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self._busy_seconds += seconds
            for ticket in tickets:
                ticket.cost.gpu_seconds += seconds / len(tickets) if self._uses_accelerator else 0.0

    def _wait_for_work(self) -> None:
        """Wait for work; let the model go when none comes for long enough or somebody asks."""
        if self._should_unload:
            self._release_model()
        woken = self._wake_event.wait(self._limits.keep_alive if self._clara is not None else None)
        self._wake_event.clear()
        if not woken:
            self._release_model()

    def _release_model(self) -> None:
        self._should_unload = False
        if self._clara is None:
            return
        self._clara, self._decoding, self._running, self._starting_batches = None, None, [], []
        resources.release_memory()

    def _start_batch(self, tickets: list[_QueuedJob]) -> Generator[None]:
        # A job's failure belongs to its future, whatever it is; the thread and the other jobs go on.
        if self._clara is None:
            raise ClaraError("a job starts when the model is loaded")
        try:
            yield from self._prepare_batch(self._clara, tickets)
        except Exception as error:  # noqa: BLE001 - handed to the future
            self._drop_orphaned_rows()
            if len(tickets) == 1:
                _set_error(tickets[0], error)
                return
            _log.warning("a batch of %d failed (%s); its jobs run one by one", len(tickets), type(error).__name__)
            for ticket in tickets:
                yield from self._start_batch([ticket])

    def _drop_orphaned_rows(self) -> None:
        """Stop rows that were admitted in a batch that then failed: no future stands behind them."""
        if self._decoding is not None:
            known = {id(row) for _, row in self._running}
            self._decoding.remove_rows([row for row in self._decoding.rows if id(row) not in known])

    def _prepare_batch(self, clara: "Clara", tickets: list[_QueuedJob]) -> Generator[None]:
        latents = yield from clara.collect_latents_steps([ticket.job.documents for ticket in tickets], len(tickets))
        seeking = ("retrieve", "answer", "ask") if clara.can_retrieve else ("retrieve", "answer")
        asking = [ticket for ticket in tickets if ticket.job.kind in seeking and not _has_no_documents(ticket.job)]
        queries = clara.encode_questions([ticket.job.question for ticket in asking]) if asking else []
        query_of = {id(ticket): query for ticket, query in zip(asking, queries, strict=True)}
        writing: list[_QueuedJob] = []
        for ticket, own in zip(tickets, latents, strict=True):
            try:
                if self._prepare_job(clara, ticket, own, query_of.get(id(ticket))):
                    writing.append(ticket)
            except ClaraError as error:
                _set_error(ticket, error)
        self._start_decoding(clara, [ticket for ticket in writing if _is_active(ticket)])

    def _prepare_job(self, clara: "Clara", ticket: _QueuedJob, own: "Latents", query: Any) -> bool:
        """Bring a job to where decoding starts; false when it was done without."""
        job = ticket.job
        ticket.cost.tokens += sum(own.token_counts) if own is not job.documents else 0
        found = None if query is None else clara.find_nearest(query, own, job.k)
        if job.kind == "compress":
            _set_result(ticket, own)
            return False
        if job.kind == "retrieve":
            _set_result(ticket, found)
            return False
        if job.kind == "paraphrase":
            ticket.prompt = clara.prepare_paraphrase(job.template, own)
        else:
            ticket.prompt = clara.prepare_answer(job.question, own, found)
        return True

    def _start_decoding(self, clara: "Clara", tickets: Sequence[_QueuedJob]) -> None:
        if not tickets:
            return
        if self._decoding is None:
            self._decoding = clara.create_batch()
        prepared = [ticket.prompt for ticket in tickets if ticket.prompt is not None]
        rows = clara.add_to_batch(self._decoding, prepared, [ticket.job.max_new_tokens for ticket in tickets])
        for ticket in tickets:
            ticket.stream = clara.text_stream() if ticket.on_text is not None else None
        self._running.extend(zip(tickets, rows, strict=True))
        self._deliver_results()

    def _decode_step(self) -> None:
        if self._decoding is None or self._clara is None:
            return
        unwanted = [row for ticket, row in self._running if not _is_active(ticket)]
        if unwanted:
            gone = {id(row) for row in unwanted}
            self._decoding.remove_rows(unwanted)
            self._running = [(ticket, row) for ticket, row in self._running if id(row) not in gone]
        try:
            with self._charge_time([ticket for ticket, _ in self._running]):
                self._decoding.step()
        except Exception as error:  # noqa: BLE001 - handed to the futures of the batch
            _log.warning("a running batch of %d failed: %s", len(self._running), type(error).__name__)
            for ticket, _ in self._running:
                _set_error(ticket, error)
            self._decoding, self._running = None, []
        self._deliver_results()

    def _deliver_results(self) -> None:
        """Say what is new, and answer those who are done."""
        going: list[tuple[_QueuedJob, GeneratedRow]] = []
        for ticket, row in self._running:
            if not _send_text(ticket, row):
                if self._decoding is not None:
                    self._decoding.remove_rows([row])
            elif row.finish is None:
                going.append((ticket, row))
            elif self._clara is not None and ticket.prompt is not None:
                reply = self._clara.build_reply(ticket.prompt, row)
                # A refusal was not decoded: no prompt was read, and no word written, for it.
                decoded = not ticket.prompt.should_abstain
                ticket.cost.tokens += reply.prompt_tokens + len(reply.tokens) if decoded else 0
                _set_result(ticket, reply)
        self._running = going


def _group_jobs(tickets: Sequence[_QueuedJob]) -> list[list[_QueuedJob]]:
    """Put jobs together that start together; one with long documents keeps nobody else waiting."""
    short = [ticket for ticket in tickets if _count_characters(ticket.job) <= LONG_JOB_CHARACTERS]
    return [
        *([short] if short else []),
        *([ticket] for ticket in tickets if _count_characters(ticket.job) > LONG_JOB_CHARACTERS),
    ]


def _has_no_documents(job: ModelJob) -> bool:
    """Say whether a question is asked of nothing at all: then there is nothing to seek in."""
    return job.kind == "ask" and len(job.documents) == 0


def _count_characters(job: ModelJob) -> int:
    try:
        return sum(map(len, job.documents)) if isinstance(job.documents, Sequence) else 0
    except TypeError:  # not texts: the job will fail on its own account
        return 0


def _is_active(ticket: _QueuedJob) -> bool:
    if ticket.future.done():
        return False
    if ticket.deadline is not None and time.monotonic() > ticket.deadline:
        _set_error(ticket, DeadlineError("the deadline passed before the answer was complete"))
        return False
    return True


def _send_text(ticket: _QueuedJob, row: "GeneratedRow") -> bool:
    """Hand new text on; false when the listener failed, which ends its own job only."""
    if ticket.on_text is None or ticket.stream is None:
        return True
    piece = ticket.stream.feed(row.tokens, last=row.finish is not None)
    try:
        if piece:
            ticket.on_text(piece)
    except Exception as error:  # noqa: BLE001 - a listener is the caller's code; its failure is the caller's
        _set_error(ticket, error)
        return False
    return True


def _set_result(ticket: _QueuedJob, result: object) -> None:
    try:
        ticket.future.set_result(result)
    except InvalidStateError:
        _log.debug("a job was cancelled as it ended")


def _set_error(ticket: _QueuedJob, error: BaseException) -> None:
    try:
        ticket.future.set_exception(error)
    except InvalidStateError:
        _log.debug("a job was cancelled as it failed")
