"""Jobs for a pruner's worker, and their results. Importing this module does not load torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..extract.core.bm25 import Span


@dataclass(frozen=True, slots=True)
class PruneJob:
    """A text to score for a question.

    `units` are spans in ascending order: the sentences or lines to score; a pruner of words finds its own. `contexts`
    are the indices of the units that begin a document; no window reaches across them.
    """

    text: str
    question: str = ""
    units: Sequence[Span] = ()
    contexts: Sequence[int] = (0,)


class UnitScores(NamedTuple):
    """The probability of keeping each unit, and the relevance of each context, 1.0 if the model has no such score.

    `spans` are the job's units, or the pruner's own words; a word may have an empty span. `threshold` is the model's.
    """

    spans: Sequence[Span]
    scores: Sequence[float]
    relevance: Sequence[float]
    threshold: float
