"""Fuses rankings by reciprocal rank (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from collections.abc import Hashable, Sequence
from typing import TypeVar

RANK_OFFSET = 60  # the constant of the paper
Item = TypeVar("Item", bound=Hashable)


def fuse_rankings(rankings: Sequence[Sequence[Item]]) -> dict[Item, float]:
    """Return the items, best first, with scores from 0 to 1; an item that leads every ranking has 1."""
    if not rankings:
        return {}
    scores: dict[Item, float] = {}
    best = len(rankings) / (RANK_OFFSET + 1)
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (RANK_OFFSET + rank) / best
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))
