"""Compressors that let CLaRa write about a passage: an answer to its question, or a summary.

Model-written text is one quoted line, labelled as a model's words, and checked against the passage (`grounding`).
Everything else is verbatim, with its gaps counted. Only prose and documents of prose go to the model: on code, logs and
data it loses details. Other passages are extracted, and passages without any grounded text. Importing this
module does not load torch: the worker owns the model.
"""

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from .. import grounding
from ..compressor import NO_USAGE, CompressedPassage, Compressor, Gap, ModelUsage, Task
from ..extract import numbered_documents
from ..extract.envelopes import EnvelopeCompressor
from ..extract.plain_text import PlainTextCompressor
from ..extract.prose import ProseCompressor
from .exceptions import ClaraError, DeadlineError
from .jobs import ModelCost, ModelJob

if TYPE_CHECKING:
    from .clara import Reply

FindCompressor = Callable[[str], Compressor]
MODEL_COMPRESSORS = frozenset({"answer", "summary"})

_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*(?=\s)|[\n\u3002\uff01\uff1f]")
_NUMBER = re.compile(r"\d+")
_TAG_NUMBER = re.compile(r"\b(?:index|id|number|n)\s*=\s*[\"']?(\d+)\b", re.IGNORECASE)


class JobQueue(Protocol):
    """The interface of a `Worker` that these compressors use."""

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        """Queue a job. Raises `QueueFullError`, or `ClaraError` if closed."""
        ...


class AnswerCompressor:
    """Answers the question of a passage, followed by verbatim evidence.

    `find_extractor` returns the compressor that chooses the evidence, and that compresses the passage if there is no
    answer. `timeout` is in seconds; `max_new_tokens` bounds the answer.
    """

    name = "answer"

    def __init__(
        self, worker: JobQueue, find_extractor: FindCompressor, *, timeout: float = 30.0, max_new_tokens: int = 128
    ) -> None:
        self._worker, self._find_extractor = worker, find_extractor
        self._timeout, self._max_new_tokens = timeout, max_new_tokens

    def recognises(self, text: str) -> bool:  # noqa: ARG002
        """Return True: passages without an answer fall back to extraction."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Return the answer as a labelled quotation, then evidence of about half the target.

        Raises the worker's errors: `QueueFullError`, `DeadlineError` after `timeout`, `ClaraError`.
        """
        extractor = self._find_extractor(task.text)
        headings = _find_headings(task.text, extractor)
        documents = _split_documents(task.text, headings)
        if not task.question.strip() or not _is_prose(extractor, documents, self._find_extractor):
            return _extract(extractor, task)
        job = ModelJob("generate", documents, task.question, max_new_tokens=self._max_new_tokens)
        reply, usage = _run_job(self._worker, job, self._timeout)
        answer = _grounded_text(reply, task.text)
        evidence = None
        if answer:
            evidence = extractor.compress(Task(task.text, task.question, max(task.target // 2, 1), task.count))
        if evidence is None:  # an answer without evidence would not say how much was left out
            return _extract(extractor, task, usage)
        label = _format_label(answer, _cited_document_numbers(task.text, headings, evidence))
        return CompressedPassage((label, *evidence.parts), evidence.total, evidence.unit, usage)


class SummaryCompressor:
    """Summarises a passage; the summary does not depend on the question.

    The prompt and the bounds are always the same. A passage that does not fit into the prompt is not summarised.
    """

    name = "summary"

    def __init__(
        self, worker: JobQueue, find_extractor: FindCompressor, *, timeout: float = 30.0, max_new_tokens: int = 256
    ) -> None:
        self._worker, self._find_extractor = worker, find_extractor
        self._timeout, self._max_new_tokens = timeout, max_new_tokens

    def recognises(self, text: str) -> bool:  # noqa: ARG002
        """Return True: passages without a summary fall back to extraction."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Return the summary as a labelled quotation, and one gap for the whole passage.

        Raises the worker's errors, as `AnswerCompressor.compress` does.
        """
        extractor = self._find_extractor(task.text)
        documents = _split_documents(task.text, _find_headings(task.text, extractor))
        if not _is_prose(extractor, documents, self._find_extractor):
            return _extract(extractor, task)
        job = ModelJob("paraphrase", documents, template=0, max_new_tokens=self._max_new_tokens)
        reply, usage = _run_job(self._worker, job, self._timeout)
        summary = "" if reply.left_out else _grounded_text(reply, task.text)
        if not summary:
            return _extract(extractor, task, usage)
        lines = len(task.text.splitlines())
        return CompressedPassage((_format_label(summary, []), Gap(lines, "lines")), lines, "lines", usage)


def _find_headings(text: str, extractor: Compressor) -> list[tuple[int, int]]:
    """Return the spans of the headings if the passage consists of numbered documents."""
    is_numbered = extractor.name == numbered_documents.DocumentCompressor.name
    return numbered_documents.find_headings(text) if is_numbered else []


def _is_prose(extractor: Compressor, documents: Sequence[str], find_extractor: FindCompressor) -> bool:
    """Return True if a passage is prose, or documents without any of another known kind, such as code."""
    if extractor.name == ProseCompressor.name:
        return not isinstance(extractor, EnvelopeCompressor)
    if extractor.name != numbered_documents.DocumentCompressor.name or isinstance(extractor, EnvelopeCompressor):
        return False
    kinds = {ProseCompressor.name, PlainTextCompressor.name, numbered_documents.DocumentCompressor.name}
    return all(find_extractor(_drop_first_line(document)).name in kinds for document in documents)


def _drop_first_line(document: str) -> str:
    """Return a document without the line of its heading."""
    return document.strip().partition("\n")[2] or document


def _extract(extractor: Compressor, task: Task, usage: ModelUsage = NO_USAGE) -> CompressedPassage | None:
    """Return the extracted passage under the extractor's name, with the usage of a model if its answer is dropped."""
    compressed = extractor.compress(task)
    if compressed is None and usage == NO_USAGE:
        return None
    compressed = compressed or CompressedPassage((task.text,), 1, "passages")
    return replace(compressed, usage=usage, compressor=compressed.compressor or extractor.name)


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


def _split_documents(text: str, headings: Sequence[tuple[int, int]]) -> list[str]:
    """Return the passage's documents, including text before the first heading; without headings, the whole text."""
    bounds = [0, *(start for start, _ in headings), len(text)]
    return [text[start:end] for start, end in pairwise(bounds) if not text[start:end].isspace() and end > start]


def _grounded_text(reply: "Reply", source: str) -> str:
    """Return the supported sentences of a reply, "" if none remains or the model abstains."""
    text = reply.text if reply.finish == "stop" else _drop_partial_sentence(reply.text)
    if grounding.is_abstention(text):
        return ""
    supported = grounding.drop_unsupported(text, source)
    return "" if grounding.is_abstention(supported) else " ".join(supported.split())


def _drop_partial_sentence(text: str) -> str:
    """Drop the sentence at which generation stopped, or the last word if there is only one sentence."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if ends:
        return text[: ends[-1]]
    return " ".join(text.rsplit(maxsplit=1)[:-1])


def _format_label(answer: str, numbers: Sequence[str]) -> str:
    quoted = answer.replace("\\", "\\\\").replace('"', '\\"')
    documents = "document" if len(numbers) == 1 else "documents"
    evidence = f"; evidence from {documents} {', '.join(numbers)}" if numbers else ""
    return f'[condensed by a model, quoted: "{quoted}"{evidence}]'


def _cited_document_numbers(text: str, headings: Sequence[tuple[int, int]], evidence: CompressedPassage) -> list[str]:
    """Return the numbers of the documents whose headings are part of the evidence."""
    numbers: list[str] = []
    part_end = index = 0
    for part in evidence.parts:
        if isinstance(part, Gap) or (part_start := text.find(part, part_end)) < 0:
            continue
        part_end = part_start + len(part)
        while index < len(headings) and headings[index][0] < part_end:
            start, end = headings[index]
            if start >= part_start and (number := _parse_document_number(text[start:end])):
                numbers.append(number)
            index += 1
    return numbers


def _parse_document_number(heading: str) -> str | None:
    is_tag = heading.lstrip().startswith("<")
    match = _TAG_NUMBER.search(heading) if is_tag else _NUMBER.search(heading)
    return None if match is None else match[1] if is_tag else match[0]
