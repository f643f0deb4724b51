"""CLaRa's worker: jobs that wait together are encoded and decoded together; later jobs join between two tokens.

Encoding does one forward pass per turn, so that a long document delays neither running answers nor short jobs.
Importing this module does not load torch; the loader does.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..models.cost import ModelCost
from ..models.errors import ModelError
from ..models.worker import JobRequest, JobWorker, WorkerLimits
from .jobs import ModelJob

if TYPE_CHECKING:
    from torch import Tensor

    from .clara import Clara
    from .decoding import DecodingBatch, GeneratedRow, TextStream
    from .latents import Latents
    from .replies import PreparedPrompt

_log = logging.getLogger(__name__)

MAX_QUESTION_CHARACTERS = 65_536  # many times what a prompt of 1,024 tokens can hold
LONG_JOB_CHARACTERS = 40_000  # a job with more, some forty windows, starts in a batch of its own
_EXHAUSTED = object()


@dataclass(eq=False, slots=True, kw_only=True)
class _JobRequest(JobRequest):
    job: ModelJob
    on_text: Callable[[str], None] | None
    prompt: "PreparedPrompt | None" = None
    stream: "TextStream | None" = None


class _StartingBatch(NamedTuple):
    """Jobs being encoded, and the steps of one forward pass that encode them."""

    jobs: list[_JobRequest]
    steps: Generator[None]


class Worker(JobWorker["Clara", _JobRequest]):
    """Runs jobs on one `Clara`, which `load` creates in the worker's thread at the first job."""

    def __init__(self, load: "Callable[[], Clara]", limits: WorkerLimits | None = None) -> None:
        self._decoding: DecodingBatch | None = None
        self._running: list[tuple[_JobRequest, GeneratedRow]] = []
        self._starting_batches: list[_StartingBatch] = []
        super().__init__(load, limits, "clara-worker")

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
        `QueueFullError`, or `ModelError` if the worker is closed or the question is too long.
        """
        if len(job.question) > MAX_QUESTION_CHARACTERS:  # tokenizing a longer one would delay all other jobs
            raise ModelError(
                f"the question has {len(job.question):,} characters; at most {MAX_QUESTION_CHARACTERS:,} are read"
            )
        return self._enqueue(_JobRequest(job=job, deadline=deadline, on_text=on_text, cost=cost or ModelCost()))

    def _has_accelerator(self, model: "Clara") -> bool:
        return model.uses_accelerator

    def _list_requests(self) -> list[_JobRequest]:
        running = [request for request, _ in self._running]
        return [*running, *(request for batch in self._starting_batches for request in batch.jobs)]

    def _drop_requests(self) -> None:
        self._decoding, self._running, self._starting_batches = None, [], []

    def _start_jobs(self, requests: list[_JobRequest]) -> None:
        groups = _group_jobs(requests)
        self._starting_batches.extend(_StartingBatch(group, self._start_batch(group)) for group in groups)

    def _advance(self) -> None:
        self._advance_starting()
        if self._running:
            self._decode_step()

    def _advance_starting(self) -> None:
        """Do one forward pass of every starting batch; a batch without active jobs ends here."""
        unfinished: list[_StartingBatch] = []
        for batch in self._starting_batches:
            active = [request for request in batch.jobs if request.is_active()]  # late jobs fail here
            if not active:
                batch.steps.close()
                continue
            with self._charge_time(active):
                if next(batch.steps, _EXHAUSTED) is not _EXHAUSTED:
                    unfinished.append(batch)
        self._starting_batches = unfinished

    def _start_batch(self, requests: list[_JobRequest]) -> Generator[None]:
        # Any failure of a job goes to its future; the thread and the other jobs continue.
        if self._model is None:
            raise ModelError("a job cannot start before the model is loaded")
        try:
            yield from self._prepare_batch(self._model, requests)
        except Exception as error:  # noqa: BLE001 - passed to the future
            self._drop_orphaned_rows()
            if len(requests) == 1:
                requests[0].set_error(error)
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
            except ModelError as error:
                request.set_error(error)
        self._check_memories(clara, prepared)
        decoded = [request for request in prepared if request.is_active() and not request.job.prompt_only]
        self._start_decoding(clara, decoded)

    def _prepare_job(self, clara: "Clara", request: _JobRequest, latents: "Latents", query: "Tensor | None") -> bool:
        """Return True if the job has a prompt, False if it is done without one."""
        job = request.job
        request.cost.tokens += sum(latents.token_counts) if latents is not job.documents else 0
        retrieval = None if query is None else clara.find_nearest(query, latents, job.k)
        if job.kind in ("compress", "retrieve"):
            request.set_result(latents if job.kind == "compress" else retrieval)
            return False
        if job.kind == "paraphrase":
            request.prompt = clara.prepare_paraphrase(job.template, latents)
        else:
            request.prompt = clara.prepare_answer(job.question, latents, retrieval)
        return True

    def _check_memories(self, clara: "Clara", requests: Sequence[_JobRequest]) -> None:
        """Mark the questions that the memories do not answer; jobs that want their prompt only end here."""
        asked = [request for request in requests if request.prompt is not None and request.job.kind != "paraphrase"]
        prompts = clara.check_memories([request.prompt for request in asked if request.prompt is not None])
        for request, prompt in zip(asked, prompts, strict=True):
            request.prompt = prompt
        for request in requests:
            if request.job.prompt_only and request.prompt is not None:
                from .embedded_prompt import EmbeddedPrompt  # noqa: PLC0415 - loads torch

                request.set_result(EmbeddedPrompt(clara, request.prompt))

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
        if self._decoding is None or self._model is None:
            return
        unwanted = [row for request, row in self._running if not request.is_active()]
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
                request.set_error(error)
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
            elif self._model is not None and request.prompt is not None:
                reply = self._model.build_reply(request.prompt, row)
                request.cost.tokens += request.prompt.count_tokens(len(reply.tokens))
                request.set_result(reply)
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


def _send_text(request: _JobRequest, row: "GeneratedRow") -> bool:
    """Send new text to the listener; return False if the listener failed, which ends its own job only."""
    if request.on_text is None or request.stream is None:
        return True
    piece = request.stream.feed(row.tokens, last=row.finish is not None)
    try:
        if piece:
            request.on_text(piece)
    except Exception as error:  # noqa: BLE001 - the listener is the caller's code
        request.set_error(error)
        return False
    return True
