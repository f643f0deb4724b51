"""How a stage does, while it trains, on lines that it does not learn from: loss, exact match, F1, recall.

Not the engine: what is written is decoded greedily with the training network, without a cache of keys, for the first
few lines only. Nothing here changes a weight.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import torch

from ..tokens import Vocabulary
from . import scores
from .batch import Lines
from .data import Item
from .loop import placed
from .packed import IGNORED
from .stages import Objective

ASKED, LONGEST = 64, 48  # lines that are answered; tokens of an answer
Collate = Callable[[Sequence[Item]], Lines]


def figures(
    objective: Objective, vocabulary: Vocabulary, items: Sequence[Item], collate: Collate, batch: int
) -> dict[str, float]:
    """Return the mean loss as "held_back", and shares from 0 to 1: "exact", "f1", "recall" where they mean something.

    Dropout is off meanwhile. "recall" is the share of the documents that help among the k that were chosen.
    """
    was = objective.training
    objective.eval()
    with torch.no_grad():
        found = {"held_back": _loss(objective, items, collate, batch)}
        found.update(_shares(objective, vocabulary, items[:ASKED], collate))
    objective.train(was)
    return found


def answer(objective: Objective, vocabulary: Vocabulary, lines: Lines) -> str:
    """Return what the network writes for a micro batch of one line; of its labels only their place is looked at."""
    known = int((lines.labels[0] == IGNORED).long().cumprod(0).sum())
    ids, said = lines.ids[:, :known], list[int]()
    memories, _ = objective.read(lines)
    for _ in range(LONGEST):
        token = int(objective.logits(ids, lines.slots, memories)[0, -1].argmax())
        if token == vocabulary.eos:
            break
        said.append(token)
        ids = torch.cat((ids, ids.new_tensor([[token]])), dim=1)
    return vocabulary.decode(said).strip()


def _loss(objective: Objective, items: Sequence[Item], collate: Collate, batch: int) -> float:
    device = next(objective.parameters()).device
    made = (collate(items[first : first + batch]) for first in range(0, len(items) - batch + 1, batch))
    losses = [float(objective(placed(lines, device))["loss"]) for lines in made]
    return fmean(losses) if losses else 0.0


def _shares(
    objective: Objective, vocabulary: Vocabulary, items: Sequence[Item], collate: Collate
) -> Iterator[tuple[str, float]]:
    device = next(objective.parameters()).device
    right: list[float] = []
    near: list[float] = []
    recalled: list[float] = []
    for item in items:
        lines = placed(collate([item]), device)
        if item.positives and objective.chooses:
            _, chosen = objective.read(lines)
            recalled.append(len(set(item.positives) & {int(place) for place in chosen[0]}) / len(item.positives))
        if objective.writes and (item.paraphrase or objective.stage != "stage1"):  # which writes questions, too
            said = answer(objective, vocabulary, lines)
            right.append(scores.exact(said, item.answers[0]))
            near.append(scores.f1(said, item.answers[0]))
    for name, shares in (("exact", right), ("f1", near), ("recall", recalled)):
        if shares:
            yield name, fmean(shares)
