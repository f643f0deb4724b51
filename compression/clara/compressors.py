"""Compressors that let CLaRa write about a passage: an answer to its question, or a summary.

Model-written text is one quoted line, labelled as a model's words, and checked against the passage (`grounding`).
Everything else is verbatim, with its gaps counted. Only prose and documents of prose go to the model: on code, logs and
data it loses details. Other passages are extracted, and passages without any grounded text. Importing this
module does not load torch: the worker owns the model.
"""

import re
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from .. import grounding
from ..compressor import CompressedPassage, Gap, ModelUsage, Task
from ..models.cost import ModelCost
from ..models.model_compression import (
    NOT_IN_MEMORY,
    FindCompressor,
    extract_instead,
    find_headings,
    is_prose,
    split_documents,
    wait_for_job,
)
from .jobs import ModelJob

if TYPE_CHECKING:
    from .replies import Reply

_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*(?=\s)|[\n\u3002\uff01\uff1f]")
_NUMBER = re.compile(r"\d+")
_TAG_NUMBER = re.compile(r"\b(?:index|id|number|n)\s*=\s*[\"']?(\d+)\b", re.IGNORECASE)


class JobQueue(Protocol):
    """The interface of a `Worker` that these compressors use."""

    def submit(self, job: ModelJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        """Queue a job. Raises `QueueFullError`, or `ModelError` if closed."""
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

        Raises the worker's errors: `QueueFullError`, `DeadlineError` after `timeout`, `ModelError`.
        """
        extractor = self._find_extractor(task.text)
        headings = find_headings(task.text, extractor)
        documents = split_documents(task.text, headings)
        if not task.question.strip() or not is_prose(extractor, documents, self._find_extractor):
            return extract_instead(extractor, task)
        job = ModelJob("generate", documents, task.question, max_new_tokens=self._max_new_tokens)
        reply, usage = _run_job(self._worker, job, self._timeout)
        if reply.not_in_memory:
            return extract_instead(extractor, task, usage, NOT_IN_MEMORY)
        answer = _grounded_text(reply, task.text)
        evidence = None
        if answer:
            evidence = extractor.compress(Task(task.text, task.question, max(task.target // 2, 1), task.count))
        if evidence is None:  # an answer without evidence would not say how much was left out
            return extract_instead(extractor, task, usage)
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
        documents = split_documents(task.text, find_headings(task.text, extractor))
        if not is_prose(extractor, documents, self._find_extractor):
            return extract_instead(extractor, task)
        job = ModelJob("paraphrase", documents, template=0, max_new_tokens=self._max_new_tokens)
        reply, usage = _run_job(self._worker, job, self._timeout)
        summary = "" if reply.left_out else _grounded_text(reply, task.text)
        if not summary:
            return extract_instead(extractor, task, usage)
        lines = len(task.text.splitlines())
        return CompressedPassage((_format_label(summary, []), Gap(lines, "lines")), lines, "lines", usage)


def _run_job(worker: JobQueue, job: ModelJob, timeout: float) -> tuple["Reply", ModelUsage]:
    return wait_for_job(lambda deadline, cost: worker.submit(job, deadline=deadline, cost=cost), job.kind, timeout)


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
    """Return the numbers of the documents with a heading in the evidence."""
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
