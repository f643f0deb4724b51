"""Teaches the query adapter when nothing is to be found, and finds the score below which that is so.

A contrast between documents leaves open how near is near enough; here a question is set against the documents and
against a fixed score as well, which must be below the right one's, or above all where none is right. Most wrong ones
are near: the same of somebody else, or something else of the same one. Only the query adapter learns, so that memories,
and what the decoder makes of them, stay as they are.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import ENCODER_ADAPTER, QUERY_ADAPTER
from ..clara import Clara
from ..tokens import Vocabulary
from . import packed
from .absence import tells
from .fact import Mix
from .facts import Episode, Question, episode
from .loop import Plan, Trainer
from .network import Network
from .objective import TEMPERATURE, encode
from .packed import Rows, Search

MARK = 0.37  # the fixed score: between those of right and wrong documents as retrieval alone had left them
STEPS = 2000
DOCUMENTS, QUESTIONS = 24, 48  # of one step, about
_HARD = Mix(rich=True, composed=True)
MIXES = (replace(_HARD, whose=True), _HARD, Mix(rich=True), Mix(rich=True, hard=True))
CALIBRATING = (Mix(), *MIXES)
CALIBRATED_ON = 60  # episodes of each


class Work(NamedTuple):
    """One step's tensors; a target equal to the number of documents says that none is right."""

    documents: Rows
    search: Search


class Objective(nn.Module):
    """The loss of finding the right document, or none; `network` learns its query adapter only."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        network.requires_grad_(False)  # noqa: FBT003 - torch's signature
        network.adapters[QUERY_ADAPTER].requires_grad_(True)  # noqa: FBT003

    def forward(self, work: Work) -> dict[str, Tensor]:
        """Return the loss as "total", and the shares of questions rightly found something for, and nothing."""
        network, search = self.network, work.search
        with torch.no_grad():
            memories = encode(network, work.documents, network.weights(ENCODER_ADAPTER)).flatten(1).float()
        queries = encode(network, search.questions, network.weights(QUERY_ADAPTER)).flatten(1).float()
        scores = functional.normalize(queries, dim=-1) @ functional.normalize(memories, dim=-1).T
        scores = scores.masked_fill(search.barred, -1.0)
        against = torch.cat((scores, scores.new_full((len(scores), 1), MARK)), dim=1)
        right = against.argmax(1) == search.targets
        there = search.targets < len(memories)
        found = {"total": functional.cross_entropy(against / TEMPERATURE, search.targets)}
        shares = {"found": right[there], "refused": right[~there]}
        return found | {name: each.float().mean() for name, each in shares.items() if len(each)}


def plan(steps: int, seed: int) -> Plan:
    """Return how the query adapter is trained."""
    return Plan(
        steps,
        rate=1e-3,
        warmup=0.02,
        floor=0.02,
        betas=(0.9, 0.98),
        decay=0.01,
        average=0.995,
        average_from=round(0.7 * steps),
        seed=seed,
    )


def trainer(network: Network, vocabulary: Vocabulary, limit: int, folder: Path, how: Plan) -> Trainer:
    """Return what teaches a network's query adapter; everything else in it stays as it is."""

    def batch(step: int) -> Work:
        return work(vocabulary, lesson(how.seed, step), limit)

    return Trainer(Objective(network), batch, how, folder)


def lesson(seed: int, step: int) -> list[Episode]:
    """Return the episodes of a step; half of their questions are answered by nothing."""
    rng = random.Random(f"{seed}:seeking:{step}")  # noqa: S311 - made-up facts, no secrets
    documents, facts = _size(rng)
    count = max(2, DOCUMENTS // documents)
    size = Mix(documents, facts, QUESTIONS // count, abstain=0.5, noise=0.15)
    return [episode(rng, _like(rng.choice(MIXES), size)) for _ in range(count)]


def work(vocabulary: Vocabulary, episodes: Sequence[Episode], limit: int) -> Work:
    """Return one step's tensors: all questions against all documents.

    Documents of other episodes that answer a question as well are barred.
    """
    texts = [text for each in episodes for text in each.documents]
    about = [each for one in episodes for each in one.about]
    asked: list[Question] = []
    targets: list[int] = []
    offset = 0
    for each in episodes:
        asked.extend(each.questions)
        targets.extend(len(texts) if one.source is None else offset + one.source for one in each.questions)
        offset += len(each.documents)
    barred = [
        [place != target and any(tells(one.about, known) for known in each) for place, each in enumerate(about)]
        for one, target in zip(asked, targets, strict=True)
    ]
    questions = packed.rows(vocabulary, [one.text for one in asked], limit)
    search = Search(questions, torch.tensor(targets), torch.tensor(barred))
    return Work(packed.rows(vocabulary, texts, limit), search)


def calibrated(clara: Clara, seed: int, count: int = CALIBRATED_ON) -> float:
    """Return the score that parts questions with an answer from those without, on made-up facts as in training.

    They come from a seed of their own: none is learned from, and none is of the benchmark's.
    """
    there: list[float] = []
    absent: list[float] = []
    for mix in CALIBRATING:
        rng = random.Random(f"{seed}:calibrating:{mix}")  # noqa: S311 - made-up facts, no secrets
        for _ in range(count):
            documents, facts = _size(rng)
            each = episode(rng, replace(mix, documents=documents, facts=facts, questions=6, abstain=0.5))
            latents = clara.compress(each.documents)
            for one, query in zip(
                each.questions, clara.encode_questions([one.text for one in each.questions]), strict=True
            ):
                (absent if one.source is None else there).append(clara.find_nearest(query, latents, 1).scores[0])
    return parting(there, absent)


def parting(there: Sequence[float], absent: Sequence[float]) -> float:
    """Return the score that as large a share of `there` reaches as of `absent` does not, to three digits."""

    def unlike(mark: float) -> float:
        answered = sum(score >= mark for score in there) / len(there)
        refused = sum(score < mark for score in absent) / len(absent)
        return abs(answered - refused)

    best: float = min(sorted({*there, *absent}), key=unlike)
    return round(best, 3)


def _size(rng: random.Random) -> tuple[int, int]:
    """Return numbers of documents and of facts in each."""
    documents = rng.choice((1, 1, 1, 2, 3, 5, 10, 20))
    return documents, rng.choice((1, 1, 2, 3)) if documents < 10 else 1


def _like(kind: Mix, size: Mix) -> Mix:
    return replace(size, rich=kind.rich, hard=kind.hard, composed=kind.composed, whose=kind.whose)
