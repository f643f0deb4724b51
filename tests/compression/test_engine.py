import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from clara_proxy.compression.compressor import CompressedPassage, Gap, Task
from clara_proxy.compression.engine import FAILURE_REASONS, CompressionJob, Engine, Outcome, run_job
from clara_proxy.compression.tokens import get_token_counter

TOKENS = get_token_counter("gpt-4o")
TEXT = "one two three four five six seven eight nine ten " * 20
CompressFunction = Callable[[Task], CompressedPassage | None]


class FakeCompressor:
    """A compressor that calls a function and records the texts."""

    name = "fake"

    def __init__(self, function: CompressFunction) -> None:
        self._function = function
        self.texts: list[str] = []

    def recognises(self, text: str) -> bool:
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        self.texts.append(task.text)
        return self._function(task)


def first_word(task: Task) -> CompressedPassage:
    return CompressedPassage((task.text.split()[0], Gap(1, "words")), 2, "words")


def fail(task: Task) -> CompressedPassage:
    raise RuntimeError(f"cannot do {task.text}")


def refuse(task: Task) -> None:
    return None


def keep_all(task: Task) -> CompressedPassage:
    return CompressedPassage((task.text,), 1, "lines")


def keep_nearly_all(task: Task) -> CompressedPassage:
    return CompressedPassage((task.text[: int(len(task.text) * 0.97)],), 1, "lines")


def job(text: str = TEXT, question: str = "", target: int = 10, fetch: str | None = None) -> CompressionJob:
    return CompressionJob(text, question, target, fetch, TOKENS)


@asynccontextmanager
async def engine(
    compressor: FakeCompressor, *, workers: int = 2, queue: int = 99, cache_bytes: int = 10**6
) -> AsyncGenerator[Engine]:
    running = Engine(workers=workers, queue_limit=queue, cache_bytes=cache_bytes, find_compressor=lambda _: compressor)
    try:
        yield running
    finally:
        running.close()


async def test_outcomes_are_in_the_order_of_jobs() -> None:
    texts = [f"{word} {TEXT}" for word in ("alpha", "beta", "gamma", "delta")]
    async with engine(FakeCompressor(first_word)) as running:
        outcomes = await running.compress([job(text) for text in texts], 30)
    assert [outcome.text for outcome in outcomes] == [f"{text.split()[0]}\n[1 word left out]" for text in texts]
    for outcome in outcomes:
        assert outcome.text is not None
        assert (outcome.compressor, outcome.reason, outcome.tokens) == ("fake", None, TOKENS.count(outcome.text))
        assert outcome.seconds > 0


async def test_no_jobs_give_no_outcomes() -> None:
    async with engine(FakeCompressor(first_word)) as running:
        assert await running.compress([], 0) == []


async def test_equal_passages_are_compressed_once() -> None:
    compressor = FakeCompressor(first_word)
    async with engine(compressor) as running:
        first, other, repeat = await running.compress([job(), job("other " + TEXT), job()], 30)
        later = await running.compress([job()], 30)
    assert first.text == repeat.text == later[0].text != other.text
    assert first.seconds > 0
    assert repeat.seconds == later[0].seconds == 0
    assert sorted(compressor.texts) == sorted([TEXT, "other " + TEXT])


@pytest.mark.parametrize(
    "other", [job("x" + TEXT), job(question="x"), job(target=11), job(fetch="GET /v1/retrieve/0"), job("", TEXT)]
)
async def test_jobs_that_differ_in_any_field_are_compressed_apart(other: CompressionJob) -> None:
    compressor = FakeCompressor(lambda task: None)
    async with engine(compressor) as running:
        await running.compress([job()], 30)
        await running.compress([other], 30)
    assert len(compressor.texts) == 2


async def test_jobs_in_other_vocabularies_are_compressed_apart() -> None:
    compressor = FakeCompressor(first_word)
    async with engine(compressor) as running:
        for model in ("gpt-4o", "gpt-4", "openai/gpt-4o"):
            await running.compress([CompressionJob(TEXT, "", 10, None, get_token_counter(model))], 30)
    assert len(compressor.texts) == 2


@pytest.mark.parametrize(
    ("function", "reason"), [(fail, "failed"), (refuse, "refused"), (keep_all, "no-gain"), (keep_nearly_all, "no-gain")]
)
async def test_unchanged_passage_has_a_reason_and_is_cached(function: CompressFunction, reason: str) -> None:
    compressor = FakeCompressor(function)
    async with engine(compressor) as running:
        outcomes = [(await running.compress([job()], 30))[0] for _ in range(3)]
    assert [(outcome.text, outcome.reason, outcome.tokens) for outcome in outcomes] == [
        (None, reason, TOKENS.count(TEXT))
    ] * 3
    assert len(compressor.texts) == 1
    assert (reason in FAILURE_REASONS) == (reason == "failed")


async def test_failure_does_not_affect_other_passages() -> None:
    compressor = FakeCompressor(lambda task: fail(task) if task.text.startswith("bad") else first_word(task))
    async with engine(compressor) as running:
        outcomes = await running.compress([job(), job("bad " + TEXT), job("good " + TEXT)], 30)
    assert [outcome.reason for outcome in outcomes] == [None, "failed", None]


async def test_failure_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with engine(FakeCompressor(fail)) as running:
        await running.compress([job("a secret " + TEXT)], 30)
        await asyncio.sleep(0)
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


async def test_failure_is_retried_with_fail_closed() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        assert go.wait(30)
        return first_word(task)

    compressor = FakeCompressor(slow)
    async with engine(compressor) as running:
        jobs = [job()]
        reasons = [(await running.compress(jobs, 0.01, fail_closed=closed))[0].reason for closed in (True, False, True)]
        assert reasons == ["late"] * 3
        assert (await running.compress(jobs, 30))[0] == Outcome(
            None, TOKENS.count(TEXT), "none", "late", from_cache=True
        )
        go.set()
        retried = (await running.compress(jobs, 30, fail_closed=True))[0]
        assert (retried.reason, retried.from_cache) == (None, False)
        assert (await running.compress(jobs, 30))[0] == retried._replace(seconds=0.0, from_cache=True)


async def test_late_passage_stays_unchanged() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        go.wait(30)
        return first_word(task)

    compressor = FakeCompressor(slow)
    async with engine(compressor) as running:
        (late,) = await running.compress([job()], 0.01)
        assert (late.text, late.reason, late.seconds) == (None, "late", 0)
        go.set()
        (again,) = await running.compress([job()], 30)
        (fresh,) = await running.compress([job(question="another")], 30)
    assert again.reason == "late"
    assert fresh.reason is None


async def test_late_passage_does_not_affect_others() -> None:
    go = threading.Event()

    def sometimes_slow(task: Task) -> CompressedPassage:
        if task.text.startswith("slow"):
            go.wait(30)
        return first_word(task)

    async with engine(FakeCompressor(sometimes_slow)) as running:
        outcomes = await running.compress([job("slow " + TEXT), job()], 0.5)
        go.set()
    assert [outcome.reason for outcome in outcomes] == ["late", None]


async def test_full_queue_leaves_passages_unchanged() -> None:
    async with engine(FakeCompressor(first_word), workers=1, queue=2) as running:
        outcomes = await running.compress([job(f"{number} {TEXT}") for number in range(5)], 30)
        assert [outcome.reason for outcome in outcomes] == [None, None, "busy", "busy", "busy"]
        repeat = await running.compress([job(f"{number} {TEXT}") for number in range(5)], 30)
        assert [outcome.reason for outcome in repeat] == [None, None, "busy", "busy", "busy"]
        others = await running.compress([job(f"other {number} {TEXT}") for number in range(2)], 30)
        assert [outcome.reason for outcome in others] == [None, None]


async def test_concurrent_requests_get_the_same_outcome() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        go.wait(30)
        return first_word(task)

    async with engine(FakeCompressor(slow)) as running:
        patient = asyncio.create_task(running.compress([job()], 30))
        await asyncio.sleep(0.01)
        (hasty,) = await running.compress([job()], 0.01)
        go.set()
        assert hasty.reason == "late"
        assert (await patient)[0].reason == "late"


async def test_cancelled_request_frees_its_queue_slot() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        go.wait(30)
        return first_word(task)

    async with engine(FakeCompressor(slow), queue=1) as running:
        cancelled = asyncio.create_task(running.compress([job()], 30))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        go.set()
        reasons = {"busy"}
        for attempt in range(200):
            await asyncio.sleep(0.01)
            (outcome,) = await running.compress([job(question=str(attempt))], 30)
            reasons.add(str(outcome.reason))
            if outcome.reason is None:
                break
        assert reasons == {"busy", "None"}


async def test_cache_evicts_the_least_recently_used_outcome() -> None:
    compressor = FakeCompressor(refuse)  # an outcome without text takes 200 bytes
    texts = [f"{name} {TEXT}" for name in "abc"]
    async with engine(compressor, cache_bytes=400) as running:
        for text in (texts[0], texts[1], texts[0], texts[2], texts[0], texts[1]):
            await running.compress([job(text)], 30)
    assert compressor.texts == [texts[0], texts[1], texts[2], texts[1]]


async def test_outcome_larger_than_the_cache_evicts_no_other() -> None:
    compressor = FakeCompressor(lambda task: first_word(task) if task.text.startswith("x") else None)
    async with engine(compressor, cache_bytes=210) as running:
        for text in (TEXT, "x" * 200 + TEXT, TEXT):
            await running.compress([job(text)], 30)
    assert len(compressor.texts) == 2


async def test_cache_of_zero_bytes_remembers_nothing() -> None:
    compressor = FakeCompressor(first_word)
    async with engine(compressor, cache_bytes=0) as running:
        for _ in range(2):
            assert (await running.compress([job()], 30))[0].reason is None
    assert len(compressor.texts) == 2


def test_run_job_compresses_in_this_thread() -> None:
    outcome = run_job(job(fetch="GET /v1/retrieve/0"), lambda _: FakeCompressor(first_word))
    assert outcome.text == "one\n[1 of 2 words left out; GET /v1/retrieve/0]"
    with pytest.raises(RuntimeError):
        run_job(job(), lambda _: FakeCompressor(fail))


def test_lone_surrogates_are_compressed() -> None:
    async def scenario() -> None:
        async with engine(FakeCompressor(first_word)) as running:
            (outcome,) = await running.compress([job("a\ud800 " + TEXT, "\udfff")], 30)
            assert outcome.reason is None

    asyncio.run(scenario())
