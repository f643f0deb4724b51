"""Tunable numbers of extraction: a frozen dataclass per content type, with a meaning and a unit per field.

A content type derives its dataclass from `ExtractWeights`, overrides defaults, and adds fields of its own. A compressor
takes an instance as its only argument. Scores are relative: the unit that matches the question best has about 1.0.
"""

from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


def weight(default: T, meaning: str, unit: str = "score") -> T:
    """Return a dataclass field with this default; the meaning and the unit are in its metadata."""
    return field(default=default, metadata={"meaning": meaning, "unit": unit})


@dataclass(frozen=True, slots=True)
class ExtractWeights:
    """Weights of every content type."""

    sample_characters: int = weight(20_000, "start of a text that decides its content type", "characters")
    neighbour_weight: float = weight(0.3, "part of its neighbour's score that a unit gains", "factor")
    bm25_k1: float = weight(1.2, "saturation of repeated terms", "BM25 k1")
    bm25_b: float = weight(0.4, "normalization by the length of a unit", "BM25 b")
    literal_weight: float = weight(1.5, "a literal of the question (quoted, compound, emoji)", "term weight")
    word_part_weight: float = weight(0.6, "a part of an identifier", "factor")
    inflection_weight: float = weight(0.3, "the shared prefix of a word's forms", "factor")
    identifier_weight: float = weight(1.5, "an identifier or a number, relative to a plain word", "factor")
    call_factor: float = weight(0.7, "a word that only the call behind the last question has", "factor")
    marker_cost: int = weight(26, "budget that the marker of a gap uses", "characters")
    max_shown_blanks: int = weight(8, "blanks between kept units that are still shown", "characters")
    max_misses: int = weight(200, "units over budget after which selection stops", "units")
    min_target: int = weight(0, "size that may be kept at any target", "tokens")
    min_score: float = weight(0.0, "a unit worth its tokens; times the root of its rank among look-alikes; 0: any")
    good_enough_shares: tuple[float, ...] = weight(
        (0.93, 0.9, 0.8, 0.0), "accepted size in each round of fitting", "share of target"
    )


DEFAULT_WEIGHTS = ExtractWeights()
