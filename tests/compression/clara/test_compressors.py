"""CLaRa as a compressor: text that is labelled, grounded and has evidence, or extraction."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression import registry
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.compressors import AnswerCompressor, SummaryCompressor
from clara_proxy.compression.clara.jobs import ModelJob
from clara_proxy.compression.clara.worker import Worker
from clara_proxy.compression.compressor import NO_USAGE, CompressedPassage, Gap, ModelUsage, Task
from clara_proxy.compression.engine import CompressionJob, Engine
from clara_proxy.compression.grounding import drop_unsupported, is_abstention
from clara_proxy.compression.models.cost import ModelCost
from clara_proxy.compression.models.errors import DeadlineError, ModelError, QueueFullError
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.compression.tokens import get_token_counter

PROSE = " ".join(
    f"In {1900 + year} the {kind} of the old town was mended by {1000 + 7 * year} people with patience and stone."
    for year, kind in enumerate(["bridge", "mill", "lamp", "gate", "tower", "well", "wall", "quay"] * 4)
)
DOCUMENTS = "\n\n".join(
    f"[{number}] The history of the {kind}\nThe {kind} was built of stone. It has {number}00 rooms and a long story "
    "to tell. "
    "Nobody knows who first thought of it, and the town has grown around it since then in every direction."
    for number, kind in enumerate(["bridge", "mill", "lamp", "gate", "tower", "well"], 2)
)
QUESTION = "When was the mill mended?"


class FakeReply(NamedTuple):
    """The fields of a `Reply` that the compressors read."""

    text: str
    finish: str = "stop"
    left_out: tuple[int, ...] = ()
    not_in_memory: bool = False


USAGE = ModelUsage(70, 0.5)


class FakeWorker:
    """A job queue whose futures get a given reply, an error, or nothing."""

    def __init__(self, outcome: FakeReply | Exception | None) -> None:
        self.outcome, self.jobs, self.futures = outcome, list[ModelJob](), list[Future[Any]]()
        self.deadline: float | None = None

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append(job)
        self.futures.append(future)
        self.deadline = deadline
        if cost is not None:
            cost.tokens, cost.gpu_seconds = USAGE
        if isinstance(self.outcome, Exception):
            future.set_exception(self.outcome)
        elif self.outcome is not None:
            future.set_result(self.outcome)
        return future


def count_words(text: str) -> int:
    return len(text.split())


def task(text: str = PROSE, question: str = QUESTION, target: int = 150) -> Task:
    return Task(text, question, target, count_words)


def extract(task: Task) -> CompressedPassage | None:
    return registry.find_compressor(task.text).compress(task)


def test_answer_is_a_labelled_quotation_with_verbatim_evidence() -> None:
    worker = FakeWorker(FakeReply('The mill was mended\nin 1901 by "patience" and \\ stone.'))
    result = AnswerCompressor(worker, registry.find_compressor, timeout=5).compress(task())
    assert result is not None
    label, *evidence = result.parts
    assert label == '[condensed by a model, quoted: "The mill was mended in 1901 by \\"patience\\" and \\\\ stone."]'
    half = extract(task(target=75))
    assert half is not None
    assert (tuple(evidence), result.total, result.unit) == (half.parts, half.total, half.unit)
    assert all(isinstance(part, Gap) or part in PROSE for part in evidence)
    assert any(isinstance(part, Gap) for part in evidence)
    assert (worker.jobs[0].kind, worker.jobs[0].documents, worker.jobs[0].question) == ("generate", [PROSE], QUESTION)
    assert worker.deadline is not None
    assert worker.deadline > time.monotonic()


@pytest.mark.parametrize(
    "reply",
    [
        FakeReply(""),
        FakeReply("I don't know."),
        FakeReply("It was mended in 1871."),
        FakeReply("Not stated. It was mended in 1901."),
        FakeReply("mended", "length"),
        FakeReply("... \n"),
    ],
)
def test_unsupported_answers_fall_back_to_extraction(reply: FakeReply) -> None:
    for kind in (AnswerCompressor, SummaryCompressor):
        result = kind(FakeWorker(reply), registry.find_compressor).compress(task())
        assert result is not None
        assert result.usage == USAGE  # the model ran, so its usage is reported
        assert replace(result, usage=NO_USAGE, compressor="") == extract(task())


def test_model_is_not_run_without_a_question() -> None:
    worker = FakeWorker(FakeReply("The mill was mended."))
    result = AnswerCompressor(worker, registry.find_compressor).compress(task(question=" "))
    expected = extract(task(question=" "))
    assert expected is not None
    assert result == replace(expected, compressor="prose")
    assert not worker.jobs


CODE = "\n\n".join(f"def handle_{n}(self, request):\n    return self.workers[{n}].run(request)" for n in range(40))
LOG = "\n".join(f"2024-01-01 10:00:{n % 60:02d} INFO request {n} served in {n * 7 % 13} ms" for n in range(60))
OTHER_KINDS = {
    "code": CODE,
    "log": LOG,
    "json": json.dumps([{"id": n, "name": f"user {n}", "mail": f"u{n}@example.com"} for n in range(60)]),
    "lines": "plain lines\n" * 40,
    "table": "\n".join(["id,name,city", *(f"{n},user{n},city{n % 7}" for n in range(60))]),
    "documents of code": "\n\n".join(f"[{n}] file {n}\n{CODE}" for n in range(1, 4)),
    "documents with a log": f"{DOCUMENTS}\n\n[9] The log\n{LOG}",
    "prose in JSON": json.dumps({"status": 200, "text": "\n".join([PROSE] * 2)}),
}


@pytest.mark.parametrize("text", OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_only_prose_and_documents_are_given_to_the_model(text: str) -> None:
    for kind in (AnswerCompressor, SummaryCompressor):
        worker = FakeWorker(FakeReply("The mill was mended."))
        result = kind(worker, registry.find_compressor).compress(task(text))
        assert not worker.jobs
        expected = extract(task(text))
        assert (result and result.parts) == (expected and expected.parts)
        assert result is None or result.compressor == registry.find_compressor(text).name


@pytest.mark.parametrize("text", [PROSE, DOCUMENTS, DOCUMENTS.replace("[", "Document ").replace("]", ":")])
def test_prose_and_documents_are_given_to_the_model(text: str) -> None:
    for kind in (AnswerCompressor, SummaryCompressor):
        worker = FakeWorker(FakeReply("The mill was mended."))
        kind(worker, registry.find_compressor).compress(task(text))
        assert len(worker.jobs) == 1


def test_answer_without_evidence_is_dropped() -> None:
    short = task("The mill was mended.", target=100)
    assert extract(short) is None
    result = AnswerCompressor(FakeWorker(FakeReply("The mill.")), registry.find_compressor).compress(short)
    assert result == CompressedPassage((short.text,), 1, "passages", USAGE, "prose")


def test_cut_answer_loses_its_last_sentence() -> None:
    def first_part(text: str) -> str:
        result = AnswerCompressor(FakeWorker(FakeReply(text, "length")), registry.find_compressor).compress(task())
        assert result is not None
        return str(result.parts[0])

    assert first_part("It was mended. It was in 190") == '[condensed by a model, quoted: "It was mended."]'
    assert first_part("It was mended by 100") == '[condensed by a model, quoted: "It was mended by"]'


def test_documents_are_passed_one_by_one_and_cited_by_number() -> None:
    assert registry.find_compressor(DOCUMENTS).name == "documents"
    worker = FakeWorker(FakeReply("The lamp has 400 rooms."))
    result = AnswerCompressor(worker, registry.find_compressor).compress(
        task("Found:\n\n" + DOCUMENTS, "How many rooms has the lamp?", 120)
    )
    assert result is not None
    documents = worker.jobs[0].documents
    assert isinstance(documents, list)
    assert [document[:3] for document in documents] == ["Fou", "[2]", "[3]", "[4]", "[5]", "[6]", "[7]"]
    assert "".join(documents) == "Found:\n\n" + DOCUMENTS
    label = str(result.parts[0])
    citation = re.fullmatch(r'\[condensed by .*"; evidence from documents? ([\d, ]+)\]', label)
    assert citation is not None
    evidence = "\n".join(part for part in result.parts[1:] if isinstance(part, str))
    assert citation[1].split(", ") == re.findall(r"^\[(\d+)\]", evidence, re.MULTILINE)
    assert "4" in citation[1]


def test_tagged_documents_are_cited_by_their_attribute() -> None:
    text = "\n".join(
        f'<document index="{number}">\nThe {kind} of the town is very old and made of {number}000 grey stones from the '
        f"river. Many travellers came to see it and wrote about it at length in their letters.\n</document>"
        for number, kind in enumerate(["bridge", "mill", "lamp", "gate"], 5)
    )
    result = AnswerCompressor(FakeWorker(FakeReply("7000 stones.")), registry.find_compressor).compress(
        task(text, "How many stones has the lamp?", 90)
    )
    assert result is not None
    assert str(result.parts[0]).startswith('[condensed by a model, quoted: "7000 stones."; evidence from document')
    assert "7" in re.findall(r"\d+", str(result.parts[0]).partition("evidence")[2])


def test_summary_does_not_depend_on_question_or_target() -> None:
    worker = FakeWorker(FakeReply("The mill was mended in 1901. It burnt in 1950."))
    summaries = {
        SummaryCompressor(worker, registry.find_compressor).compress(task(question=q, target=t))
        for q, t in [("", 50), ("a?", 90)]
    }
    label = '[condensed by a model, quoted: "The mill was mended in 1901."]'
    assert summaries == {CompressedPassage((label, Gap(1, "lines")), 1, "lines", USAGE)}
    assert worker.jobs[0] == worker.jobs[1]
    assert (worker.jobs[0].kind, worker.jobs[0].template, worker.jobs[0].question) == ("paraphrase", 0, "")


def test_passage_with_memories_left_out_is_not_summarised() -> None:
    reply = FakeReply("The mill was mended.", left_out=(5,))
    result = SummaryCompressor(FakeWorker(reply), registry.find_compressor).compress(task())
    expected = extract(task())
    assert result is not None
    assert expected is not None
    assert result.parts == expected.parts


@pytest.mark.parametrize("error", [ModelError("no"), QueueFullError("full"), DeadlineError("late")])
@pytest.mark.parametrize("kind", [AnswerCompressor, SummaryCompressor])
def test_worker_errors_are_raised(kind: type[AnswerCompressor | SummaryCompressor], error: ModelError) -> None:
    with pytest.raises(type(error), match=str(error)):
        kind(FakeWorker(error), registry.find_compressor).compress(task())


@pytest.mark.parametrize("kind", [AnswerCompressor, SummaryCompressor])
def test_timeout_raises_and_cancels_the_job(kind: type[AnswerCompressor | SummaryCompressor]) -> None:
    worker = FakeWorker(None)
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        kind(worker, registry.find_compressor, timeout=0.05).compress(task())
    assert time.monotonic() - started < 5
    assert worker.futures[0].cancelled()


def test_closed_worker_is_an_error() -> None:
    worker = FakeWorker(None)
    threading.Timer(0.05, lambda: [future.cancel() for future in worker.futures]).start()
    with pytest.raises(ModelError, match="closed"):
        AnswerCompressor(worker, registry.find_compressor, timeout=20).compress(task())


@pytest.fixture(scope="module")
def worker(clara: Clara) -> Iterator[Worker]:
    result = Worker(lambda: clara, WorkerLimits())
    yield result
    result.close()


@pytest.mark.parametrize("text", [PROSE, DOCUMENTS])
def test_nonsense_of_random_weights_is_grounded(worker: Worker, text: str) -> None:
    for compressor in (
        AnswerCompressor(worker, registry.find_compressor),
        SummaryCompressor(worker, registry.find_compressor),
    ):
        result = compressor.compress(task(text))
        assert result is not None
        assert result.usage.tokens > 0
        label = str(result.parts[0])
        if not label.startswith("[condensed by a model"):
            expected = extract(task(text))
            assert result.parts == ((text,) if expected is None else expected.parts)
            continue
        quoted = re.match(r'\[condensed by a model, quoted: "((?:[^"\\]|\\.)*)"', label)
        assert quoted is not None
        answer = re.sub(r"\\(.)", r"\1", quoted[1])
        assert not is_abstention(answer)
        assert len(label.splitlines()) == 1
        assert drop_unsupported(answer, text)


def test_result_is_deterministic(worker: Worker) -> None:
    for compressor in (
        AnswerCompressor(worker, registry.find_compressor),
        SummaryCompressor(worker, registry.find_compressor),
    ):
        assert compressor.compress(task()) == compressor.compress(task())


async def test_worker_error_becomes_a_skip_reason_in_the_engine() -> None:
    job = CompressionJob(PROSE, QUESTION, 150, None, get_token_counter("gpt-4"))
    fine = Engine(
        workers=2,
        queue_limit=8,
        cache_bytes=1 << 16,
        find_compressor=lambda _: AnswerCompressor(FakeWorker(FakeReply("In 1901.")), registry.find_compressor),
    )
    full = Engine(
        workers=2,
        queue_limit=8,
        cache_bytes=1 << 16,
        find_compressor=lambda _: AnswerCompressor(FakeWorker(QueueFullError("full")), registry.find_compressor),
    )
    (good,), (bad,) = await fine.compress([job], 30), await full.compress([job], 30)
    fine.close()
    full.close()
    assert good.text is not None
    assert good.text.startswith('[condensed by a model, quoted: "In 1901."]\n')
    assert good.compressor == "answer"
    assert (bad.text, bad.reason) == (None, "failed")


def test_import_does_not_load_torch() -> None:
    code = "import sys, clara_proxy.compression.clara.compressors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
