"""The pruner's worker: windows of all waiting texts share a forward pass, one window of each text after another.

Importing this module does not load torch; the loader does.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..models.cost import ModelCost
from ..models.worker import JobRequest, JobWorker, WorkerLimits
from .jobs import PruneJob

if TYPE_CHECKING:
    from .encoding import EncodedText, Window
    from .pruner import Pruner

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True, kw_only=True)
class _PruneRequest(JobRequest):
    job: PruneJob
    encoded: "EncodedText | None" = None
    windows: "deque[Window]" = field(default_factory=deque["Window"])


class PrunerWorker(JobWorker["Pruner", _PruneRequest]):
    """Scores texts on one `Pruner`, which `load` creates in the worker's thread at the first job."""

    def __init__(self, load: "Callable[[], Pruner]", limits: WorkerLimits | None = None) -> None:
        self._requests: list[_PruneRequest] = []
        super().__init__(load, limits, "pruner-worker")

    def submit(self, job: PruneJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        """Queue a job and return the future of its `UnitScores`; cancelling the future drops the job.

        After `deadline`, a time of `time.monotonic()`, the future fails with `DeadlineError`. The job's cost is added
        to `cost`. Raises `QueueFullError`, or `ModelError` if the worker is closed.
        """
        return self._enqueue(_PruneRequest(job=job, deadline=deadline, cost=cost or ModelCost()))

    def _has_accelerator(self, model: "Pruner") -> bool:
        return model.uses_accelerator

    def _list_requests(self) -> Sequence[_PruneRequest]:
        return self._requests

    def _drop_requests(self) -> None:
        self._requests = []

    def _start_jobs(self, requests: list[_PruneRequest]) -> None:
        self._requests = [*self._requests, *requests]

    def _advance(self) -> None:
        """Do one forward pass with the next windows, and resolve the jobs that are complete."""
        if self._model is None:
            return
        active = [request for request in self._requests if request.is_active()]  # late jobs fail here
        for request in active:
            if request.encoded is None:
                self._encode(self._model, request)
        batch = self._choose_windows(self._model, [request for request in active if request.windows])
        if batch:
            with self._charge_time([request for request, _ in batch]):
                self._score_windows(self._model, batch)
        for request in active:
            if request.encoded is not None and not request.windows and not request.future.done():
                request.set_result(self._model.collect(request.encoded))
        self._requests = [request for request in active if not request.future.done()]

    def _encode(self, pruner: "Pruner", request: _PruneRequest) -> None:
        # Any failure of a job goes to its future; the thread and the other jobs continue.
        try:
            request.encoded = pruner.encode(request.job)
            # Windows of similar length share a pass, so that little of it is padding.
            request.windows.extend(sorted(request.encoded.windows, key=lambda window: window.end - window.start))
        except Exception as error:  # noqa: BLE001 - passed to the future
            request.set_error(error)

    def _choose_windows(
        self, pruner: "Pruner", requests: Sequence[_PruneRequest]
    ) -> "list[tuple[_PruneRequest, Window]]":
        """Take windows in turn from each request, as many as fit in a pass with their padding."""
        batch: list[tuple[_PruneRequest, Window]] = []
        longest = 0
        while any(request.windows for request in requests):
            for request in requests:
                if not request.windows or request.encoded is None:
                    continue
                window = request.windows[0]
                template = len(request.encoded.prefix) + len(request.encoded.suffix)
                length = max(longest, window.end - window.start + template)
                if batch and length * (len(batch) + 1) > pruner.max_pass_tokens:
                    return batch
                batch.append((request, request.windows.popleft()))
                longest = length
        return batch

    def _score_windows(self, pruner: "Pruner", batch: "Sequence[tuple[_PruneRequest, Window]]") -> None:
        rows = [request.encoded.build_row(window) for request, window in batch if request.encoded is not None]
        try:
            scores = pruner.score_rows(rows)
        except Exception as error:  # noqa: BLE001 - passed to the futures
            if len(batch) == 1:
                batch[0][0].set_error(error)
                return
            _log.warning("a pass of %d windows failed (%s); they run one by one", len(batch), type(error).__name__)
            for entry in batch:
                self._score_windows(pruner, [entry])
            return
        for (request, window), row_scores, row in zip(batch, scores, rows, strict=True):
            request.cost.tokens += len(row)
            if request.encoded is not None:
                pruner.add_row(request.encoded, window, row_scores)
