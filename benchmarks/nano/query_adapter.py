"""Trains the query adapter to recognise unanswerable questions, and calibrates the abstention threshold.

A contrastive loss between documents does not bound the score of the best one. Here the candidates include a fixed
score: the right document must score above it, and if no document is right, all must score below it. Most wrong
documents are near negatives. Only the query adapter is trained, so memories and decoder stay unchanged.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...compression.clara.checkpoint import ENCODER_ADAPTER, QUERY_ADAPTER
from ...compression.clara.clara import Clara
from ...compression.clara.tokenizer import ClaraTokenizer
from ...compression.clara.train.encoder_rows import EncoderRows, make_encoder_rows
from ...compression.clara.train.network import Network
from ...compression.clara.train.trainer import Trainer, TrainingPlan
from .episode_tensors import RetrievalBatch
from .objective import TEMPERATURE, compare, encode
from .synthetic.episodes import Episode, Question, make_episode
from .synthetic.facts import EpisodeSpec
from .synthetic.negatives import topics_match

FIXED_SCORE = 0.37  # between the scores of right and wrong documents before this training
STEPS = 2000
DOCUMENTS, QUESTIONS = 24, 48  # of one step, approximately
_COMPOSED = EpisodeSpec(late_phrasings=True, composed_phrasings=True)
TRAINING_SPECS = (
    replace(_COMPOSED, subject_negatives=True),
    _COMPOSED,
    EpisodeSpec(late_phrasings=True),
    EpisodeSpec(late_phrasings=True, hard_negatives=True),
)
CALIBRATION_SPECS = (EpisodeSpec(), *TRAINING_SPECS)
CALIBRATION_EPISODES = 60  # of each specification


class QueryBatch(NamedTuple):
    """The tensors of one step; a target equal to the number of documents means that no document is right."""

    documents: EncoderRows
    retrieval: RetrievalBatch


class QueryAdapterObjective(nn.Module):
    """The loss of retrieving the right document or none; all parameters but the query adapter are frozen."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        network.requires_grad_(False)  # noqa: FBT003 - torch's signature
        network.adapters[QUERY_ADAPTER].requires_grad_(True)  # noqa: FBT003

    def forward(self, batch: QueryBatch) -> dict[str, Tensor]:
        """Return the loss as "total" and the accuracy on answerable ("found") and other questions ("refused")."""
        network, targets = self.network, batch.retrieval.targets
        with torch.no_grad():
            memories = encode(network, batch.documents, network.layer_weights(ENCODER_ADAPTER))
        scores = compare(network, batch.retrieval, memories)
        candidates = torch.cat((scores, scores.new_full((len(scores), 1), FIXED_SCORE)), dim=1)
        correct = candidates.argmax(1) == targets
        answerable = targets < len(memories)
        metrics = {"total": functional.cross_entropy(candidates / TEMPERATURE, targets)}
        groups = {"found": correct[answerable], "refused": correct[~answerable]}
        return metrics | {name: group.float().mean() for name, group in groups.items() if len(group)}


def training_plan(steps: int, seed: int) -> TrainingPlan:
    """Return the hyperparameters."""
    return TrainingPlan(
        steps,
        learning_rate=1e-3,
        warmup=0.02,
        floor=0.02,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        average=0.995,
        average_from=round(0.7 * steps),
        seed=seed,
    )


def make_trainer(network: Network, tokenizer: ClaraTokenizer, limit: int, folder: Path, plan: TrainingPlan) -> Trainer:
    """Return a trainer of the network's query adapter; `limit` is in tokens of a document."""
    return Trainer(
        QueryAdapterObjective(network),
        lambda step: make_batch(tokenizer, make_lesson(plan.seed, step), limit),
        plan,
        folder,
    )


def make_lesson(seed: int, step: int) -> list[Episode]:
    """Return the episodes of a step; half of their questions are unanswerable."""
    rng = random.Random(f"{seed}:seeking:{step}")
    documents, facts = _choose_size(rng)
    count = max(2, DOCUMENTS // documents)
    return [
        make_episode(
            rng,
            replace(
                rng.choice(TRAINING_SPECS),
                documents=documents,
                facts_per_document=facts,
                questions=QUESTIONS // count,
                unanswerable=0.5,
                noise=0.15,
            ),
        )
        for _ in range(count)
    ]


def make_batch(tokenizer: ClaraTokenizer, episodes: Sequence[Episode], limit: int) -> QueryBatch:
    """Return the tensors of a step: all questions with all documents as candidates.

    Documents of other episodes that also answer a question are excluded.
    """
    texts = [text for episode in episodes for text in episode.documents]
    topics = [document for episode in episodes for document in episode.topics]
    questions: list[Question] = []
    targets: list[int] = []
    offset = 0
    for episode in episodes:
        questions.extend(episode.questions)
        targets.extend(
            len(texts) if question.source is None else offset + question.source for question in episode.questions
        )
        offset += len(episode.documents)
    excluded = [
        [
            index != target and any(topics_match(question.topic, topic) for topic in document)
            for index, document in enumerate(topics)
        ]
        for question, target in zip(questions, targets, strict=True)
    ]
    rows = make_encoder_rows(tokenizer, [question.text for question in questions], limit)
    retrieval = RetrievalBatch(rows, torch.tensor(targets), torch.tensor(excluded))
    return QueryBatch(make_encoder_rows(tokenizer, texts, limit), retrieval)


def calibrate_threshold(clara: Clara, seed: int, count: int = CALIBRATION_EPISODES) -> float:
    """Return the score that separates answerable from unanswerable questions, on episodes like those of training.

    The episodes are neither those of the training nor those of the benchmark.
    """
    answerable: list[float] = []
    unanswerable: list[float] = []
    for number, spec in enumerate(CALIBRATION_SPECS):
        rng = random.Random(f"{seed}:calibrating:{number}")
        for _ in range(count):
            documents, facts = _choose_size(rng)
            sized = replace(spec, documents=documents, facts_per_document=facts, questions=6, unanswerable=0.5)
            episode = make_episode(rng, sized)
            latents = clara.compress(episode.documents)
            queries = clara.encode_questions([question.text for question in episode.questions])
            for question, query in zip(episode.questions, queries, strict=True):
                scores = unanswerable if question.source is None else answerable
                scores.append(clara.find_nearest(query, latents, 1).scores[0])
    return balanced_threshold(answerable, unanswerable)


def balanced_threshold(answerable: Sequence[float], unanswerable: Sequence[float]) -> float:
    """Return the threshold, to three digits, with the most equal accuracy on both groups of scores."""

    def imbalance(threshold: float) -> float:
        accepted = sum(score >= threshold for score in answerable) / len(answerable)
        refused = sum(score < threshold for score in unanswerable) / len(unanswerable)
        return abs(accepted - refused)

    best: float = min(sorted({*answerable, *unanswerable}), key=imbalance)
    return round(best, 3)


def _choose_size(rng: random.Random) -> tuple[int, int]:
    """Return a number of documents and a number of facts in each."""
    documents = rng.choice((1, 1, 1, 2, 3, 5, 10, 20))
    return documents, rng.choice((1, 1, 2, 3)) if documents < 10 else 1
