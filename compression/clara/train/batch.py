"""Items as the reference lays them out: encoder rows, query rows, decoder rows with labels; no forward pass.

Rows are padded on the right where the reference pads on the left: under causal attention with relative positions both
are the same computation. Labels leave out the prompt; the answer and the end token are learned.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .. import prompts
from ..prompts import Prompt
from ..tokens import Vocabulary
from .data import DataError, Item
from .packed import IGNORED, Rows, padded, rows

Stage = Literal["stage1", "stage1_2", "stage2", "stage2_pretrain_retrieval"]
STAGES: tuple[Stage, ...] = ("stage1", "stage1_2", "stage2", "stage2_pretrain_retrieval")


class Limits(NamedTuple):
    """Tokens: of a document, and of a decoder row; a question of stage 2 may be as long as the latter."""

    document: int
    prompt: int


class Lines(NamedTuple):
    """A micro batch of B items with N documents each: `documents` of all of them in order, decoder `ids` [B, T].

    `slots` [B, k * M] are the places of the memories; `positives` [B, N] the documents that help.
    """

    documents: Rows
    ids: Tensor
    labels: Tensor
    slots: Tensor
    queries: Rows | None
    positives: Tensor


def collate(
    vocabulary: Vocabulary, items: Sequence[Item], stage: Stage, limits: Limits, k: int, templates: Sequence[int]
) -> Lines:
    """Lay out a micro batch; in stage 2 `k` documents get a slot, before it all of them do.

    `templates` are the prompts of the items that are paraphrases, in order. Raises `DataError` for items that do not go
    together.
    """
    count = len(items[0].documents)
    k = k if stage.startswith("stage2") else count
    if any(len(item.documents) != count for item in items) or k > count:
        raise DataError(f"{stage} wants equally many documents in the lines of a batch, at least {k}")
    if stage != "stage1" and any(item.paraphrase for item in items):
        raise DataError(f"{stage} does not paraphrase; only stage1 does")
    chosen = iter(templates)
    made = [_row(vocabulary, *_prompt(item, stage, chosen), k, limits.prompt) for item in items]
    starts = torch.tensor([start for _, _, start in made])
    memories = len(vocabulary.memory)
    offsets = (torch.arange(k)[:, None] * (memories + 1) + torch.arange(memories)).flatten()
    positives = torch.zeros(len(items), count, dtype=torch.bool)
    for place, item in enumerate(items):
        positives[place, list(item.positives)] = True
    asks = [item.questions[0] for item in items] if stage.startswith("stage2") else None
    return Lines(
        rows(vocabulary, [text for item in items for text in item.documents], limits.document),
        padded([ids for ids, _, _ in made], vocabulary.bos),
        padded([labels for _, labels, _ in made], IGNORED),
        starts[:, None] + offsets,
        rows(vocabulary, asks, limits.prompt) if asks is not None else None,
        positives,
    )


def _prompt(item: Item, stage: Stage, templates: Iterator[int]) -> tuple[Prompt, str]:
    if item.paraphrase:
        return prompts.paraphrase_prompt(next(templates)), item.answers[0]
    if stage == "stage1":
        pairs = zip(item.questions, item.answers, strict=True)
        return prompts.questions_prompt(), "\n".join(
            f"Question: {question}\nAnswer: {answer}" for question, answer in pairs
        )
    return prompts.answer_prompt(item.questions[0]), item.answers[0]


def _row(vocabulary: Vocabulary, prompt: Prompt, answer: str, k: int, limit: int) -> tuple[list[int], list[int], int]:
    """Return ids, labels and the first memory's place; tokenized as one text, so that ids are those of the whole."""
    head = [vocabulary.bos, *vocabulary.text(prompt.head)]
    slots = [*vocabulary.memory, vocabulary.sep] * k
    known = len(head) + len(slots) + len(vocabulary.text(prompt.tail))
    ids = [*head, *slots, *vocabulary.text(f"{prompt.tail} {answer}"), vocabulary.eos][:limit]
    return ids, [IGNORED if place < known else token for place, token in enumerate(ids)], len(head)
