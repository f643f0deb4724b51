"""What CLaRa writes about a passage, as compressors: an answer to its question, or a summary without one.

What the model wrote is one line of quoted data, labelled as a model's words and held against the passage first
(`faithful`); everything else is verbatim, with its gaps counted. Where the model has nothing to say that stands in the
passage, extraction alone speaks. Imports no torch: the worker owns the model.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from .. import grounding
from ..compressor import CompressedPassage, Compressor, Gap, ModelUsage, Task
from ..extract import numbered_documents
from .exceptions import ClaraError, DeadlineError
from .jobs import ModelCost, ModelJob

if TYPE_CHECKING:
    from .clara import Reply

FindCompressor = Callable[[str], Compressor]

_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*(?=\s)|[\n\u3002\uff01\uff1f]")
_NUMBER = re.compile(r"\d+")
_TAG_NUMBER = re.compile(r"\b(?:index|id|number|n)\s*=\s*[\"']?(\d+)\b", re.IGNORECASE)


class JobQueue(Protocol):
    """What is needed of a `Worker`."""

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        """Queue a job; raises `QueueFullError`, or `ClaraError` when closed."""
        ...


class AnswerCompressor:
    """Answers the question a passage was fetched for, with verbatim evidence beside it.

    `extract` finds the compressor that speaks when the model has nothing to say, and that chooses the evidence;
    `timeout` is in seconds, `max_new_tokens` bounds the answer.
    """

    name = "answer"

    def __init__(
        self, worker: JobQueue, find_extractor: FindCompressor, *, timeout: float = 30.0, max_new_tokens: int = 128
    ) -> None:
        self._worker, self._extract = worker, find_extractor
        self._timeout, self._most = timeout, max_new_tokens

    def recognises(self, text: str) -> bool:  # noqa: ARG002
        """Take every passage: what cannot be answered falls back to extraction."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Return the answer as a labelled quotation, then evidence of about half the target.

        Raises what the worker raises: `QueueFullError`, `DeadlineError` when `timeout` passes, `ClaraError`.
        """
        extract = self._extract(task.text)
        if not task.question.strip():
            return extract.compress(task)
        heads = (
            numbered_documents.find_headings(task.text)
            if extract.name == numbered_documents.DocumentCompressor.name
            else []
        )
        job = ModelJob("generate", _split_documents(task.text, heads), task.question, max_new_tokens=self._most)
        reply, spent = _run_job(self._worker, job, self._timeout)
        answer = _grounded_text(reply, task.text)
        if not answer:
            return _attach_cost(extract.compress(task), task.text, spent)
        evidence = extract.compress(Task(task.text, task.question, max(task.target // 2, 1), task.count))
        if evidence is None:  # without evidence the answer would stand alone, and nothing would say what was left out
            return _attach_cost(extract.compress(task), task.text, spent)
        label = _format_label(answer, _cited_document_numbers(task.text, heads, evidence))
        return CompressedPassage((label, *evidence.parts), evidence.total, evidence.unit, spent)


class SummaryCompressor:
    """Restates a passage without a question: one passage, one summary, whoever asks for what.

    The prompt is always the same, and so are its bounds. A passage that the model cannot see whole is not summarised.
    """

    name = "summary"

    def __init__(
        self, worker: JobQueue, find_extractor: FindCompressor, *, timeout: float = 30.0, max_new_tokens: int = 256
    ) -> None:
        self._worker, self._extract = worker, find_extractor
        self._timeout, self._most = timeout, max_new_tokens

    def recognises(self, text: str) -> bool:  # noqa: ARG002
        """Take every passage: what cannot be summarised falls back to extraction."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Return the summary as a labelled quotation, and one gap for the whole passage; raises as `Answer` does."""
        extract = self._extract(task.text)
        heads = (
            numbered_documents.find_headings(task.text)
            if extract.name == numbered_documents.DocumentCompressor.name
            else []
        )
        job = ModelJob("paraphrase", _split_documents(task.text, heads), template=0, max_new_tokens=self._most)
        reply, spent = _run_job(self._worker, job, self._timeout)
        summary = "" if reply.left_out else _grounded_text(reply, task.text)
        if not summary:
            return _attach_cost(extract.compress(task), task.text, spent)
        lines = len(task.text.splitlines())
        return CompressedPassage((_format_label(summary, []), Gap(lines, "lines")), lines, "lines", spent)


def _attach_cost(condensed: CompressedPassage | None, text: str, spent: ModelUsage) -> CompressedPassage:
    """Say what the model took also where its words were not used; a passage that stays is itself."""
    return replace(condensed or CompressedPassage((text,), 1, "passages"), usage=spent)


def _run_job(worker: JobQueue, job: ModelJob, timeout: float) -> tuple["Reply", ModelUsage]:
    cost = ModelCost()
    future = worker.submit(job, deadline=time.monotonic() + timeout, cost=cost)
    try:
        reply: Reply = future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise DeadlineError(f"no {job.kind} within {timeout:g} seconds") from None
    except CancelledError:
        raise ClaraError("the worker was closed") from None
    return reply, ModelUsage(cost.tokens, cost.gpu_seconds)


def _split_documents(text: str, heads: Sequence[tuple[int, int]]) -> list[str]:
    """Return the passage as the documents it holds, with what stands before the first; else whole."""
    bounds = [0, *(start for start, _ in heads), len(text)]
    return [text[start:end] for start, end in pairwise(bounds) if not text[start:end].isspace() and end > start]


def _grounded_text(reply: "Reply", source: str) -> str:
    """Return what of a reply may be passed on, "" when that is nothing."""
    text = reply.text if reply.finish == "stop" else _drop_partial_sentence(reply.text)
    if grounding.is_abstention(text):
        return ""
    kept = grounding.drop_unsupported(text, source)
    return "" if grounding.is_abstention(kept) else " ".join(kept.split())


def _drop_partial_sentence(text: str) -> str:
    """Drop the sentence at which the model was cut off; of a single one the last word, which may be half of one."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if ends:
        return text[: ends[-1]]
    return " ".join(text.rsplit(maxsplit=1)[:-1])


def _format_label(answer: str, numbers: Sequence[str]) -> str:
    quoted = answer.replace("\\", "\\\\").replace('"', '\\"')
    documents = "document" if len(numbers) == 1 else "documents"
    evidence = f"; evidence from {documents} {', '.join(numbers)}" if numbers else ""
    return f'[condensed by a model, quoted: "{quoted}"{evidence}]'


def _cited_document_numbers(text: str, heads: Sequence[tuple[int, int]], evidence: CompressedPassage) -> list[str]:
    """Name the documents whose heading stands in the evidence, by their numbers."""
    numbers: list[str] = []
    at = place = 0
    for part in evidence.parts:
        if isinstance(part, Gap) or (found := text.find(part, at)) < 0:
            continue
        at = found + len(part)
        while place < len(heads) and heads[place][0] < at:
            start, end = heads[place]
            if start >= found and (number := _parse_document_number(text[start:end])):
                numbers.append(number)
            place += 1
    return numbers


def _parse_document_number(head: str) -> str | None:
    tagged = head.lstrip().startswith("<")
    match = _TAG_NUMBER.search(head) if tagged else _NUMBER.search(head)
    return None if match is None else match[1] if tagged else match[0]
