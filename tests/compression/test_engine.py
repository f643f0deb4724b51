import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from clara_proxy.compression.compressor import CompressedPassage, Gap, Task
from clara_proxy.compression.engine import FAILURE_REASONS, CompressionJob, Engine, Outcome, run_job
from clara_proxy.compression.tokens import get_token_counter

COUNTED = get_token_counter("gpt-4o")
TEXT = "one two three four five six seven eight nine ten " * 20
Does = Callable[[Task], CompressedPassage | None]


class Double:
    """A compressor that does what it is told, and says what it was asked."""

    name = "double"

    def __init__(self, does: Does) -> None:
        self._does = does
        self.asked: list[str] = []

    def recognises(self, text: str) -> bool:
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        self.asked.append(task.text)
        return self._does(task)


def first_word(task: Task) -> CompressedPassage:
    return CompressedPassage((task.text.split()[0], Gap(1, "words")), 2, "words")


def broken(task: Task) -> CompressedPassage:
    raise RuntimeError(f"cannot do {task.text}")


def refused(task: Task) -> None:
    return None


def left(task: Task) -> CompressedPassage:
    return CompressedPassage((task.text,), 1, "lines")


def nearly_left(task: Task) -> CompressedPassage:
    return CompressedPassage((task.text[: int(len(task.text) * 0.97)],), 1, "lines")


def job(text: str = TEXT, question: str = "", target: int = 10, fetch: str | None = None) -> CompressionJob:
    return CompressionJob(text, question, target, fetch, COUNTED)


@asynccontextmanager
async def engine(
    double: Double, *, workers: int = 2, queue: int = 99, cache_bytes: int = 10**6
) -> AsyncGenerator[Engine]:
    made = Engine(workers=workers, queue_limit=queue, cache_bytes=cache_bytes, find_compressor=lambda _: double)
    try:
        yield made
    finally:
        made.close()


async def test_one_outcome_a_job_in_order() -> None:
    texts = [f"{word} {TEXT}" for word in ("alpha", "beta", "gamma", "delta")]
    async with engine(Double(first_word)) as made:
        outcomes = await made.compress([job(text) for text in texts], 30)
    assert [outcome.text for outcome in outcomes] == [f"{text.split()[0]}\n[1 words left out]" for text in texts]
    for outcome in outcomes:
        assert outcome.text is not None
        assert (outcome.compressor, outcome.reason, outcome.tokens) == ("double", None, COUNTED.count(outcome.text))
        assert outcome.seconds > 0


async def test_no_jobs_no_outcomes() -> None:
    async with engine(Double(first_word)) as made:
        assert await made.compress([], 0) == []


async def test_the_same_passage_twice_is_done_once() -> None:
    double = Double(first_word)
    async with engine(double) as made:
        one, other, again = await made.compress([job(), job("other " + TEXT), job()], 30)
        later = await made.compress([job()], 30)
    assert one.text == again.text == later[0].text != other.text
    assert one.seconds > 0
    assert again.seconds == later[0].seconds == 0  # what is there already costs nothing
    assert sorted(double.asked) == sorted([TEXT, "other " + TEXT])


@pytest.mark.parametrize(
    "other", [job("x" + TEXT), job(question="x"), job(target=11), job(fetch="GET /v1/retrieve/0"), job("", TEXT)]
)
async def test_whatever_a_compression_depends_on_tells_jobs_apart(other: CompressionJob) -> None:
    double = Double(lambda task: None)
    async with engine(double) as made:
        await made.compress([job()], 30)
        await made.compress([other], 30)
    assert len(double.asked) == 2


async def test_other_vocabularies_tell_jobs_apart() -> None:
    double = Double(first_word)
    async with engine(double) as made:
        for model in ("gpt-4o", "gpt-4", "openai/gpt-4o"):
            await made.compress([CompressionJob(TEXT, "", 10, None, get_token_counter(model))], 30)
    assert len(double.asked) == 2


@pytest.mark.parametrize(
    ("does", "reason"), [(broken, "failed"), (refused, "refused"), (left, "no-gain"), (nearly_left, "no-gain")]
)
async def test_a_no_has_a_reason_and_is_remembered(does: Does, reason: str) -> None:
    double = Double(does)
    async with engine(double) as made:
        outcomes = [(await made.compress([job()], 30))[0] for _ in range(3)]
    assert [(one.text, one.reason, one.tokens) for one in outcomes] == [(None, reason, COUNTED.count(TEXT))] * 3
    assert len(double.asked) == 1
    assert (reason in FAILURE_REASONS) == (reason == "failed")


async def test_a_failure_takes_no_other_passage_with_it() -> None:
    double = Double(lambda task: broken(task) if task.text.startswith("bad") else first_word(task))
    async with engine(double) as made:
        outcomes = await made.compress([job(), job("bad " + TEXT), job("good " + TEXT)], 30)
    assert [one.reason for one in outcomes] == [None, "failed", None]


async def test_a_failure_is_logged_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with engine(Double(broken)) as made:
        await made.compress([job("a secret " + TEXT)], 30)
        await asyncio.sleep(0)
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


async def test_where_nothing_was_sent_a_failure_is_tried_again() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        assert go.wait(30)
        return first_word(task)

    double = Double(slow)
    async with engine(double) as made:
        asked = [job()]
        reasons = [(await made.compress(asked, 0.01, fail_closed=closed))[0].reason for closed in (True, False, True)]
        assert reasons == ["late"] * 3
        assert (await made.compress(asked, 30))[0] == Outcome(
            None, COUNTED.count(TEXT), "none", "late", from_cache=True
        )
        go.set()
        done = (await made.compress(asked, 30, fail_closed=True))[0]
        assert (done.reason, done.from_cache) == (None, False)
        assert (await made.compress(asked, 30))[0] == done._replace(seconds=0.0, from_cache=True)


async def test_late_is_late_for_good() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        go.wait(30)
        return first_word(task)

    double = Double(slow)
    async with engine(double) as made:
        (late,) = await made.compress([job()], 0.01)
        assert (late.text, late.reason, late.seconds) == (None, "late", 0)
        go.set()
        (again,) = await made.compress([job()], 30)
        (fresh,) = await made.compress([job(question="another")], 30)
    assert again.reason == "late"
    assert fresh.reason is None


async def test_what_is_done_in_time_counts_though_another_is_late() -> None:
    go = threading.Event()

    def sometimes_slow(task: Task) -> CompressedPassage:
        if task.text.startswith("slow"):
            go.wait(30)
        return first_word(task)

    async with engine(Double(sometimes_slow)) as made:
        outcomes = await made.compress([job("slow " + TEXT), job()], 0.5)
        go.set()
    assert [one.reason for one in outcomes] == ["late", None]


async def test_beyond_the_queue_passages_go_as_they_are_and_the_queue_empties() -> None:
    async with engine(Double(first_word), workers=1, queue=2) as made:
        outcomes = await made.compress([job(f"{number} {TEXT}") for number in range(5)], 30)
        assert [one.reason for one in outcomes] == [None, None, "busy", "busy", "busy"]
        again = await made.compress([job(f"{number} {TEXT}") for number in range(5)], 30)
        assert [one.reason for one in again] == [None, None, "busy", "busy", "busy"]
        others = await made.compress([job(f"other {number} {TEXT}") for number in range(2)], 30)
        assert [one.reason for one in others] == [None, None]


async def test_requests_that_meet_decide_the_same() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        go.wait(30)
        return first_word(task)

    async with engine(Double(slow)) as made:
        patient = asyncio.create_task(made.compress([job()], 30))
        await asyncio.sleep(0.01)
        (hasty,) = await made.compress([job()], 0.01)
        go.set()
        assert hasty.reason == "late"
        assert (await patient)[0].reason == "late"


async def test_a_request_that_is_given_up_leaves_no_trace() -> None:
    go = threading.Event()

    def slow(task: Task) -> CompressedPassage:
        go.wait(30)
        return first_word(task)

    async with engine(Double(slow), queue=1) as made:
        given_up = asyncio.create_task(made.compress([job()], 30))
        await asyncio.sleep(0.01)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        go.set()
        reasons = {"busy"}
        for attempt in range(200):
            await asyncio.sleep(0.01)
            (outcome,) = await made.compress([job(question=str(attempt))], 30)
            reasons.add(str(outcome.reason))
            if outcome.reason is None:
                break
        assert reasons == {"busy", "None"}


async def test_without_a_cache_nothing_is_remembered() -> None:
    double = Double(first_word)
    async with engine(double, cache_bytes=0) as made:
        for _ in range(2):
            assert (await made.compress([job()], 30))[0].reason is None
    assert len(double.asked) == 2


def test_run_here_and_now() -> None:
    outcome = run_job(job(fetch="GET /v1/retrieve/0"), lambda _: Double(first_word))
    assert outcome.text == "one\n[1 of 2 words left out; GET /v1/retrieve/0]"
    with pytest.raises(RuntimeError):
        run_job(job(), lambda _: Double(broken))


def test_a_lone_surrogate_is_no_trouble() -> None:
    async def scenario() -> None:
        async with engine(Double(first_word)) as made:
            (outcome,) = await made.compress([job("a\ud800 " + TEXT, "\udfff")], 30)
            assert outcome.reason is None

    asyncio.run(scenario())
