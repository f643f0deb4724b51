"""Episodes as tensors: the memories of an episode once, followed by all its questions side by side.

A question attends to the memories and to itself, not to the other questions, and its positions continue from the
memories, so the result equals one prompt a question. Only answer tokens have labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...compression.clara import prompts
from ...compression.clara.tokenizer import ClaraTokenizer
from ...compression.clara.train.encoder_rows import IGNORED_LABEL, EncoderRows, make_encoder_rows, pad_right
from .synthetic.episodes import Episode, Question, Restatement


class PackedBatch(NamedTuple):
    """E packed rows: `ids` and `labels` [E, T], memory positions `slots` [E, K * M], `positions` [T], `mask` [T, T]."""

    documents: EncoderRows
    ids: Tensor
    labels: Tensor
    slots: Tensor
    positions: Tensor
    mask: Tensor | None


class RetrievalBatch(NamedTuple):
    """Questions as encoder rows, `targets` [Q] into N documents, and `excluded` [Q, N]: documents not to compare."""

    questions: EncoderRows
    targets: Tensor
    excluded: Tensor


def pack_episodes(tokenizer: ClaraTokenizer, batch: Sequence[Episode], limit: int) -> PackedBatch:
    """Pack episodes with the same number of documents and of questions."""
    texts = [text for episode in batch for text in episode.documents]
    head = [tokenizer.bos_id, *tokenizer.encode(prompts.answer_prompt("").head)]
    slot = [*tokenizer.memory_ids, tokenizer.sep_id]
    count = len(batch[0].documents)
    prefix = [*head, *slot * count]
    rows = [[_question_row(tokenizer, question) for question in episode.questions] for episode in batch]
    width = max(len(ids) for row in rows for ids, _ in row)
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for row in rows:
        padded_ids = (token for question, _ in row for token in _pad(question, width, tokenizer.bos_id))
        padded_labels = (label for _, answer in row for label in _pad(answer, width, IGNORED_LABEL))
        ids.append([*prefix, *padded_ids])
        labels.append([*[IGNORED_LABEL] * len(prefix), *padded_labels])
    positions, mask = _positions_and_mask(len(prefix), width, len(rows[0]))
    slots = _memory_slots(len(head), count, len(tokenizer.memory_ids)).expand(len(batch), -1)
    documents = make_encoder_rows(tokenizer, texts, limit)
    return PackedBatch(documents, torch.tensor(ids), torch.tensor(labels), slots, positions, mask)


def pack_restatements(
    tokenizer: ClaraTokenizer, batch: Sequence[Restatement], templates: Sequence[int], limit: int
) -> PackedBatch:
    """Pack documents with their restatements as targets; `templates` are the indices of the paraphrase prompts."""
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for restatement, template in zip(batch, templates, strict=True):
        prompt = prompts.paraphrase_prompt(template)
        head = [tokenizer.bos_id, *tokenizer.encode(prompt.head), *tokenizer.memory_ids, tokenizer.sep_id]
        head.extend(tokenizer.encode(prompt.tail))
        answer = [*tokenizer.encode(" " + restatement.target), tokenizer.eos_id]
        ids.append([*head, *answer])
        labels.append([*[IGNORED_LABEL] * len(head), *answer])
    documents = make_encoder_rows(tokenizer, [restatement.document for restatement in batch], limit)
    # The tokenizer has one token for each prompt head, so the memories start at the same position in every row.
    start = 1 + len(tokenizer.encode(prompts.paraphrase_prompt(0).head))
    slots = _memory_slots(start, 1, len(tokenizer.memory_ids)).expand(len(batch), -1)
    padded = pad_right(ids, tokenizer.bos_id)
    positions = torch.arange(padded.shape[1])
    return PackedBatch(documents, padded, pad_right(labels, IGNORED_LABEL), slots, positions, None)


def pack_retrieval(tokenizer: ClaraTokenizer, batch: Sequence[Episode], limit: int) -> RetrievalBatch:
    """Return the answerable questions of a batch with all its documents as candidates.

    Documents of other episodes about the same topic also answer the question and are excluded.
    """
    topics = [document for episode in batch for document in episode.topics]
    texts: list[str] = []
    targets: list[int] = []
    excluded: list[list[bool]] = []
    offset = 0
    for episode in batch:
        for question in episode.questions:
            if question.source is None:
                continue
            target = offset + question.source
            texts.append(question.text)
            targets.append(target)
            excluded.append([question.topic in document and index != target for index, document in enumerate(topics)])
        offset += len(episode.documents)
    questions = make_encoder_rows(tokenizer, texts, limit)
    return RetrievalBatch(questions, torch.tensor(targets), torch.tensor(excluded))


def _question_row(tokenizer: ClaraTokenizer, question: Question) -> tuple[list[int], list[int]]:
    """Return the ids and the labels of a question with its answer."""
    tail = tokenizer.encode(prompts.answer_prompt(question.text).tail)
    answer = [*tokenizer.encode(" " + question.answer), tokenizer.eos_id]
    return [*tail, *answer], [*[IGNORED_LABEL] * len(tail), *answer]


def _positions_and_mask(prefix: int, width: int, count: int) -> tuple[Tensor, Tensor]:
    """Return positions [T] and the mask [T, T] of a prefix followed by `count` segments of `width` tokens."""
    segment = torch.cat((torch.full((prefix,), -1), torch.arange(count).repeat_interleave(width)))
    index = torch.arange(len(segment))
    positions = torch.where(segment < 0, index, prefix + (index - prefix) % width)
    mask = (index[None] <= index[:, None]) & ((segment[None] < 0) | (segment[None] == segment[:, None]))
    return positions, mask


def _memory_slots(start: int, count: int, memories: int) -> Tensor:
    """Return the positions [1, count * memories] of the memories of `count` documents."""
    return (start + torch.arange(count)[:, None] * (memories + 1) + torch.arange(memories)[None]).flatten()[None]


def _pad(row: list[int], width: int, value: int) -> list[int]:
    return [*row, *[value] * (width - len(row))]
