"""Evaluation on held-back lines during training: loss, exact match, F1 and retrieval recall.

Answers are decoded greedily with the training network, without a key-value cache, for the first lines only.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import torch

from ..tokenizer import ClaraTokenizer
from . import squad_scores
from .collate import StageBatch
from .encoder_rows import IGNORED_LABEL
from .stages import StageObjective
from .trainer import move_to_device
from .training_data import Example

MAX_ANSWERED_LINES, MAX_ANSWER_TOKENS = 64, 48
Collate = Callable[[Sequence[Example]], StageBatch]


def evaluate(
    objective: StageObjective, tokenizer: ClaraTokenizer, examples: Sequence[Example], collate: Collate, batch: int
) -> dict[str, float]:
    """Return the mean loss as "held_back" and, if they apply to the stage, "exact", "f1" and "recall" from 0 to 1.

    "recall" is the share of the relevant documents among the k retrieved ones. Dropout is off during the evaluation.
    """
    was_training = objective.training
    objective.eval()
    with torch.no_grad():
        metrics = {"held_back": _mean_loss(objective, examples, collate, batch)}
        metrics.update(_mean_scores(objective, tokenizer, examples[:MAX_ANSWERED_LINES], collate))
    objective.train(was_training)
    return metrics


def generate_answer(objective: StageObjective, tokenizer: ClaraTokenizer, batch: StageBatch) -> str:
    """Return the network's greedy answer for a micro batch of one line; its labels only mark the end of the prompt."""
    prompt_size = int((batch.labels[0] == IGNORED_LABEL).long().cumprod(0).sum())
    ids, output = batch.ids[:, :prompt_size], list[int]()
    memories, _ = objective.read_memories(batch)
    for _ in range(MAX_ANSWER_TOKENS):
        token = int(objective.logits(ids, batch.slots, memories)[0, -1].argmax())
        if token == tokenizer.eos_id:
            break
        output.append(token)
        ids = torch.cat((ids, ids.new_tensor([[token]])), dim=1)
    return tokenizer.decode(output).strip()


def _mean_loss(objective: StageObjective, examples: Sequence[Example], collate: Collate, size: int) -> float:
    device = next(objective.parameters()).device
    batches = (collate(examples[start : start + size]) for start in range(0, len(examples) - size + 1, size))
    losses = [float(objective(move_to_device(batch, device))["loss"]) for batch in batches]
    return fmean(losses) if losses else 0.0


def _mean_scores(
    objective: StageObjective, tokenizer: ClaraTokenizer, examples: Sequence[Example], collate: Collate
) -> Iterator[tuple[str, float]]:
    device = next(objective.parameters()).device
    exact: list[float] = []
    f1: list[float] = []
    recall: list[float] = []
    for example in examples:
        batch = move_to_device(collate([example]), device)
        if example.positives and objective.retrieves:
            _, documents = objective.read_memories(batch)
            hits = set(example.positives) & {int(index) for index in documents[0]}
            recall.append(len(hits) / len(example.positives))
        # A stage 1 target holds questions as well as answers, so only its paraphrases have one right answer.
        if objective.generates and (example.paraphrase or objective.stage != "stage1"):
            output = generate_answer(objective, tokenizer, batch)
            exact.append(squad_scores.exact_match(output, example.answers[0]))
            f1.append(squad_scores.f1_score(output, example.answers[0]))
    for name, scores in (("exact", exact), ("f1", f1), ("recall", recall)):
        if scores:
            yield name, fmean(scores)
