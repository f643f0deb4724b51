"""Runs compressors: a bounded queue, a few threads, a deadline, and a cache of outcomes.

Fails open: if a compressor raises, refuses or is late, the outcome has no text but a reason. An outcome is decided
once. A passage that was forwarded unchanged stays so while its outcome is cached, because the provider's prompt cache
already holds it that way (the prefix invariant). Only a passage that no model has answered yet may get another outcome
after a failure, from an engine that retries.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from time import perf_counter
from typing import NamedTuple

from cachetools import LRUCache

from . import markers, memo, registry
from .compressor import NO_USAGE, Compressor, ModelUsage, Task
from .tokens import TokenCounter

MAX_SIZE_RATIO = 0.95  # of the passage's tokens: a smaller saving is not worth a second look at the text
FAILURE_REASONS = frozenset({"late", "busy", "failed"})
JobKey = tuple[str, bytes, int, str | None, str, bool]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompressionJob:
    """A passage to compress to `target` tokens; `fetch_hint` is the marker's reference to the original, if any.

    `is_unanswered` is True if no model's answer follows the passage, so that its outcome may still change.
    `fills_target` is as in `Task`. Without `may_extract`, extraction does not replace a model that fails.
    """

    text: str
    question: str
    target: int
    fetch_hint: str | None
    token_counter: TokenCounter
    fills_target: bool = True
    is_unanswered: bool = False
    may_extract: bool = True


class Outcome(NamedTuple):
    """The result of a job: compressed text of `tokens` tokens, or None and the reason.

    `seconds` of a thread and the model's `usage` are 0 if the outcome comes from the cache. `fallback` is why
    another compressor than the mode's made the text.
    """

    text: str | None
    tokens: int
    compressor: str
    reason: str | None = None
    seconds: float = 0.0
    usage: ModelUsage = NO_USAGE
    from_cache: bool = False
    fallback: str = ""


class Engine:
    """Owns the compressor threads and the cache of outcomes, which is bounded to `cache_bytes`.

    With `retries`, failures are tried again for passages without an answer, and a late compressor goes on: its outcome
    is there when the passage is asked for again.
    """

    def __init__(
        self,
        *,
        workers: int,
        queue_limit: int,
        cache_bytes: int,
        find_compressor: Callable[[str], Compressor] = registry.find_compressor_cached,
        retries: bool = False,
    ) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="compress")
        self._queue_limit = queue_limit
        self._pending = 0
        self._find_compressor = find_compressor
        self._retries = retries
        self._outcomes: LRUCache[JobKey, Outcome] = LRUCache(cache_bytes, getsizeof=_estimate_bytes)
        self._late: LRUCache[JobKey, asyncio.Future[Outcome]] = LRUCache(queue_limit)

    async def compress(
        self, jobs: Sequence[CompressionJob], seconds: float, *, fail_closed: bool = False
    ) -> list[Outcome]:
        """Compress passages within `seconds`; return one outcome per job, in order. Never raises for a passage.

        With `fail_closed`, the request is not sent if a passage fails. Such failures are retried instead of cached.
        """
        keyed = {_make_key(job): job for job in jobs}
        cached = {key: self._find_outcome(key, job, fail_closed) for key, job in keyed.items()}
        started = {key: self._submit(key, job) for key, job in keyed.items() if cached[key] is None}
        futures = [future for future in started.values() if future is not None]
        if futures:
            await asyncio.wait(futures, timeout=seconds)
        outcomes = {
            key: cached[key] or self._record_outcome(key, job, started[key], fail_closed) for key, job in keyed.items()
        }
        charged: set[JobKey] = set()
        return [_charge_once(_make_key(job), outcomes, charged) for job in jobs]

    def close(self) -> None:
        """Stop the threads; queued jobs are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, key: JobKey, job: CompressionJob) -> asyncio.Future[Outcome] | None:
        late = self._late.pop(key, None)
        if late is not None and not (late.done() and (late.cancelled() or late.exception())):
            return late
        if self._pending >= self._queue_limit:
            return None
        self._pending += 1
        run = partial(copy_context().run, lambda: run_job(job, self._find_compressor))
        future = asyncio.get_running_loop().run_in_executor(self._pool, run)
        future.add_done_callback(self._log_failure)
        return future

    def _log_failure(self, future: asyncio.Future[Outcome]) -> None:
        self._pending -= 1
        if not future.cancelled() and (error := future.exception()) is not None:
            log.warning("a compressor failed: %s", type(error).__name__)

    def _find_outcome(self, key: JobKey, job: CompressionJob, fail_closed: bool) -> Outcome | None:
        outcome = self._outcomes.get(key)
        may_retry = fail_closed or (self._retries and job.is_unanswered)
        return None if may_retry and outcome is not None and outcome.reason in FAILURE_REASONS else outcome

    def _record_outcome(
        self, key: JobKey, job: CompressionJob, future: asyncio.Future[Outcome] | None, fail_closed: bool
    ) -> Outcome:
        outcome = self._find_outcome(key, job, fail_closed)  # a concurrent request may have been first
        if outcome is None:
            if self._retries and future is not None and not future.done():
                self._late[key] = future
                outcome = _leave_unchanged(job, "late")
            else:
                outcome = _collect_outcome(job, future)
            if not (fail_closed and outcome.reason in FAILURE_REASONS):
                with suppress(ValueError):  # an outcome larger than the cache is not kept
                    self._outcomes[key] = _drop_cost(outcome)._replace(from_cache=True)
        return outcome


def run_job(
    job: CompressionJob, find_compressor: Callable[[str], Compressor] = registry.find_compressor_cached
) -> Outcome:
    """Compress one passage in this thread; raises the compressor's exceptions."""
    started = perf_counter()
    compressor = find_compressor(job.text)
    compressed = compressor.compress(
        Task(job.text, job.question, job.target, job.token_counter.count, job.fills_target)
    )
    if compressed is None:
        return _leave_unchanged(job, "refused", compressor.name, perf_counter() - started)
    text = markers.render(compressed, job.fetch_hint)
    tokens, tokens_before = job.token_counter.count(text), job.token_counter.count(job.text)
    seconds = perf_counter() - started
    if tokens > MAX_SIZE_RATIO * tokens_before or tokens >= tokens_before:
        return _leave_unchanged(job, "no-gain", compressor.name, seconds)._replace(usage=compressed.usage)
    name = compressed.compressor or compressor.name
    return Outcome(text, tokens, name, None, seconds, compressed.usage, fallback=compressed.fallback)


def _estimate_bytes(outcome: Outcome) -> int:
    return 200 + 4 * len(outcome.text or "")


def _make_key(job: CompressionJob) -> JobKey:
    digest = blake2b(job.text.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(blake2b(job.question.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    name, hint = job.token_counter.name, job.fetch_hint
    return (memo.owner.get(), digest.digest(), job.target, hint, name, job.fills_target)


def _collect_outcome(job: CompressionJob, future: asyncio.Future[Outcome] | None) -> Outcome:
    if future is None:
        return _leave_unchanged(job, "busy")
    if not future.done():
        future.cancel()
        return _leave_unchanged(job, "late")
    return _leave_unchanged(job, "failed") if future.exception() else future.result()


def _charge_once(key: JobKey, outcomes: Mapping[JobKey, Outcome], charged: set[JobKey]) -> Outcome:
    """Return an outcome with its cost the first time, and without it for later copies of the same passage."""
    outcome = outcomes[key] if key not in charged else _drop_cost(outcomes[key])
    charged.add(key)
    return outcome


def _drop_cost(outcome: Outcome) -> Outcome:
    return outcome._replace(seconds=0.0, usage=NO_USAGE)


def _leave_unchanged(job: CompressionJob, reason: str, compressor: str = "none", seconds: float = 0.0) -> Outcome:
    return Outcome(None, job.token_counter.count(job.text), compressor, reason, seconds)
