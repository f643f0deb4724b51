"""Collation: training examples become encoder rows, query rows, and decoder rows with labels.

The layout is the reference's with one difference: rows are padded on the right instead of the left. Under causal
attention with relative positions the result is the same. Prompt tokens have no label; the answer and the end token do.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import prompts
from ..prompts import Prompt
from ..tokenizer import ClaraTokenizer
from .encoder_rows import IGNORED_LABEL, EncoderRows, make_encoder_rows, pad_right
from .training_data import DataError, Example

Stage = Literal["stage1", "stage1_2", "stage2", "stage2_pretrain_retrieval"]
STAGES: tuple[Stage, ...] = ("stage1", "stage1_2", "stage2", "stage2_pretrain_retrieval")


class TokenLimits(NamedTuple):
    """Maximum tokens of a document and of a decoder row; the latter also limits a stage 2 question."""

    document: int
    prompt: int


class StageBatch(NamedTuple):
    """A micro batch of B examples with N documents each.

    `documents` holds the documents of all examples in order. Decoder `ids` and `labels` are [B, T]; `slots` [B, k * M]
    are the positions of the memories in `ids`; `positives` [B, N] marks the relevant documents.
    """

    documents: EncoderRows
    ids: Tensor
    labels: Tensor
    slots: Tensor
    queries: EncoderRows | None
    positives: Tensor


def collate_examples(
    tokenizer: ClaraTokenizer,
    examples: Sequence[Example],
    stage: Stage,
    limits: TokenLimits,
    k: int,
    templates: Sequence[int],
) -> StageBatch:
    """Collate a micro batch; in stage 2 `k` documents get memory slots, in stage 1 all documents do.

    `templates` are the indices of the paraphrase prompts, one for each paraphrase, in order. Raises `DataError` for
    examples that cannot share a batch.
    """
    count = len(examples[0].documents)
    k = k if stage.startswith("stage2") else count
    if any(len(example.documents) != count for example in examples) or k > count:
        raise DataError(f"{stage} needs the same number of documents in every line of a batch, and at least {k}")
    if stage != "stage1" and any(example.paraphrase for example in examples):
        raise DataError(f"{stage} does not support paraphrases; use stage1")
    template_indices = iter(templates)
    rows = [
        _decoder_row(tokenizer, *_prompt(example, stage, template_indices), k, limits.prompt) for example in examples
    ]
    starts = torch.tensor([start for _, _, start in rows])
    memories = len(tokenizer.memory_ids)
    offsets = (torch.arange(k)[:, None] * (memories + 1) + torch.arange(memories)).flatten()
    positives = torch.zeros(len(examples), count, dtype=torch.bool)
    for index, example in enumerate(examples):
        positives[index, list(example.positives)] = True
    queries = [example.questions[0] for example in examples] if stage.startswith("stage2") else None
    return StageBatch(
        make_encoder_rows(tokenizer, [text for example in examples for text in example.documents], limits.document),
        pad_right([ids for ids, _, _ in rows], tokenizer.bos_id),
        pad_right([labels for _, labels, _ in rows], IGNORED_LABEL),
        starts[:, None] + offsets,
        make_encoder_rows(tokenizer, queries, limits.prompt) if queries is not None else None,
        positives,
    )


def _prompt(example: Example, stage: Stage, templates: Iterator[int]) -> tuple[Prompt, str]:
    """Return the prompt of an example and its target text."""
    if example.paraphrase:
        return prompts.paraphrase_prompt(next(templates)), example.answers[0]
    if stage == "stage1":
        pairs = zip(example.questions, example.answers, strict=True)
        return prompts.questions_prompt(), "\n".join(
            f"Question: {question}\nAnswer: {answer}" for question, answer in pairs
        )
    return prompts.answer_prompt(example.questions[0]), example.answers[0]


def _decoder_row(
    tokenizer: ClaraTokenizer, prompt: Prompt, answer: str, k: int, limit: int
) -> tuple[list[int], list[int], int]:
    """Return ids, labels and the position of the first memory.

    The prompt's tail and the answer are tokenized as one text, because tokens may span the boundary.
    """
    head = [tokenizer.bos_id, *tokenizer.encode(prompt.head)]
    slots = [*tokenizer.memory_ids, tokenizer.sep_id] * k
    prompt_size = len(head) + len(slots) + len(tokenizer.encode(prompt.tail))
    ids = [*head, *slots, *tokenizer.encode(f"{prompt.tail} {answer}"), tokenizer.eos_id][:limit]
    labels = [IGNORED_LABEL if position < prompt_size else token for position, token in enumerate(ids)]
    return ids, labels, len(head)
