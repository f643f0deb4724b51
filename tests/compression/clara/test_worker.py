"""The worker: many callers, one model; bounded, cancellable, punctual, and gone when nobody needs it."""

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
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.compression.clara.checkpoint import QUERY_ADAPTER
from clara_proxy.compression.clara.clara import Clara, Reply
from clara_proxy.compression.clara.decoding import DecodingBatch, TextStream
from clara_proxy.compression.clara.exceptions import ClaraError, DeadlineError, QueueFullError
from clara_proxy.compression.clara.jobs import ModelCost, ModelJob
from clara_proxy.compression.clara.latents import Latents
from clara_proxy.compression.clara.loading import LoadedModel
from clara_proxy.compression.clara.model import ClaraModel
from clara_proxy.compression.clara.worker import Worker, WorkerLimits, WorkerStatus

DOCUMENTS = ["the fox", "a bridge of stone over the river", "", "the lamp, 1931", "answering 🙂", "x y z"]
PATIENCE = 30.0


@pytest.fixture
def worker(clara: Clara) -> Iterator[Worker]:
    made = Worker(lambda: clara)
    yield made
    made.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


class Gate:
    """A loader that waits, so that jobs pile up behind it."""

    def __init__(self, clara: Clara) -> None:
        self.opened, self.loads, self._clara = threading.Event(), 0, clara

    def __call__(self) -> Clara:
        self.loads += 1
        assert self.opened.wait(PATIENCE)
        return self._clara


def jobs() -> list[ModelJob]:
    made: list[ModelJob] = []
    for place in range(32):
        group, question = DOCUMENTS[place % 4 : place % 4 + 2 + place % 2], f"what about {place}?"
        match place % 5:
            case 0:
                made.append(ModelJob("generate", group, question, max_new_tokens=5 + place % 7))
            case 1:
                made.append(ModelJob("answer", group, question, k=2, max_new_tokens=9))
            case 2:
                made.append(ModelJob("compress", group))
            case 3:
                made.append(ModelJob("retrieve", group, question))
            case _:
                made.append(ModelJob("paraphrase", group, template=place % 13, max_new_tokens=8))
    return made


def alone(clara: Clara, job: ModelJob) -> Any:
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


def check(job: ModelJob, mine: Any, expected: Any) -> None:
    if job.kind == "compress":
        torch.testing.assert_close(mine.vectors, expected.vectors, atol=1e-4, rtol=0)
        assert mine.texts == expected.texts
    elif job.kind == "retrieve":
        assert mine.indices == expected.indices
        assert mine.scores == pytest.approx(expected.scores, abs=1e-5)
    elif job.kind == "paraphrase":
        assert mine.text == expected
    else:
        assert (mine.tokens, mine.text, mine.used, mine.finish) == (
            expected.tokens,
            expected.text,
            expected.used,
            expected.finish,
        )


@pytest.mark.parametrize("together", [1, 5, 32])
def test_32_mixed_requests_are_as_one_at_a_time(clara: Clara, together: int) -> None:
    gate = Gate(clara)
    worker = Worker(gate, WorkerLimits(max_running=together))
    futures: list[Future[Any]] = [worker.submit(job) for job in jobs()]
    gate.opened.set()
    for job, future in zip(jobs(), futures, strict=True):
        check(job, future.result(PATIENCE), alone(clara, job))
    worker.close()


def test_golden_checkpoints_serve_32_at_once(golden: Path, load: Callable[[str], Clara]) -> None:
    clara = load("CLaRa-tiny-E2E/compression-16")
    worker = Worker(lambda: clara)
    futures = [worker.submit(job) for job in jobs()]
    for job, future in zip(jobs(), futures, strict=True):
        check(job, future.result(PATIENCE), alone(clara, job))
    worker.close()


def test_newcomers_join_a_running_batch(worker: Worker, clara: Clara) -> None:
    started = threading.Event()
    first = worker.submit(
        ModelJob("generate", DOCUMENTS, "first?", max_new_tokens=400), on_text=lambda _: started.set()
    )
    assert started.wait(PATIENCE)
    second = worker.submit(ModelJob("generate", DOCUMENTS[:1], "second?", max_new_tokens=3))
    assert second.result(PATIENCE).tokens == clara.replies(["second?"], [DOCUMENTS[:1]], 3)[0].tokens
    assert not first.done()
    assert first.result(PATIENCE).tokens == clara.replies(["first?"], [DOCUMENTS], 400)[0].tokens


def test_streams_add_up(worker: Worker) -> None:
    pieces: list[str] = []
    reply: Reply = worker.submit(
        ModelJob("generate", DOCUMENTS, "🙂?", max_new_tokens=40), on_text=pieces.append
    ).result(PATIENCE)
    assert "".join(pieces) == reply.text
    assert len(pieces) > 2


async def test_futures_are_awaitable(worker: Worker) -> None:
    reply = await asyncio.wrap_future(worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=4)))
    assert len(reply.tokens) == 4


def test_the_queue_is_bounded(clara: Clara) -> None:
    gate = Gate(clara)
    worker = Worker(gate, WorkerLimits(max_waiting=2))
    first = worker.submit(ModelJob("compress", ["a"]))
    until(lambda: gate.loads == 1)
    others = [worker.submit(ModelJob("compress", ["a"])) for _ in range(2)]
    assert worker.status() == WorkerStatus(loaded=False, waiting=2, running=1, busy_seconds=0.0)
    with pytest.raises(QueueFullError, match="2 jobs are waiting"):
        worker.submit(ModelJob("compress", ["a"]))
    gate.opened.set()
    assert all(len(future.result(PATIENCE)) == 1 for future in [first, *others])
    worker.close()


def test_a_cancelled_job_leaves_the_batch(worker: Worker) -> None:
    started = threading.Event()
    job = ModelJob("generate", DOCUMENTS, "long?", max_new_tokens=100_000)
    future = worker.submit(job, on_text=lambda _: started.set())
    assert started.wait(PATIENCE)
    assert future.cancel()
    until(lambda: worker.status().running == 0)
    assert len(worker.submit(ModelJob("compress", ["a"])).result(PATIENCE)) == 1


def test_a_job_cancelled_in_the_queue_is_not_run(clara: Clara) -> None:
    gate, said = Gate(clara), list[str]()
    worker = Worker(gate)
    worker.submit(ModelJob("compress", ["a"]))
    until(lambda: gate.loads == 1)
    dropped = worker.submit(ModelJob("generate", DOCUMENTS, "why?"), on_text=said.append)
    dropped.cancel()
    gate.opened.set()
    worker.submit(ModelJob("compress", ["b"])).result(PATIENCE)
    assert said == []
    worker.close()


def test_deadlines_hold_in_the_queue_and_half_way(clara: Clara, worker: Worker) -> None:
    late = worker.submit(ModelJob("compress", ["a"]), deadline=time.monotonic() - 1)
    with pytest.raises(DeadlineError):
        late.result(PATIENCE)
    began = time.monotonic()
    endless = worker.submit(ModelJob("generate", DOCUMENTS, "long?", max_new_tokens=100_000), deadline=began + 0.3)
    with pytest.raises(DeadlineError):
        endless.result(PATIENCE)
    assert 0.2 < time.monotonic() - began < 10
    until(lambda: worker.status().running == 0)


def test_one_bad_job_harms_no_other(worker: Worker, clara: Clara) -> None:
    bad = [
        worker.submit(ModelJob("retrieve", DOCUMENTS, "why?", k=99)),
        worker.submit(ModelJob("paraphrase", DOCUMENTS, template="no place")),
        worker.submit(ModelJob("compress", [None])),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ]
    good = worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=5))
    assert good.result(PATIENCE).tokens == clara.replies(["why?"], [DOCUMENTS], 5)[0].tokens
    wait(bad, PATIENCE)
    assert [type(future.exception()) for future in bad[:2]] == [ClaraError, ValueError]
    assert isinstance(bad[2].exception(), TypeError)


def test_a_listener_that_fails_ends_its_own_job(worker: Worker) -> None:
    def listener(_: str) -> None:
        raise RuntimeError("the client has gone")

    broken = worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=50), on_text=listener)
    whole = worker.submit(ModelJob("generate", DOCUMENTS, "b?", max_new_tokens=50))
    with pytest.raises(RuntimeError, match="has gone"):
        broken.result(PATIENCE)
    assert whole.result(PATIENCE).tokens


def test_a_step_that_fails_fails_its_batch_only(worker: Worker, clara: Clara, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("clara_proxy.compression.clara.decoding.DecodingBatch.step", broken)
        with pytest.raises(MemoryError):
            worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(PATIENCE)
    assert worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(PATIENCE).tokens


@pytest.mark.parametrize("together", [1, 2])
def test_a_batch_that_fails_as_it_starts_leaves_no_rows_behind(
    clara: Clara, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    calls: list[int] = []
    sizes: list[int] = []
    plain_stream, plain_step = Clara.text_stream, DecodingBatch.step

    def fails_once(self: Clara) -> TextStream:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("no room")
        return plain_stream(self)

    def counted(self: DecodingBatch) -> None:
        sizes.append(len(self.rows))
        plain_step(self)

    monkeypatch.setattr(Clara, "text_stream", fails_once)
    monkeypatch.setattr(DecodingBatch, "step", counted)
    gate, said = Gate(clara), list[str]()
    worker, job = Worker(gate), ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=6)
    blocker = worker.submit(ModelJob("compress", ["a"]))
    until(lambda: gate.loads == 1)
    first = [worker.submit(job, on_text=said.append) for _ in range(together)]
    gate.opened.set()
    blocker.result(PATIENCE)
    wait(first, PATIENCE)
    assert [type(future.exception()) for future in first] == ([MemoryError] if together == 1 else [type(None)] * 2)
    assert worker.submit(job, on_text=said.append).result(PATIENCE).text
    assert max(sizes) == together
    worker.close()


def test_nothing_is_loaded_before_the_first_job_and_a_failed_load_is_tried_again(clara: Clara) -> None:
    loads: list[int] = []

    def loader() -> Clara:
        loads.append(1)
        if len(loads) == 1:
            raise ClaraError("the disk is not there")
        return clara

    worker = Worker(loader)
    assert worker.status() == WorkerStatus(loaded=False, waiting=0, running=0, busy_seconds=0.0)
    assert loads == []
    with pytest.raises(ClaraError, match="the disk"):
        worker.submit(ModelJob("compress", ["a"])).result(PATIENCE)
    assert len(worker.submit(ModelJob("compress", ["a"])).result(PATIENCE)) == 1
    worker.close()


def test_importing_the_worker_loads_no_torch() -> None:
    code = "import sys, clara_proxy.compression.clara.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def fresh(tiny: Path, seen: "list[weakref.ref[Any]]") -> Clara:
    made = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu")
    seen.append(weakref.ref(made.model.embed))
    return made


def test_an_idle_model_is_let_go_and_comes_back(tiny: Path) -> None:
    seen: list[weakref.ref[Any]] = []
    worker = Worker(lambda: fresh(tiny, seen), WorkerLimits(keep_alive=0.2))
    first = worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(PATIENCE)
    until(lambda: not worker.status().loaded)
    until(lambda: gc.collect() >= 0 and seen[0]() is None)
    assert worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=5)).result(PATIENCE).text == first.text
    assert len(seen) == 2
    worker.close()


def test_unload_on_request(tiny: Path) -> None:
    seen: list[weakref.ref[Any]] = []
    worker = Worker(lambda: fresh(tiny, seen), WorkerLimits(keep_alive=None))
    worker.submit(ModelJob("compress", ["a"])).result(PATIENCE)
    worker.unload()
    until(lambda: not worker.status().loaded)
    until(lambda: gc.collect() >= 0 and seen[0]() is None)
    worker.close()


def test_closing_cancels_what_is_left(clara: Clara) -> None:
    worker = Worker(lambda: clara, WorkerLimits(max_running=1))
    endless = [worker.submit(ModelJob("generate", DOCUMENTS, "a?", max_new_tokens=100_000)) for _ in range(2)]
    until(lambda: worker.status().running == 1)
    worker.close()
    for future in endless:
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
    with pytest.raises(ClaraError, match="closed"):
        worker.submit(ModelJob("compress", ["a"]))


def long_text(sentences: int) -> str:
    """Return a text of as many windows, no two of them alike."""
    return " ".join(f"{place}: the bridge of stone over the river." for place in range(sentences))


@pytest.fixture
def small_steps(clara: Clara) -> Clara:
    """The same model with a budget of one document a forward pass."""
    model = dataclasses.replace(clara.model, max_batch_positions=1)
    return Clara(LoadedModel(model, clara.tokenizer, clara.config, clara.fingerprint))


def test_a_long_document_keeps_neither_short_jobs_nor_running_answers_waiting(small_steps: Clara) -> None:
    worker = Worker(lambda: small_steps)
    text = long_text(800)
    slow = worker.submit(ModelJob("compress", [text]))
    until(lambda: worker.status().running == 1)
    done_first = [worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=8)) for _ in range(3)]
    for future in done_first:
        assert future.result(PATIENCE).tokens == small_steps.replies(["why?"], [DOCUMENTS], 8)[0].tokens
        assert not slow.done()
    assert torch.allclose(slow.result(PATIENCE).vectors, small_steps.compress([text]).vectors, atol=1e-5)
    worker.close()


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_a_long_document_that_nobody_waits_for_is_given_up_half_way(
    small_steps: Clara, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    passes: list[int] = []
    inner = ClaraModel.encode_steps

    def counted(self: ClaraModel, *args: Any) -> Any:
        steps = inner(self, *args)
        while True:
            passes.append(1)
            try:
                yield next(steps)
            except StopIteration as end:
                return end.value

    monkeypatch.setattr(ClaraModel, "encode_steps", counted)
    worker = Worker(lambda: small_steps)
    text = long_text(3000)
    deadline = time.monotonic() + 2 if how == "late" else None
    future = worker.submit(ModelJob("compress", [text]), deadline=deadline)
    until(lambda: len(passes) > 3)
    if how == "cancelled":
        assert future.cancel()
    else:
        with pytest.raises(DeadlineError):
            future.result(PATIENCE)
    until(lambda: worker.status().running == 0)
    assert len(passes) < 3000
    worker.close()


def test_what_a_job_costs_is_told(clara: Clara, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Clara, "uses_accelerator", True
    )  # no accelerator here: the processor's seconds stand in for its
    worker = Worker(lambda: clara)
    cost, other = ModelCost(), ModelCost()
    latents = worker.submit(ModelJob("compress", DOCUMENTS), cost=cost).result(PATIENCE)
    assert cost.tokens == sum(latents.tokens)
    assert 0 < cost.gpu_seconds <= worker.status().busy_seconds
    reply = worker.submit(ModelJob("generate", latents, "why?", max_new_tokens=5), cost=other).result(PATIENCE)
    assert other.tokens == reply.prompt_tokens + len(reply.tokens)
    until(lambda: worker.status().running == 0)
    assert cost.gpu_seconds + other.gpu_seconds == pytest.approx(worker.status().busy_seconds)
    worker.close()


def test_the_processors_time_is_not_an_accelerators(worker: Worker) -> None:
    cost = ModelCost()
    worker.submit(ModelJob("generate", DOCUMENTS, "why?", max_new_tokens=5), cost=cost).result(PATIENCE)
    assert cost.tokens > 0
    assert cost.gpu_seconds == 0


def _itself(made: Clara) -> Clara:
    return made


def test_asking_seeks_where_the_checkpoint_has_learned_to(clara: Clara) -> None:
    model = dataclasses.replace(
        clara.model, adapters={k: v for k, v in clara.model.adapters.items() if k != QUERY_ADAPTER}
    )
    blind = Clara(LoadedModel(model, clara.tokenizer, clara.config, clara.fingerprint))
    for made, wanted in (
        (clara, clara.answer("why?", DOCUMENTS, None, 6)),
        (blind, blind.replies(["why?"], [DOCUMENTS], 6)[0]),
    ):
        worker = Worker(partial(_itself, made))
        reply = worker.submit(ModelJob("ask", DOCUMENTS, "why?", max_new_tokens=6)).result(PATIENCE)
        assert (reply.used, reply.tokens) == (wanted.used, wanted.tokens)
        assert worker.submit(ModelJob("ask", [], "why?", max_new_tokens=3)).result(PATIENCE).used == ()
        worker.close()
    assert len(clara.answer("why?", DOCUMENTS, None, 6).used) == clara.config.top_k < len(DOCUMENTS)
