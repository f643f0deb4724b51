"""Runs compressors: a bounded queue, a few threads, a deadline, and what was made before.

Fails open (law 4): a compressor that raises, refuses or is late yields an outcome without a text, and the reason. An
outcome is decided once: a passage that was sent as it was stays so while it is remembered, because the provider's
prompt cache already holds it that way (law 1).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from time import perf_counter
from typing import NamedTuple

from . import markers, sizes
from .cache import Cache
from .compressor import NO_USAGE, Compressor, ModelUsage, Task
from .tokens import TokenCounter

MAX_SIZE_RATIO = 0.95  # of the passage's tokens: what saves less is not worth a second look at the text
FAILURE_REASONS = frozenset({"late", "busy", "failed"})
JobKey = tuple[bytes, int, str | None, str]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CompressionJob:
    """A passage to shorten: `target` in tokens, `fetch` the words of the marker that lead to the original, if any."""

    text: str
    question: str
    target: int
    fetch_hint: str | None
    token_counter: TokenCounter


class Outcome(NamedTuple):
    """What became of a job: a shorter text of `tokens` tokens, or None and the reason.

    `seconds` of a thread's time and what a model `spent` are nothing for what was made before, which is `remembered`.
    """

    text: str | None
    tokens: int
    compressor: str
    reason: str | None = None
    seconds: float = 0.0
    usage: ModelUsage = NO_USAGE
    from_cache: bool = False


class Engine:
    """Owns the threads that compress. `find` picks the compressor of a text; by default the registry does."""

    def __init__(
        self,
        *,
        workers: int,
        queue_limit: int,
        cache_bytes: int,
        find_compressor: Callable[[str], Compressor] = sizes.find_compressor_cached,
    ) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="compress")
        self._queue_limit = queue_limit
        self._pending = 0
        self._find_compressor = find_compressor
        self._outcomes: Cache[Outcome] = Cache(cache_bytes)

    async def compress(
        self, jobs: Sequence[CompressionJob], seconds: float, *, fail_closed: bool = False
    ) -> list[Outcome]:
        """Shorten passages within so many seconds; one outcome a job, in order. Never raises for a passage's sake.

        `closed`: nothing is sent if anything fails, so that no failure is lasting: what failed before is tried again.
        """
        keyed = {_make_key(job): job for job in jobs}
        known = {key: self._find_outcome(key, fail_closed) for key in keyed}
        started = {key: self._submit(job) for key, job in keyed.items() if known[key] is None}
        waited = [future for future in started.values() if future is not None]
        if waited:
            await asyncio.wait(waited, timeout=seconds)
        outcomes = {
            key: known[key] or self._record_outcome(key, job, started[key], fail_closed) for key, job in keyed.items()
        }
        paid: set[JobKey] = set()
        return [_charge_once(_make_key(job), outcomes, paid) for job in jobs]

    def close(self) -> None:
        """Let the threads end; what still waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, job: CompressionJob) -> asyncio.Future[Outcome] | None:
        if self._pending >= self._queue_limit:
            return None
        self._pending += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, run_job, job, self._find_compressor)
        future.add_done_callback(self._log_failure)
        return future

    def _log_failure(self, future: asyncio.Future[Outcome]) -> None:
        self._pending -= 1
        if not future.cancelled() and (error := future.exception()) is not None:
            log.warning("a compressor failed: %s", type(error).__name__)

    def _find_outcome(self, key: JobKey, closed: bool) -> Outcome | None:
        decided = self._outcomes.get(key)
        return None if closed and decided is not None and decided.reason in FAILURE_REASONS else decided

    def _record_outcome(
        self, key: JobKey, job: CompressionJob, future: asyncio.Future[Outcome] | None, closed: bool
    ) -> Outcome:
        decided = self._find_outcome(key, closed)  # a concurrent request may have been first
        if decided is None:
            decided = _collect_outcome(job, future)
            if not (closed and decided.reason in FAILURE_REASONS):
                remembered = _drop_cost(decided)._replace(from_cache=True)
                self._outcomes.put(key, remembered, 200 + 4 * len(decided.text or ""))
        return decided


def run_job(
    job: CompressionJob, find_compressor: Callable[[str], Compressor] = sizes.find_compressor_cached
) -> Outcome:
    """Shorten one passage here and now; raises what the compressor raises."""
    started = perf_counter()
    compressor = find_compressor(job.text)
    condensed = compressor.compress(Task(job.text, job.question, job.target, job.token_counter.count))
    if condensed is None:
        return _leave_unchanged(job, "refused", compressor.name, perf_counter() - started)
    text = markers.render(condensed, job.fetch_hint)
    tokens, before = job.token_counter.count(text), job.token_counter.count(job.text)
    seconds = perf_counter() - started
    if tokens > MAX_SIZE_RATIO * before or tokens >= before:
        return _leave_unchanged(job, "no-gain", compressor.name, seconds)._replace(usage=condensed.usage)
    return Outcome(text, tokens, compressor.name, None, seconds, condensed.usage)


def _make_key(job: CompressionJob) -> JobKey:
    digest = blake2b(job.text.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(blake2b(job.question.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    return (digest.digest(), job.target, job.fetch_hint, job.token_counter.name)


def _collect_outcome(job: CompressionJob, future: asyncio.Future[Outcome] | None) -> Outcome:
    if future is None:
        return _leave_unchanged(job, "busy")
    if not future.done():
        future.cancel()
        return _leave_unchanged(job, "late")
    return _leave_unchanged(job, "failed") if future.exception() else future.result()


def _charge_once(key: JobKey, outcomes: Mapping[JobKey, Outcome], paid: set[JobKey]) -> Outcome:
    """Return an outcome with its cost the first time, and without it when the same passage stands there again."""
    outcome = outcomes[key] if key not in paid else _drop_cost(outcomes[key])
    paid.add(key)
    return outcome


def _drop_cost(outcome: Outcome) -> Outcome:
    return outcome._replace(seconds=0.0, usage=NO_USAGE)


def _leave_unchanged(job: CompressionJob, reason: str, compressor: str = "none", seconds: float = 0.0) -> Outcome:
    return Outcome(None, job.token_counter.count(job.text), compressor, reason, seconds)
