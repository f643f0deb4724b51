"""Trains a checkpoint's abstention head: from the decoder's state after the prompt, will the answer be wrong?

As OverflowGuard (github.com/s-nlp/overflowguard) does: the checkpoint answers questions from memories; the state of a
middle layer at the prompt's last position is the input of a small network, and the correctness of the answer its label.
The threshold maximises Youden's J (true minus false positive rate) of out-of-fold scores. Unlike there, every second
question is also asked about other documents, so that the head learns what is not stated. The layer is the one with the
best out-of-fold AUC. The checkpoint itself is not changed.

Shapes: R rows, D depths, H hidden size of the decoder, F of the head.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ... import grounding
from ...models.errors import ModelError
from .. import abstention_head, locate
from ..abstention_head import AbstentionHead, HeadWeights
from ..checkpoint import DECODER_ADAPTER
from ..clara import Clara
from ..replies import PreparedPrompt
from .squad_scores import normalized_words
from .training_data import Example, read_examples

STAGE = "abstention"
FOLDS, MIN_CLASS_ROWS = 5, 10
_EPOCHS, _LEARNING_RATE, _WEIGHT_DECAY, _DROPOUT, _HIDDEN_SIZE = 60, 3e-3, 1.0, 0.5, 128
_BATCH, _MAX_ANSWER_TOKENS = 16, 32
Figures = dict[str, float]
OnProgress = Callable[[int, int], None]


class AbstentionJob(NamedTuple):
    """A checkpoint folder, its base, and files of question and answer lines to train on and to evaluate on."""

    checkpoint: Path
    base: Path | None
    data: Path
    held_back: Path | None = None
    seed: int = 42


class Request(NamedTuple):
    """A question about documents, the expected answer ("" if they do not hold it), and its line of the data."""

    question: str
    documents: tuple[str, ...]
    answer: str
    line: int
    retrieves: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """The states [R, D, H] of prompts, and for each whether its answer is wrong, and its line of the data."""

    states: NDArray[np.float32]
    is_wrong: NDArray[np.bool_]
    lines: NDArray[np.int64]


def train_abstention(job: AbstentionJob, on_progress: OnProgress) -> tuple[Path, Figures]:
    """Train the head of a checkpoint and write it beside the checkpoint; return its path and figures.

    Figures of out-of-fold scores are called `cv_*`, others are of the held-back lines. Raises `ModelError` for
    unsuitable data or a folder that cannot be written.
    """
    folder = locate.find_checkpoint_folder(job.checkpoint, None, locate.HubAccess(may_download=False))
    if not os.access(folder, os.W_OK):
        raise ModelError(f"{folder}: cannot be written; the abstention head belongs beside the checkpoint")
    clara = Clara.from_pretrained(folder, base=job.base)
    depths = choose_depths(clara.model.base.config.layer_count)
    requests = make_requests(read_examples(job.data), retrieves=clara.can_retrieve)
    held_back = [] if job.held_back is None else read_examples(job.held_back)
    evaluated = make_requests(held_back, retrieves=clara.can_retrieve)
    total = len(requests) + len(evaluated)
    rows = collect_rows(clara, requests, depths, lambda done: on_progress(done, total))
    head, figures = fit_head(rows, depths, job.seed)
    if evaluated:
        new = collect_rows(clara, evaluated, [head.depth], lambda done: on_progress(len(requests) + done, total))
        figures |= evaluate_head(head, new)
    return abstention_head.save_head(head, folder, figures), figures


def choose_depths(layer_count: int) -> list[int]:
    """Return the numbers of layers to read after: half of them, three quarters, and all."""
    return sorted({max(1, round(layer_count * share)) for share in (0.5, 0.75, 1.0)})


def make_requests(examples: Sequence[Example], *, retrieves: bool) -> list[Request]:
    """Return the questions of all lines, every second one also about the documents of a line without its answer.

    With `retrieves`, the memories are chosen by the query adapter for every second question, as for `ask` jobs.
    """
    requests: list[Request] = []
    for line, example in enumerate(examples):
        for question, answer in zip(example.questions, example.answers, strict=False):
            requests.append(Request(question, example.documents, answer, line, retrieves and len(requests) % 2 == 1))
        other = examples[(line + len(examples) // 2) % len(examples)].documents
        if line % 2 and example.questions and not holds_answer("\n".join(other), example.answers[0]):
            question = example.questions[0]
            requests.append(Request(question, other, "", line, retrieves and len(requests) % 2 == 1))
    return requests


def collect_rows(
    clara: Clara, requests: Sequence[Request], depths: Sequence[int], on_progress: Callable[[int], None]
) -> Rows:
    """Answer the questions; return the rows of those that the checkpoint does not refuse by itself."""
    models = [clara.model.truncate(depth) for depth in depths]
    states, is_wrong, lines = list[NDArray[np.float32]](), list[bool](), list[int]()
    for start in range(0, len(requests), _BATCH):
        batch = requests[start : start + _BATCH]
        pairs = [(request, prompt) for request, prompt in _prepare(clara, batch) if prompt.is_decoded]
        prompts = [prompt for _, prompt in pairs]
        if prompts:
            embeddings = [prompt.input_embeddings for prompt in prompts]
            by_depth = [abstention_head.read_states(model, embeddings, DECODER_ADAPTER) for model in models]
            states.append(np.stack(by_depth, axis=1))
        replies = clara.decode_all(prompts, _MAX_ANSWER_TOKENS)
        is_wrong += [
            not holds_answer(reply.text, request.answer) for (request, _), reply in zip(pairs, replies, strict=True)
        ]
        lines += [request.line for request, _ in pairs]
        on_progress(min(start + _BATCH, len(requests)))
    size = clara.model.base.config.hidden_size
    empty = np.empty((0, len(depths), size), dtype=np.float32)
    return Rows(np.concatenate([empty, *states]), np.array(is_wrong, dtype=np.bool_), np.array(lines, dtype=np.int64))


def fit_head(rows: Rows, depths: Sequence[int], seed: int) -> tuple[AbstentionHead, Figures]:
    """Return a head trained on all rows, at the depth with the best out-of-fold AUC, and its out-of-fold figures.

    Raises `ModelError` if too few answers are right, or wrong.
    """
    wrong, right = int(rows.is_wrong.sum()), int((~rows.is_wrong).sum())
    if min(wrong, right) < MIN_CLASS_ROWS:
        message = "the abstention head needs at least {} right and {} wrong answers of the checkpoint"
        raise ModelError(f"{message.format(MIN_CLASS_ROWS, MIN_CLASS_ROWS)}, and it gave {right} and {wrong}")
    order = np.random.default_rng(seed).permutation(int(rows.lines.max()) + 1)
    folds = order[rows.lines] % FOLDS  # all rows of a line are in one fold
    scores = [_score_out_of_fold(rows, index, folds, seed) for index in range(len(depths))]
    best = max(range(len(depths)), key=lambda index: compute_auc(scores[index], rows.is_wrong))
    threshold = choose_threshold(scores[best], rows.is_wrong)
    weights = _fit_weights(rows.states[:, best], rows.is_wrong, seed)
    figures = _measure(scores[best], rows.is_wrong, threshold)
    head = AbstentionHead(depths[best], threshold, weights)
    return head, {"depth": depths[best], "threshold": threshold, **{f"cv_{name}": figures[name] for name in figures}}


def evaluate_head(head: AbstentionHead, rows: Rows) -> Figures:
    """Return the figures of a head on rows with the states of its depth only."""
    return _measure(head.score(rows.states[:, 0]), rows.is_wrong, head.threshold)


def compute_auc(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
    """Return the share of pairs in which the positive row has the higher score; ties count half, 0.5 without pairs."""
    negative, positive = np.sort(scores[~is_positive]), scores[is_positive]
    if not len(negative) or not len(positive):
        return 0.5
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / (2 * len(negative)))


def choose_threshold(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> float:
    """Return the threshold with the largest difference of true and false positive rate; scores above are positive."""
    candidates = np.unique(scores)
    middles = (candidates[:-1] + candidates[1:]) / 2 if len(candidates) > 1 else candidates
    positive, negative = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
    true_rate = 1 - np.searchsorted(positive, middles, "right") / max(1, len(positive))
    false_rate = 1 - np.searchsorted(negative, middles, "right") / max(1, len(negative))
    return float(middles[int(np.argmax(true_rate - false_rate))])


def _measure(scores: NDArray[np.floating], is_wrong: NDArray[np.bool_], threshold: float) -> Figures:
    """Return the AUC, the accuracy, and shares of all questions: of right answers, kept ones, and wrong ones given."""
    is_refused, total = scores > threshold, max(1, len(scores))
    return {
        "questions": len(scores),
        "auc": compute_auc(scores, is_wrong),
        "accuracy": float((is_refused == is_wrong).sum() / total),
        "refused": float(is_refused.sum() / total),
        "right": float((~is_wrong).sum() / total),
        "right_kept": float((~is_wrong & ~is_refused).sum() / total),
        "wrong_given": float((is_wrong & ~is_refused).sum() / total),
    }


def _prepare(clara: Clara, requests: Sequence[Request]) -> Iterator[tuple[Request, PreparedPrompt]]:
    latents = clara.collect_latents([request.documents for request in requests], len(requests))
    for request, own in zip(requests, latents, strict=True):
        retrieval = clara.retrieve(request.question, own) if request.retrieves and len(own) else None
        yield request, clara.prepare_answer(request.question, own, retrieval)


def holds_answer(text: str, answer: str) -> bool:
    """Return True if a text contains an answer, in SQuAD's normal form; False for an answer that says "not stated"."""
    words = normalized_words(answer)
    if not words or grounding.is_abstention(answer):
        return False
    return f" {' '.join(words)} " in f" {' '.join(normalized_words(text))} "


def _score_out_of_fold(rows: Rows, index: int, folds: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """Return the scores [R] at a depth; each is of a head that was trained without the row's fold."""
    scores = np.zeros(len(rows.is_wrong), dtype=np.float32)
    for fold in range(FOLDS):
        is_held = folds == fold
        weights = _fit_weights(rows.states[~is_held, index], rows.is_wrong[~is_held], seed)
        scores[is_held] = AbstentionHead(1, 0.5, weights).score(rows.states[is_held, index])
    return scores


def _fit_weights(states: NDArray[np.float32], is_wrong: NDArray[np.bool_], seed: int) -> HeadWeights:
    """Train a network H -> F -> 1 on states [R, H] with cross-entropy, all rows in each step."""
    generator = torch.Generator().manual_seed(seed)
    mean, scale = states.mean(axis=0), states.std(axis=0) + 1e-6
    x, target = torch.tensor((states - mean) / scale), torch.tensor(is_wrong, dtype=torch.float32)
    hidden = _create_linear(_HIDDEN_SIZE, states.shape[1], generator)
    output = _create_linear(1, _HIDDEN_SIZE, generator)
    optimizer = torch.optim.AdamW([*hidden, *output], _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    for _ in range(_EPOCHS):
        kept = torch.rand(len(x), _HIDDEN_SIZE, generator=generator) >= _DROPOUT
        activations = nn.functional.relu(nn.functional.linear(x, *hidden)) * kept / (1 - _DROPOUT)  # [R, F]
        logits = nn.functional.linear(activations, *output)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # pyright: ignore[reportUnknownMemberType]
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    tensors = [tensor.detach().numpy() for tensor in (*hidden, output[0][0], output[1])]
    return HeadWeights(mean, scale, *tensors)


def _create_linear(out_size: int, in_size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a weight [out, in] and a bias [out] to train, uniform within 1 / sqrt(in)."""
    bound = in_size**-0.5
    weight = (torch.rand(out_size, in_size, generator=generator) * 2 - 1) * bound
    bias = (torch.rand(out_size, generator=generator) * 2 - 1) * bound
    return weight.requires_grad_(), bias.requires_grad_()
