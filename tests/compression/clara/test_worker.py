"""The worker: many callers share one model; jobs are bounded, cancellable and timed, and idle models unloaded."""

import asyncio
import dataclasses
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.compression.clara.async_engine import LocalClara, LocalModelConfig
from clara_proxy.compression.clara.checkpoint import QUERY_ADAPTER
from clara_proxy.compression.clara.clara import Clara, Reply
from clara_proxy.compression.clara.decoding import DecodingBatch, TextStream
from clara_proxy.compression.clara.jobs import ModelJob
from clara_proxy.compression.clara.latent_store import LatentStore
from clara_proxy.compression.clara.latents import Latents
from clara_proxy.compression.clara.model import ClaraModel
from clara_proxy.compression.clara.model_source import LoadedModel
from clara_proxy.compression.clara.worker import Worker
from clara_proxy.compression.models import worker as job_worker
from clara_proxy.compression.models.cost import ModelCost
from clara_proxy.compression.models.errors import DeadlineError, ModelError, QueueFullError
from clara_proxy.compression.models.worker import WorkerLimits, WorkerStatus

DOCUMENTS = ["the fox", "a bridge of stone over the river", "", "the lamp, 1931", "answering 🙂", "x y z"]
TIMEOUT = 30.0


@pytest.fixture
def worker(clara: Clara) -> Iterator[Worker]:
    worker = Worker(lambda: clara)
    yield worker
    worker.close()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.005)


class Gate:
    """A loader that waits, so that jobs queue up."""

    def __init__(self, clara: Clara) -> None:
        self.open_event, self.loads, self._clara = threading.Event(), 0, clara

    def __call__(self) -> Clara:
        self.loads += 1
        assert self.open_event.wait(TIMEOUT)
        return self._clara


def create_jobs() -> list[ModelJob]:
    jobs: list[ModelJob] = []
    for n in range(32):
        group, question = DOCUMENTS[n % 4 : n % 4 + 2 + n % 2], f"what about {n}?"
        match n % 5:
            case 0:
                jobs.append(ModelJob("generate", group, question, max_new_tokens=5 + n % 7))
            case 1:
                jobs.append(ModelJob("answer", group, question, k=2, max_new_tokens=9))
            case 2:
                jobs.append(ModelJob("compress", group))
            case 3:
                jobs.append(ModelJob("retrieve", group, question))
            case _:
                jobs.append(ModelJob("paraphrase", group, template=n % 13, max_new_tokens=8))
    return jobs


def run_directly(clara: Clara, job: ModelJob) -> Any:
    match job.kind:
        case "compress":
            assert not isinstance(job.documents, Latents)
            return clara.compress(job.documents)
        case "retrieve":
            return clara.retrieve(job.question, clara.collect_latents([job.documents], 1)[0], job.k)
        case "paraphrase":
            return clara.paraphrase([job.documents], job.template, job.max_new_tokens)[0]
        case "answer" | "ask":
            return clara.answer(job.question, job.documents, job.k, job.max_new_tokens)
        case "generate":
            return clara.replies([job.question], [job.documents], job.max_new_tokens)[0]


def assert_result(job: ModelJob, result: Any, expected: Any) -> None:
    if job.kind == "compress":
        torch.testing.assert_close(result.vectors, expected.vectors, atol=1e-4, rtol=0)
        assert result.texts == expected.texts
    elif job.kind == "retrieve":
        assert result.indices == expected.indices
        assert result.scores == pytest.approx(expected.scores, abs=1e-5)
    elif job.kind == "paraphrase":
        assert result.text == expected
    else:
        assert (result.tokens, result.text, result.used, result.finish) == (
            expected.tokens,
            expected.text,
            expected.used,
            expected.finish,
        )


@pytest.mark.parametrize("together", [1, 5, 32])
def test_mixed_jobs_equal_direct_calls(clara: Clara, together: int) -> None:
    gate = Gate(clara)
    worker = Worker(gate, WorkerLimits(max_running=together))
    futures: list[Future[Any]] = [worker.submit(job) for job in create_jobs()]
    gate.open_event.set()
    for job, future in zip(create_jobs(), futures, strict=True):
        assert_result(job, future.result(TIMEOUT), run_directly(clara, job))
    worker.close()


def test_mixed_jobs_on_a_golden_checkpoint_equal_direct_calls(golden: Path, load: Callable[[str], Clara]) -> None:
    clara = load("CLaRa-tiny-E2E/compression-16")
    worker = Worker(lambda: clara)
    futures = [worker.submit(job) for job in create_jobs()]
    for job, future in zip(create_jobs(), futures, strict=True):
        assert_result(job, future.result(TIMEOUT), run_directly(clara, job))
    worker.close()


def test_later_jobs_join_a_running_batch(worker: Worker, clara: Clara) -> None:
    started = threading.Event()
    first = worker.submit(
        ModelJob("generate", DOCUMENTS, "first?", max_new_tokens=400), on_text=lambda _: started.set()
    )
    assert started.wait(TIMEOUT)
    second = worker.submit(ModelJob("generate", DOCUMENTS[:1], "second?", max_new_tokens=3))
    assert second.result(TIMEOUT).tokens == clara.replies(["second?"], [DOCUMENTS[:1]], 3)[0].tokens
    assert not first.done()
    assert first.result(TIMEOUT).tokens == clara.replies(["first?"], [DOCUMENTS], 400)[0].tokens


def test_streamed_pieces_add_up_to_the_answer(worker: Worker) -> None:
    pieces: list[str] = []
    reply: Reply = worker.submit(
        ModelJob("generate", DOCUMENTS, "🙂?", max_new_tokens=40), on_text=pieces.append
    ).result(TIMEOUT)
    assert "".join(pieces) == reply.text
    assert len(pieces) > 2


def count_encoded_rows(clara: Clara, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of rows of every forward pass that encodes."""
    rows_of_passes: list[int] = []
    encode = ClaraModel.encode_steps

    def record(model: ClaraModel, rows: Any, memories: int, adapter: str) -> Any:
        rows_of_passes.append(len(rows))
        return (yield from encode(model, rows, memories, adapter))

    monkeypatch.setattr(ClaraModel, "encode_steps", record)
    return rows_of_passes


@pytest.fixture
def small_passes(tiny: Path) -> Clara:
    """A model that encodes one window at a time and keeps its memories."""
    clara = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", store=LatentStore(None))
    clara.model = dataclasses.replace(cast("ClaraModel", clara.model), max_batch_positions=1)
    return clara


LONG_TEXT = " ".join(f"the fox {n} the river" for n in range(40))


def test_passes_before_a_deadline_are_kept(small_passes: Clara, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = count_encoded_rows(small_passes, monkeypatch)
    steps = small_passes.compress_steps([LONG_TEXT])
    for _ in range(3):
        next(steps)
    steps.close()  # as the worker does after the deadline
    done = len(passes)
    latents = small_passes.compress([LONG_TEXT])
    assert len(latents) > 5
    assert sum(passes) == len(latents)
    assert done == 3


def test_equal_texts_in_two_jobs_are_encoded_once(small_passes: Clara, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = count_encoded_rows(small_passes, monkeypatch)
    first, second = (small_passes.compress_steps([LONG_TEXT]) for _ in range(2))
    results: list[Latents] = []
    running = [first, second]
    while running:
        for steps in list(running):  # in turn, as the worker does
            try:
                next(steps)
            except StopIteration as end:
                results.append(end.value)
                running.remove(steps)
    assert torch.equal(results[0].vectors, results[1].vectors)
    assert sum(passes) <= len(results[0]) + 1  # the first pass of both had begun


async def test_deadline_includes_loading(clara: Clara) -> None:
    gate = Gate(clara)
    local = LocalClara(LocalModelConfig("/nowhere", None, None, "cpu", None, None), WorkerLimits())
    local.worker.close()
    local.worker = Worker(gate)
    for work in (
        local.compress(["a"], 0.05),
        local.answer(["a"], "b?", 4, 0.05),
        anext(local.stream(["a"], "b?", 4, 0.05)),
    ):
        with pytest.raises(DeadlineError):
            await asyncio.wait_for(work, TIMEOUT / 2)  # the loader still waits
    assert local.status()["loading"] is True
    gate.open_event.set()
    local.close()


async def test_futures_are_awaitable(worker: Worker) -> None:
    reply = await asyncio.wrap_future(worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=4)))
    assert len(reply.tokens) == 4


def test_closing_does_not_wait_for_a_model_that_loads(clara: Clara) -> None:
    gate = Gate(clara)
    worker = Worker(gate)
    future = worker.submit(ModelJob("compress", ["a"]))
    wait_until(lambda: gate.loads == 1)
    worker.close(timeout=10 * TIMEOUT)  # the loader still waits, and its own time limit would fail the test
    assert future.cancelled()
    gate.open_event.set()


def test_queue_is_bounded(clara: Clara) -> None:
    gate = Gate(clara)
    worker = Worker(gate, WorkerLimits(max_waiting=2))
    first = worker.submit(ModelJob("compress", ["a"]))
    wait_until(lambda: gate.loads == 1)
    others = [worker.submit(ModelJob("compress", ["a"])) for _ in range(2)]
    assert worker.status() == WorkerStatus(loaded=False, waiting=2, running=1, busy_seconds=0.0, loading=True)
    with pytest.raises(QueueFullError, match="2 jobs are waiting"):
        worker.submit(ModelJob("compress", ["a"]))
    gate.open_event.set()
    assert all(len(future.result(TIMEOUT)) == 1 for future in [first, *others])
    worker.close()


def test_cancelled_job_leaves_the_batch(worker: Worker) -> None:
    started = threading.Event()
    job = ModelJob("generate", DOCUMENTS, "long?", max_new_tokens=100_000)
    future = worker.submit(job, on_text=lambda _: started.set())
    assert started.wait(TIMEOUT)
    assert future.cancel()
    wait_until(lambda: worker.status().running == 0)
    assert len(worker.submit(ModelJob("compress", ["a"])).result(TIMEOUT)) == 1


def test_job_cancelled_in_the_queue_is_not_run(clara: Clara) -> None:
    gate, pieces = Gate(clara), list[str]()
    worker = Worker(gate)
    worker.submit(ModelJob("compress", ["a"]))
    wait_until(lambda: gate.loads == 1)
    dropped = worker.submit(ModelJob("generate", DOCUMENTS, "why?"), on_text=pieces.append)
    dropped.cancel()
    gate.open_event.set()
    worker.submit(ModelJob("compress", ["b"])).result(TIMEOUT)
    assert pieces == []
    worker.close()


def test_deadline_applies_in_the_queue_and_while_running(clara: Clara, worker: Worker) -> None:
    late = worker.submit(ModelJob("compress", ["a"]), deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineError):
        late.result(TIMEOUT)
    start = time.monotonic()
    endless = worker.submit(ModelJob("generate", DOCUMENTS, "long?", max_new_tokens=100_000), deadline=start + 0.3)
    with pytest.raises(DeadlineError):
        endless.result(TIMEOUT)
    assert 0.2 < time.monotonic() - start < 10
    wait_until(lambda: worker.status().running == 0)


def test_failed_job_does_not_affect_others(worker: Worker, clara: Clara) -> None:
    bad = [
        worker.submit(ModelJob("retrieve", DOCUMENTS, "why?", k=99)),
        worker.submit(ModelJob("paraphrase", DOCUMENTS, template="no place")),
        worker.submit(ModelJob("compress", [None])),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ]
    good = worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=5))
    assert good.result(TIMEOUT).tokens == clara.replies(["why?"], [DOCUMENTS], 5)[0].tokens
    wait(bad, TIMEOUT)
    assert [type(future.exception()) for future in bad[:2]] == [ModelError, ValueError]
    assert isinstance(bad[2].exception(), TypeError)


def test_failed_listener_ends_its_own_job_only(worker: Worker) -> None:
    def listener(_: str) -> None:
        raise RuntimeError("the client has gone")

    broken = worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=50), on_text=listener)
    whole = worker.submit(ModelJob("generate", DOCUMENTS, "b?", max_new_tokens=50))
    with pytest.raises(RuntimeError, match="has gone"):
        broken.result(TIMEOUT)
    assert whole.result(TIMEOUT).tokens


def test_failed_step_ends_its_batch_only(worker: Worker, clara: Clara, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("clara_proxy.compression.clara.decoding.DecodingBatch.step", broken)
        with pytest.raises(MemoryError):
            worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(TIMEOUT)
    assert worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(TIMEOUT).tokens


@pytest.mark.parametrize("together", [1, 2])
def test_batch_that_fails_at_its_start_leaves_no_rows(
    clara: Clara, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    calls: list[int] = []
    sizes: list[int] = []
    plain_stream, plain_step = Clara.text_stream, DecodingBatch.step

    def fail_once(self: Clara) -> TextStream:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("no room")
        return plain_stream(self)

    def count_rows(self: DecodingBatch) -> None:
        sizes.append(len(self.rows))
        plain_step(self)

    monkeypatch.setattr(Clara, "text_stream", fail_once)
    monkeypatch.setattr(DecodingBatch, "step", count_rows)
    gate, pieces = Gate(clara), list[str]()
    worker, job = Worker(gate), ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=6)
    blocker = worker.submit(ModelJob("compress", ["a"]))
    wait_until(lambda: gate.loads == 1)
    first = [worker.submit(job, on_text=pieces.append) for _ in range(together)]
    gate.open_event.set()
    blocker.result(TIMEOUT)
    wait(first, TIMEOUT)
    assert [type(future.exception()) for future in first] == ([MemoryError] if together == 1 else [type(None)] * 2)
    assert worker.submit(job, on_text=pieces.append).result(TIMEOUT).text
    assert max(sizes) == together
    worker.close()


def test_model_is_loaded_at_the_first_job_and_after_a_failure(clara: Clara) -> None:
    loads: list[int] = []

    def loader() -> Clara:
        loads.append(1)
        if len(loads) == 1:
            raise ModelError("the disk is not there")
        return clara

    worker = Worker(loader)
    assert worker.status() == WorkerStatus(loaded=False, waiting=0, running=0, busy_seconds=0.0)
    assert loads == []
    with pytest.raises(ModelError, match="the disk"):
        worker.submit(ModelJob("compress", ["a"])).result(TIMEOUT)
    assert len(worker.submit(ModelJob("compress", ["a"])).result(TIMEOUT)) == 1
    worker.close()


def test_import_does_not_load_torch() -> None:
    code = "import sys, clara_proxy.compression.clara.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def load_tracked(tiny: Path, loads: "list[weakref.ref[Any]]") -> Clara:
    clara = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu")
    loads.append(weakref.ref(clara.model.embed))
    return clara


def test_idle_model_is_unloaded_and_loaded_again(tiny: Path) -> None:
    loads: list[weakref.ref[Any]] = []
    worker = Worker(lambda: load_tracked(tiny, loads), WorkerLimits(keep_alive=0.2))
    first = worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(TIMEOUT)
    wait_until(lambda: not worker.status().loaded)
    wait_until(lambda: gc.collect() >= 0 and loads[0]() is None)
    assert worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(TIMEOUT).text == first.text
    assert len(loads) == 2
    worker.close()


def test_model_is_unloaded_on_request(tiny: Path) -> None:
    loads: list[weakref.ref[Any]] = []
    worker = Worker(lambda: load_tracked(tiny, loads), WorkerLimits(keep_alive=None))
    worker.submit(ModelJob("compress", ["a"])).result(TIMEOUT)
    worker.unload()
    wait_until(lambda: not worker.status().loaded)
    wait_until(lambda: gc.collect() >= 0 and loads[0]() is None)
    worker.close()


def test_close_cancels_remaining_jobs(clara: Clara) -> None:
    worker = Worker(lambda: clara, WorkerLimits(max_running=1))
    endless = [worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=100_000)) for _ in range(2)]
    wait_until(lambda: worker.status().running == 1)
    worker.close()
    for future in endless:
        with pytest.raises(CancelledError):
            future.result(TIMEOUT)
    with pytest.raises(ModelError, match="closed"):
        worker.submit(ModelJob("compress", ["a"]))


def long_text(sentences: int) -> str:
    """Return a text of as many windows, all different."""
    return " ".join(f"{n}: the bridge of stone over the river." for n in range(sentences))


@pytest.fixture
def small_steps(clara: Clara) -> Clara:
    """Return the same model with one document per forward pass."""
    model = dataclasses.replace(cast("ClaraModel", clara.model), max_batch_positions=1)
    return Clara(LoadedModel(model, clara.tokenizer, clara.config, clara.fingerprint))


def test_long_document_delays_no_other_jobs(small_steps: Clara) -> None:
    worker = Worker(lambda: small_steps)
    text = long_text(800)
    slow = worker.submit(ModelJob("compress", [text]))
    wait_until(lambda: worker.status().running == 1)
    short = [worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=8)) for _ in range(3)]
    for future in short:
        assert future.result(TIMEOUT).tokens == small_steps.replies(["why?"], [DOCUMENTS], 8)[0].tokens
        assert not slow.done()
    assert torch.allclose(slow.result(TIMEOUT).vectors, small_steps.compress([text]).vectors, atol=1e-5)
    worker.close()


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_encoding_stops_when_its_job_is_dropped(small_steps: Clara, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    passes: list[int] = []
    inner = ClaraModel.encode_steps
    deadline = time.monotonic() + TIMEOUT if how == "late" else None
    clock = SimpleNamespace(monotonic=time.monotonic, perf_counter=time.perf_counter, time=time.time)
    monkeypatch.setattr(job_worker, "time", clock)

    def count_passes(self: ClaraModel, *args: Any) -> Any:
        steps = inner(self, *args)
        while True:
            passes.append(1)
            if deadline is not None and len(passes) == 5:
                clock.monotonic = lambda: time.monotonic() + TIMEOUT
            try:
                yield next(steps)
            except StopIteration as end:
                return end.value

    monkeypatch.setattr(ClaraModel, "encode_steps", count_passes)
    worker = Worker(lambda: small_steps)
    text = long_text(3000)
    future = worker.submit(ModelJob("compress", [text]), deadline=deadline)
    wait_until(lambda: len(passes) > 3)
    if how == "cancelled":
        assert future.cancel()
    else:
        with pytest.raises(DeadlineError):
            future.result(TIMEOUT)
    wait_until(lambda: worker.status().running == 0)
    assert len(passes) < 3000
    worker.close()


def test_cost_counts_tokens_and_accelerator_seconds(clara: Clara, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clara, "uses_accelerator", True)  # counts the CPU's seconds as an accelerator's
    worker = Worker(lambda: clara)
    cost, other = ModelCost(), ModelCost()
    latents = worker.submit(ModelJob("compress", DOCUMENTS), cost=cost).result(TIMEOUT)
    assert cost.tokens == sum(latents.token_counts)
    assert 0 < cost.gpu_seconds <= worker.status().busy_seconds
    reply = worker.submit(ModelJob("generate", latents, "why?", max_new_tokens=5), cost=other).result(TIMEOUT)
    assert other.tokens == reply.prompt_tokens + len(reply.tokens)
    wait_until(lambda: worker.status().running == 0)
    assert cost.gpu_seconds + other.gpu_seconds == pytest.approx(worker.status().busy_seconds)
    worker.close()


def test_cpu_time_is_not_charged(worker: Worker) -> None:
    cost = ModelCost()
    worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=5), cost=cost).result(TIMEOUT)
    assert cost.tokens > 0
    assert cost.gpu_seconds == 0


def _identity(clara: Clara) -> Clara:
    return clara


def test_ask_retrieves_if_the_checkpoint_can(clara: Clara) -> None:
    adapters = {k: v for k, v in clara.model.adapters.items() if k != QUERY_ADAPTER}
    model = dataclasses.replace(cast("ClaraModel", clara.model), adapters=adapters)
    without_query = Clara(LoadedModel(model, clara.tokenizer, clara.config, clara.fingerprint))
    for loaded, expected in (
        (clara, clara.answer("why?", DOCUMENTS, None, 6)),
        (without_query, without_query.replies(["why?"], [DOCUMENTS], 6)[0]),
    ):
        worker = Worker(partial(_identity, loaded))
        reply = worker.submit(ModelJob("ask", DOCUMENTS, "why?", max_new_tokens=6)).result(TIMEOUT)
        assert (reply.used, reply.tokens) == (expected.used, expected.tokens)
        assert worker.submit(ModelJob("ask", [], "why?", max_new_tokens=3)).result(TIMEOUT).used == ()
        worker.close()
    assert len(clara.answer("why?", DOCUMENTS, None, 6).used) == clara.config.top_k < len(DOCUMENTS)
