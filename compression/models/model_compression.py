"""Shared by compressors with a model: the passages for it, its jobs, and extraction instead."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ..compressor import NO_USAGE, CompressedPassage, Compressor, ModelUsage, Task
from ..extract import numbered_documents
from ..extract.envelopes import EnvelopeCompressor
from ..extract.plain_text import PlainTextCompressor
from ..extract.prose import ProseCompressor
from .cost import ModelCost
from .errors import DeadlineError, ModelError

FindCompressor = Callable[[str], Compressor]
NOT_IN_MEMORY = "not-in-memory"  # the reason to extract: the model says that its memories do not hold the answer
# The engine, as the ledger names it, of each mode whose compressor asks a model.
MODEL_ENGINES: Mapping[str, str] = {"answer": "clara", "summary": "clara", "prune": "pruner"}


def find_headings(text: str, extractor: Compressor) -> list[tuple[int, int]]:
    """Return the spans of the headings if the passage consists of numbered documents."""
    is_numbered = extractor.name == numbered_documents.DocumentCompressor.name
    return numbered_documents.find_headings(text) if is_numbered else []


def split_documents(text: str, headings: Sequence[tuple[int, int]]) -> list[str]:
    """Return the passage's documents, including text before the first heading; without headings, the whole text."""
    bounds = [0, *(start for start, _ in headings), len(text)]
    return [text[start:end] for start, end in pairwise(bounds) if not text[start:end].isspace() and end > start]


def is_prose(extractor: Compressor, documents: Sequence[str], find_extractor: FindCompressor) -> bool:
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


def extract_instead(
    extractor: Compressor, task: Task, usage: ModelUsage = NO_USAGE, reason: str = ""
) -> CompressedPassage | None:
    """Return the extracted passage under the extractor's name, with the usage of a model if its answer is dropped."""
    compressed = extractor.compress(task)
    if compressed is None and usage == NO_USAGE:
        return None
    compressed = compressed or CompressedPassage((task.text,), 1, "passages")
    name = compressed.compressor or extractor.name
    return replace(compressed, usage=usage, compressor=name, fallback=reason)


def wait_for_job(
    submit: Callable[[float, ModelCost], "Future[Any]"], name: str, timeout: float
) -> tuple[Any, ModelUsage]:
    """Submit a job with its deadline, and return its result and usage.

    Raises the worker's errors: `QueueFullError`, `DeadlineError` after `timeout` seconds, `ModelError`.
    """
    cost = ModelCost()
    future = submit(time.monotonic() + timeout, cost)
    try:
        result = future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise DeadlineError(f"no {name} within {timeout:g} seconds") from None
    except CancelledError:
        raise ModelError("the worker was closed") from None
    return result, ModelUsage(cost.tokens, cost.gpu_seconds)
