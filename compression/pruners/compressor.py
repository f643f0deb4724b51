"""The compressor of mode `prune`: keeps the words, sentences or lines that a model scores highest, verbatim.

Words and sentences are left out of prose, and of documents of prose; lines out of code. Everything else is extracted:
structure (JSON, code for a model of words, diffs, tables, logs) loses its meaning with its words. With a ratio or a
budget, the best units fill the target; otherwise a threshold decides, by default the model's own. Importing this module
does not load torch: the worker owns the model.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from ..compressor import CompressedPassage, Compressor, Task
from ..extract import numbered_documents, prose
from ..extract.code import DEFAULT_CODE_WEIGHTS, CodeCompressor, find_headers
from ..extract.core import lines
from ..extract.core.bm25 import Span
from ..extract.core.selection import Units, choose_units, compress_units, write_units
from ..extract.core.sentences import find_sentences
from ..extract.envelopes import EnvelopeCompressor
from ..extract.numbered_documents import DEFAULT_DOCUMENT_WEIGHTS, DocumentCompressor
from ..extract.prose import DEFAULT_PROSE_WEIGHTS
from ..models.cost import ModelCost
from ..models.model_compression import (
    FindCompressor,
    extract_instead,
    find_headings,
    is_prose,
    split_documents,
    wait_for_job,
)
from .families import GRANULARITIES, QUESTION_FAMILIES, Family, Granularity
from .guard import add_guarded
from .jobs import PruneJob, UnitScores
from .word_pruning import Guard, SentenceLayout, WordPruner, prune_words

NOT_PRUNABLE = "not-prunable"  # the reason of a passage that is extracted, since the model is not made for it
_NO_LIMIT = 10**12  # characters


class PrunerQueue(Protocol):
    """The interface of a `PrunerWorker` that this compressor uses."""

    def submit(self, job: PruneJob, *, deadline: float | None = None, cost: ModelCost | None = None) -> "Future[Any]":
        """Queue a job. Raises `QueueFullError`, or `ModelError` if closed."""
        ...


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """The kind of the model, the threshold of a unit that stays (None: the model's own), and the time limit in seconds.

    A passage without a question is extracted if the model judges by a question.
    """

    family: Family
    threshold: float | None = None
    timeout: float = 30.0
    guard: Guard = add_guarded

    @property
    def granularity(self) -> Granularity:
        """Return the unit that the model keeps or drops whole."""
        return GRANULARITIES[self.family]

    def choose_threshold(self, scored: UnitScores) -> float:
        """Return the configured threshold, else the model's."""
        return scored.threshold if self.threshold is None else self.threshold


class PruneCompressor:
    """Prunes passages with one model. `find_extractor` returns the compressor of passages that it does not prune."""

    name = "prune"

    def __init__(self, worker: PrunerQueue, find_extractor: FindCompressor, options: PruneOptions) -> None:
        self._worker, self._find_extractor, self._options = worker, find_extractor, options

    @property
    def pruned_kinds(self) -> frozenset[str]:
        """Return the kinds of content that policy keeps whole for extraction, but this model may prune."""
        return frozenset({CodeCompressor.name}) if self._options.granularity == "lines" else frozenset()

    def recognises(self, text: str) -> bool:  # noqa: ARG002
        """Return True: passages that cannot be pruned fall back to extraction."""
        return True

    def compress(self, task: Task) -> CompressedPassage | None:
        """Prune the passage, or extract it if it is structure.

        Raises the worker's errors: `QueueFullError`, `DeadlineError` after the timeout, `ModelError`.
        """
        extractor = self._find_extractor(task.text)
        if not self._is_prunable(task, extractor):
            return extract_instead(extractor, task, reason=NOT_PRUNABLE)
        if self._options.granularity == "lines":
            return self._prune_lines(task)
        layout = _build_layout(task.text, extractor)
        contexts = [0, *(index for index in range(1, len(layout.spans)) if layout.begins_document(index))]
        job = PruneJob(task.text, task.question, layout.spans, contexts)
        scored, usage = self._score(job)
        threshold = self._options.choose_threshold(scored)
        if self._options.granularity == "sentences":
            outcome = _keep_units(task, _build_sentence_units(task, layout, scored, contexts), threshold)
        else:
            sentences = SentenceLayout(task.text, layout.spans, layout.parents, layout.partners, layout.companions)
            outcome = prune_words(task, WordPruner(sentences, scored, self._options.guard), threshold)
        return None if outcome is None else replace(outcome, usage=usage)

    def _is_prunable(self, task: Task, extractor: Compressor) -> bool:
        if self._options.family in QUESTION_FAMILIES and not task.question.strip():
            return False
        if self._options.granularity == "lines":
            return extractor.name == CodeCompressor.name and not isinstance(extractor, EnvelopeCompressor)
        documents = split_documents(task.text, find_headings(task.text, extractor))
        return is_prose(extractor, documents, self._find_extractor)

    def _score(self, job: PruneJob) -> tuple[UnitScores, Any]:
        return wait_for_job(
            lambda deadline, cost: self._worker.submit(job, deadline=deadline, cost=cost),
            self.name,
            self._options.timeout,
        )

    def _prune_lines(self, task: Task) -> CompressedPassage | None:
        spans = lines.find_line_spans(task.text)
        scored, usage = self._score(PruneJob(task.text, task.question, spans))
        parents, _ = find_headers(task.text, spans)
        units = Units(task.text, spans, scored.scores, "lines", DEFAULT_CODE_WEIGHTS, parents=parents)
        outcome = _keep_units(task, units, self._options.choose_threshold(scored))
        return None if outcome is None else replace(outcome, usage=usage)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The sentences of a passage under their headings; fields as in `Units`."""

    spans: Sequence[Span]
    parents: Sequence[int]
    partners: dict[int, int]
    sizes: Sequence[int]
    documents: Sequence[int] | None = None

    @property
    def companions(self) -> frozenset[int]:
        return frozenset(index for index, size in enumerate(self.sizes) if not size)

    def begins_document(self, index: int) -> bool:
        return self.documents is not None and self.documents[index] != self.documents[index - 1]


def _build_layout(text: str, extractor: Compressor) -> _Layout:
    if extractor.name == DocumentCompressor.name:
        layout = numbered_documents.build_layout(text, numbered_documents.find_headings(text))
        return _Layout(layout.spans, layout.parents, layout.partners, layout.sizes, layout.document_indices)
    spans = find_sentences(text)
    turns = prose.find_turns(text, spans)
    parents = prose.find_headings(text, spans, DEFAULT_PROSE_WEIGHTS.max_heading_characters, turns)
    return _Layout(spans, parents, {}, [1] * len(spans))


def _build_sentence_units(task: Task, layout: _Layout, scored: UnitScores, contexts: Sequence[int]) -> Units:
    """Return the sentences with their scores; to fill a target, the relevance of their document counts, too."""
    scores = list(scored.scores)
    if task.fills_target and len(contexts) > 1:
        for relevance, (start, end) in zip(scored.relevance, pairwise([*contexts, len(scores)]), strict=True):
            scores[start:end] = [score * relevance for score in scores[start:end]]
    is_documents = layout.documents is not None
    return Units(
        task.text,
        layout.spans,
        scores,
        "sentences",
        DEFAULT_DOCUMENT_WEIGHTS if is_documents else DEFAULT_PROSE_WEIGHTS,
        sizes=layout.sizes,
        parents=layout.parents,
        partners=layout.partners,
        groups=layout.documents,
        group_noun="documents" if is_documents else "",
    )


def _keep_units(task: Task, units: Units, threshold: float) -> CompressedPassage | None:
    """Fill the target with the best units, or keep those above the threshold, the best one in any case."""
    if task.fills_target:
        return compress_units(task, units)
    if not units.ranking:
        return None
    best = units.ranking[0]
    units.ranking[:] = [index for index in units.ranking if units.scores[index] > threshold] or [best]
    return write_units(units, choose_units(units, _NO_LIMIT))
