"""The pruner's worker: jobs share forward passes, are bounded and timed, and an idle model is unloaded."""

import threading
import time

import pytest

pytest.importorskip("torch", reason="pruners need the extra [pruners]")

from clara_proxy.compression.models.cost import ModelCost
from clara_proxy.compression.models.errors import DeadlineError, ModelError, QueueFullError
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.compression.pruners.jobs import PruneJob
from clara_proxy.compression.pruners.pruner import Pruner
from clara_proxy.compression.pruners.worker import PrunerWorker
from clara_proxy.tests.compression.pruners.conftest import TinyPruner

TIMEOUT = 30.0
SENTENCE = "The engine failed to start because the pump was old. "


class Gate:
    """A loader that waits, so that jobs queue up."""

    def __init__(self, pruner: Pruner) -> None:
        self.open_event, self.loads, self._pruner = threading.Event(), 0, pruner

    def __call__(self) -> Pruner:
        self.loads += 1
        assert self.open_event.wait(TIMEOUT)
        return self._pruner


@pytest.fixture
def tiny(tiny_pruners_by_kind: dict[str, TinyPruner]) -> TinyPruner:
    return tiny_pruners_by_kind["bert"]


def wait_for_load(gate: Gate) -> None:
    end = time.monotonic() + TIMEOUT
    while not gate.loads:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_jobs_of_many_requests_share_a_pass(tiny: TinyPruner, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    score_rows = Pruner.score_rows

    def record(pruner: Pruner, rows: list[list[int]]) -> object:
        passes.append(len(rows))
        return score_rows(pruner, rows)

    monkeypatch.setattr(Pruner, "score_rows", record)
    texts = [SENTENCE * (1 + n) for n in range(6)]
    gate = Gate(tiny.pruner)
    worker = PrunerWorker(gate)
    costs = [ModelCost() for _ in texts]
    futures = [worker.submit(PruneJob(text), cost=cost) for text, cost in zip(texts, costs, strict=True)]
    gate.open_event.set()
    together = [future.result(TIMEOUT).scores for future in futures]
    assert max(passes) >= 5  # the first job may have started alone
    alone = [tiny.pruner.score(PruneJob(text)).scores for text in texts]
    assert all(first == pytest.approx(second, abs=1e-6) for first, second in zip(together, alone, strict=True))
    assert [cost.tokens for cost in costs] == [2 + len(tiny.pruner.encode(PruneJob(text)).ids) for text in texts]
    worker.close()


def test_long_job_does_not_delay_a_short_one(tiny: TinyPruner) -> None:
    gate = Gate(tiny.pruner)
    worker = PrunerWorker(gate)
    long = worker.submit(PruneJob(SENTENCE * 3000))
    short = worker.submit(PruneJob(SENTENCE))
    gate.open_event.set()
    short.result(TIMEOUT)
    assert not long.done()
    assert long.cancel()
    assert worker.submit(PruneJob(SENTENCE)).result(TIMEOUT).scores
    worker.close()


def test_windows_overlap_and_cover_the_text(tiny: TinyPruner) -> None:
    encoded = tiny.pruner.encode(PruneJob(SENTENCE * 200))
    for window, following in zip(encoded.windows, encoded.windows[1:], strict=False):
        assert 0 < window.end - following.start <= 50
        assert window.end - window.start <= 510
        assert encoded.job.text[encoded.offsets[window.end - 1][0]] == "."  # a window ends with a sentence
    assert (encoded.windows[0].start, encoded.windows[-1].end) == (0, len(encoded.ids))
    scored = tiny.worker.submit(encoded.job).result(TIMEOUT)
    assert len(scored.scores) == 200 * len(SENTENCE.replace(".", " .").split())


def test_no_window_reaches_across_documents(tiny_pruners_by_kind: dict[str, TinyPruner]) -> None:
    tiny = tiny_pruners_by_kind["provence"]
    text = SENTENCE * 4
    size = len(SENTENCE)
    units = [(size * n, size * (n + 1) - 1) for n in range(4)]
    both = tiny.pruner.score(PruneJob(text, "why?", units, [0, 2]))
    one = tiny.pruner.score(PruneJob(text[: 2 * size], "why?", units[:2]))
    assert list(both.scores) == pytest.approx([*one.scores, *one.scores], abs=1e-6)
    assert list(both.relevance) == pytest.approx([one.relevance[0]] * 2, abs=1e-6)


def test_queue_is_bounded_and_deadlines_hold(tiny: TinyPruner) -> None:
    gate = Gate(tiny.pruner)
    worker = PrunerWorker(gate, WorkerLimits(max_waiting=2))
    first = worker.submit(PruneJob("a b"))
    wait_for_load(gate)
    late = worker.submit(PruneJob("c d"), deadline=time.monotonic() - 1)
    worker.submit(PruneJob("e f"))
    with pytest.raises(QueueFullError):
        worker.submit(PruneJob("g h"))
    gate.open_event.set()
    assert len(first.result(TIMEOUT).scores) == 2
    with pytest.raises(DeadlineError):
        late.result(TIMEOUT)
    worker.close()
    with pytest.raises(ModelError, match="closed"):
        worker.submit(PruneJob("a b"))


def test_failed_pass_fails_its_own_job_only(tiny: TinyPruner, monkeypatch: pytest.MonkeyPatch) -> None:
    score_rows = Pruner.score_rows

    def fail(pruner: Pruner, rows: list[list[int]]) -> object:
        if any(len(row) == 5 for row in rows):
            raise MemoryError("no room")
        return score_rows(pruner, rows)

    monkeypatch.setattr(Pruner, "score_rows", fail)
    gate = Gate(tiny.pruner)
    worker = PrunerWorker(gate)
    worker.submit(PruneJob("a"))
    wait_for_load(gate)
    good, bad = worker.submit(PruneJob("a b")), worker.submit(PruneJob("a b c"))
    gate.open_event.set()
    assert isinstance(bad.exception(TIMEOUT), MemoryError)
    assert len(good.result(TIMEOUT).scores) == 2
    worker.close()


def test_idle_pruner_is_unloaded_and_loaded_again(tiny: TinyPruner) -> None:
    loads: list[int] = []

    def load() -> Pruner:
        loads.append(1)
        if len(loads) == 1:
            raise ModelError("the disk is not there")
        return tiny.pruner

    worker = PrunerWorker(load, WorkerLimits(keep_alive=0.05))
    with pytest.raises(ModelError, match="the disk"):
        worker.submit(PruneJob("a")).result(TIMEOUT)
    worker.submit(PruneJob("a")).result(TIMEOUT)
    end = time.monotonic() + TIMEOUT
    while worker.status().loaded:
        assert time.monotonic() < end
        time.sleep(0.01)
    worker.submit(PruneJob("a")).result(TIMEOUT)
    assert len(loads) == 3
    worker.close()
