"""CLaRa's words as compressors: labelled, held against the passage, with evidence; extraction where there are none."""

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
from clara_proxy.compression.clara.exceptions import ClaraError, DeadlineError, QueueFullError
from clara_proxy.compression.clara.jobs import ModelCost, ModelJob
from clara_proxy.compression.clara.worker import Worker, WorkerLimits
from clara_proxy.compression.compressor import NO_USAGE, CompressedPassage, Gap, ModelUsage, Task
from clara_proxy.compression.engine import CompressionJob as Passage
from clara_proxy.compression.engine import Engine
from clara_proxy.compression.grounding import drop_unsupported, is_abstention
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


class Said(NamedTuple):
    """Stands in for a `Reply`: the parts of it that are looked at."""

    text: str
    finish: str = "stop"
    left_out: tuple[int, ...] = ()


SPENT = ModelUsage(70, 0.5)


class Double:
    """Stands in for a `Worker`: its futures bring a chosen reply, an error, or nothing."""

    def __init__(self, outcome: Said | Exception | None) -> None:
        self.outcome, self.jobs, self.futures = outcome, list[ModelJob](), list[Future[Any]]()
        self.deadline: float | None = None

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append(job)
        self.futures.append(future)
        self.deadline = deadline
        if cost is not None:
            cost.tokens, cost.gpu_seconds = SPENT
        if isinstance(self.outcome, Exception):
            future.set_exception(self.outcome)
        elif self.outcome is not None:
            future.set_result(self.outcome)
        return future


def words(text: str) -> int:
    return len(text.split())


def task(text: str = PROSE, question: str = QUESTION, target: int = 150) -> Task:
    return Task(text, question, target, words)


def extracted(given: Task) -> CompressedPassage | None:
    return registry.find_compressor(given.text).compress(given)


def test_an_answer_is_a_labelled_quotation_with_verbatim_evidence_behind_it() -> None:
    worker = Double(Said('The mill was mended\nin 1901 by "patience" and \\ stone.'))
    made = AnswerCompressor(worker, registry.find_compressor, timeout=5).compress(task())
    assert made is not None
    label, *evidence = made.parts
    assert label == '[condensed by a model, quoted: "The mill was mended in 1901 by \\"patience\\" and \\\\ stone."]'
    half = extracted(task(target=75))
    assert half is not None
    assert (tuple(evidence), made.total, made.unit) == (half.parts, half.total, half.unit)
    assert all(isinstance(part, Gap) or part in PROSE for part in evidence)
    assert any(isinstance(part, Gap) for part in evidence)
    assert (worker.jobs[0].kind, worker.jobs[0].documents, worker.jobs[0].question) == ("generate", [PROSE], QUESTION)
    assert worker.deadline is not None
    assert worker.deadline > time.monotonic()


@pytest.mark.parametrize(
    "reply",
    [
        Said(""),
        Said("I don't know."),
        Said("It was mended in 1871."),
        Said("Not stated. It was mended in 1901."),
        Said("mended", "length"),
        Said("... \n"),
    ],
)
def test_when_nothing_supported_was_said_extraction_speaks(reply: Said) -> None:
    for kind in (AnswerCompressor, SummaryCompressor):
        made = kind(Double(reply), registry.find_compressor).compress(task())
        assert made is not None
        assert made.usage == SPENT  # the model was asked, and that is not hidden
        assert replace(made, usage=NO_USAGE) == extracted(task())


def test_without_a_question_the_model_is_not_asked() -> None:
    worker = Double(Said("The mill was mended."))
    assert AnswerCompressor(worker, registry.find_compressor).compress(task(question=" ")) == extracted(
        task(question=" ")
    )
    assert not worker.jobs


def test_without_evidence_there_is_no_answer() -> None:
    short = task("The mill was mended.", target=100)
    assert extracted(short) is None
    made = AnswerCompressor(Double(Said("The mill.")), registry.find_compressor).compress(short)
    assert made == CompressedPassage((short.text,), 1, "passages", SPENT)


def test_what_was_cut_off_loses_its_last_sentence() -> None:
    def said(text: str) -> str:
        made = AnswerCompressor(Double(Said(text, "length")), registry.find_compressor).compress(task())
        assert made is not None
        return str(made.parts[0])

    assert said("It was mended. It was in 190") == '[condensed by a model, quoted: "It was mended."]'
    assert said("It was mended by 100") == '[condensed by a model, quoted: "It was mended by"]'


def test_documents_are_asked_one_by_one_and_named_by_number() -> None:
    assert registry.find_compressor(DOCUMENTS).name == "documents"
    worker = Double(Said("The lamp has 400 rooms."))
    made = AnswerCompressor(worker, registry.find_compressor).compress(
        task("Found:\n\n" + DOCUMENTS, "How many rooms has the lamp?", 120)
    )
    assert made is not None
    documents = worker.jobs[0].documents
    assert isinstance(documents, list)
    assert [document[:3] for document in documents] == ["Fou", "[2]", "[3]", "[4]", "[5]", "[6]", "[7]"]
    assert "".join(documents) == "Found:\n\n" + DOCUMENTS
    label = str(made.parts[0])
    named = re.fullmatch(r'\[condensed by .*"; evidence from documents? ([\d, ]+)\]', label)
    assert named is not None
    evidence = "\n".join(part for part in made.parts[1:] if isinstance(part, str))
    assert named[1].split(", ") == re.findall(r"^\[(\d+)\]", evidence, re.MULTILINE)
    assert "4" in named[1]


def test_tagged_documents_are_named_by_their_attribute() -> None:
    text = "\n".join(
        f'<document index="{number}">\nThe {kind} of the town is very old and made of {number}000 grey stones from the '
        f"river. Many travellers came to see it and wrote about it at length in their letters.\n</document>"
        for number, kind in enumerate(["bridge", "mill", "lamp", "gate"], 5)
    )
    made = AnswerCompressor(Double(Said("7000 stones.")), registry.find_compressor).compress(
        task(text, "How many stones has the lamp?", 90)
    )
    assert made is not None
    assert str(made.parts[0]).startswith('[condensed by a model, quoted: "7000 stones."; evidence from document')
    assert "7" in re.findall(r"\d+", str(made.parts[0]).partition("evidence")[2])


def test_a_summary_is_the_same_for_every_question_and_target() -> None:
    worker = Double(Said("The mill was mended in 1901. It burnt in 1950."))
    summaries = {
        SummaryCompressor(worker, registry.find_compressor).compress(task(question=q, target=t))
        for q, t in [("", 50), ("a?", 90)]
    }
    label = '[condensed by a model, quoted: "The mill was mended in 1901."]'
    assert summaries == {CompressedPassage((label, Gap(1, "lines")), 1, "lines", SPENT)}
    assert worker.jobs[0] == worker.jobs[1]
    assert (worker.jobs[0].kind, worker.jobs[0].template, worker.jobs[0].question) == ("paraphrase", 0, "")


def test_a_passage_that_was_not_seen_whole_is_not_summarised() -> None:
    reply = Said("The mill was mended.", left_out=(5,))
    made = SummaryCompressor(Double(reply), registry.find_compressor).compress(task())
    wanted = extracted(task())
    assert made is not None
    assert wanted is not None
    assert made.parts == wanted.parts


@pytest.mark.parametrize("error", [ClaraError("no"), QueueFullError("full"), DeadlineError("late")])
@pytest.mark.parametrize("kind", [AnswerCompressor, SummaryCompressor])
def test_errors_of_the_worker_come_through(kind: type[AnswerCompressor | SummaryCompressor], error: ClaraError) -> None:
    with pytest.raises(type(error), match=str(error)):
        kind(Double(error), registry.find_compressor).compress(task())


@pytest.mark.parametrize("kind", [AnswerCompressor, SummaryCompressor])
def test_nobody_waits_longer_than_the_timeout(kind: type[AnswerCompressor | SummaryCompressor]) -> None:
    worker = Double(None)
    started = time.monotonic()
    with pytest.raises(DeadlineError):
        kind(worker, registry.find_compressor, timeout=0.05).compress(task())
    assert time.monotonic() - started < 5
    assert worker.futures[0].cancelled()


def test_a_worker_that_closes_is_an_error_and_no_hang() -> None:
    worker = Double(None)
    threading.Timer(0.05, lambda: [future.cancel() for future in worker.futures]).start()
    with pytest.raises(ClaraError, match="closed"):
        AnswerCompressor(worker, registry.find_compressor, timeout=20).compress(task())


@pytest.fixture(scope="module")
def worker(clara: Clara) -> Iterator[Worker]:
    made = Worker(lambda: clara, WorkerLimits())
    yield made
    made.close()


@pytest.mark.parametrize("text", [PROSE, DOCUMENTS, "plain lines\n" * 40, json.dumps([{"id": n} for n in range(60)])])
def test_the_nonsense_of_random_weights_is_held_against_the_passage(worker: Worker, text: str) -> None:
    for compressor in (
        AnswerCompressor(worker, registry.find_compressor),
        SummaryCompressor(worker, registry.find_compressor),
    ):
        made = compressor.compress(task(text))
        assert made is not None
        assert made.usage.tokens > 0
        label = str(made.parts[0])
        if not label.startswith("[condensed by a model"):
            wanted = extracted(task(text))
            assert made.parts == ((text,) if wanted is None else wanted.parts)
            continue
        quoted = re.match(r'\[condensed by a model, quoted: "((?:[^"\\]|\\.)*)"', label)
        assert quoted is not None
        answer = re.sub(r"\\(.)", r"\1", quoted[1])
        assert not is_abstention(answer)
        assert len(label.splitlines()) == 1
        assert drop_unsupported(answer, text)


def test_the_same_passage_gives_the_same_text_again(worker: Worker) -> None:
    for compressor in (
        AnswerCompressor(worker, registry.find_compressor),
        SummaryCompressor(worker, registry.find_compressor),
    ):
        assert compressor.compress(task()) == compressor.compress(task())


async def test_in_the_engines_pool_an_error_becomes_a_reason() -> None:
    passage = Passage(PROSE, QUESTION, 150, None, get_token_counter("gpt-4"))
    fine = Engine(
        workers=2,
        queue_limit=8,
        cache_bytes=1 << 16,
        find_compressor=lambda _: AnswerCompressor(Double(Said("In 1901.")), registry.find_compressor),
    )
    full = Engine(
        workers=2,
        queue_limit=8,
        cache_bytes=1 << 16,
        find_compressor=lambda _: AnswerCompressor(Double(QueueFullError("full")), registry.find_compressor),
    )
    (good,), (bad,) = await fine.compress([passage], 30), await full.compress([passage], 30)
    fine.close()
    full.close()
    assert good.text is not None
    assert good.text.startswith('[condensed by a model, quoted: "In 1901."]\n')
    assert good.compressor == "answer"
    assert (bad.text, bad.reason) == (None, "failed")


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, clara_proxy.compression.clara.compressors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
