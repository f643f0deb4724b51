"""Episodes as tensors: documents once, then all their questions side by side; exactly what separate prompts compute.

The memories of an episode stand in front of every question, so they are read once: a question sees the memories and
itself, not the other questions, and its positions count on from the memories. Only answers are learned.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import prompts
from ..tokens import Vocabulary
from .facts import Episode, Question, Restatement

IGNORED = -100


class Rows(NamedTuple):
    """Encoder rows: `ids` [N, T] padded on the right, `memories` [N, M]: the positions of the memory tokens."""

    ids: Tensor
    memories: Tensor


class Batch(NamedTuple):
    """Decoder rows `ids` and `labels` [E, T]; `slots` [E, K * M] take the memories; `positions` [T], `mask` [T, T]."""

    documents: Rows
    ids: Tensor
    labels: Tensor
    slots: Tensor
    positions: Tensor
    mask: Tensor | None


class Search(NamedTuple):
    """Questions as encoder rows, the document that answers each, and `barred` [Q, N]: documents not to compare."""

    questions: Rows
    targets: Tensor
    barred: Tensor


def rows(vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> Rows:
    """Return encoder rows for texts."""
    made = [vocabulary.row(vocabulary.text(text), limit + 3) for text in texts]
    count = len(vocabulary.memory)
    ends = torch.tensor([len(row) for row in made])
    return Rows(padded(made, vocabulary.bos), ends[:, None] - count + torch.arange(count)[None])


def padded(made: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows as one tensor, filled up on the right."""
    width = max(map(len, made))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in made])


def episodes(vocabulary: Vocabulary, batch: Sequence[Episode], limit: int) -> Batch:
    """Pack episodes of equally many documents and questions."""
    texts = [text for each in batch for text in each.documents]
    frame = [vocabulary.bos, *vocabulary.text(prompts.answer_prompt("").head)]
    slot = [*vocabulary.memory, vocabulary.sep]
    count = len(batch[0].documents)
    prefix = [*frame, *slot * count]
    asked = [[_question(vocabulary, question) for question in each.questions] for each in batch]
    width = max(len(ids) for each in asked for ids, _ in each)
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for each in asked:
        ids.append([*prefix, *(token for row, _ in each for token in _fill(row, width, vocabulary.bos))])
        labels.append([*[IGNORED] * len(prefix), *(token for _, row in each for token in _fill(row, width, IGNORED))])
    positions, mask = _layout(len(prefix), width, len(asked[0]))
    slots = _slots(len(frame), count, len(vocabulary.memory)).expand(len(batch), -1)
    return Batch(rows(vocabulary, texts, limit), torch.tensor(ids), torch.tensor(labels), slots, positions, mask)


def restatements(vocabulary: Vocabulary, batch: Sequence[Restatement], templates: Sequence[int], limit: int) -> Batch:
    """Pack documents with their restatements as targets; each template's phrases are one id each."""
    ids: list[list[int]] = []
    labels: list[list[int]] = []
    for each, template in zip(batch, templates, strict=True):
        prompt = prompts.paraphrase_prompt(template)
        head = [vocabulary.bos, *vocabulary.text(prompt.head), *vocabulary.memory, vocabulary.sep]
        head.extend(vocabulary.text(prompt.tail))
        answer = [*vocabulary.text(" " + each.target), vocabulary.eos]
        ids.append([*head, *answer])
        labels.append([*[IGNORED] * len(head), *answer])
    texts = [each.document for each in batch]
    start = 1 + len(vocabulary.text(prompts.paraphrase_prompt(0).head))
    slots = _slots(start, 1, len(vocabulary.memory)).expand(len(batch), -1)
    told = padded(ids, vocabulary.bos)
    positions = torch.arange(told.shape[1])
    return Batch(rows(vocabulary, texts, limit), told, padded(labels, IGNORED), slots, positions, None)


def search(vocabulary: Vocabulary, batch: Sequence[Episode], limit: int) -> Search:
    """Return the answerable questions of a batch against all its documents.

    Documents about the same kind of fact of the same subject in other episodes are barred: they answer it as well.
    """
    about = [each for episode in batch for each in episode.about]
    texts: list[str] = []
    targets: list[int] = []
    barred: list[list[bool]] = []
    offset = 0
    for episode in batch:
        for question in episode.questions:
            if question.source is None:
                continue
            target = offset + question.source
            texts.append(question.text)
            targets.append(target)
            barred.append([question.about in each and place != target for place, each in enumerate(about)])
        offset += len(episode.documents)
    return Search(rows(vocabulary, texts, limit), torch.tensor(targets), torch.tensor(barred))


def _question(vocabulary: Vocabulary, question: Question) -> tuple[list[int], list[int]]:
    tail = vocabulary.text(prompts.answer_prompt(question.text).tail)
    answer = [*vocabulary.text(" " + question.answer), vocabulary.eos]
    return [*tail, *answer], [*[IGNORED] * len(tail), *answer]


def _layout(prefix: int, width: int, count: int) -> tuple[Tensor, Tensor]:
    """Return positions [T] and the mask [T, T] of a prefix with `count` segments of `width` behind it."""
    segment = torch.cat((torch.full((prefix,), -1), torch.arange(count).repeat_interleave(width)))
    places = torch.arange(len(segment))
    positions = torch.where(segment < 0, places, prefix + (places - prefix) % width)
    mask = (places[None] <= places[:, None]) & ((segment[None] < 0) | (segment[None] == segment[:, None]))
    return positions, mask


def _slots(start: int, count: int, memories: int) -> Tensor:
    return (start + torch.arange(count)[:, None] * (memories + 1) + torch.arange(memories)[None]).flatten()[None]


def _fill(row: list[int], width: int, value: int) -> list[int]:
    return [*row, *[value] * (width - len(row))]
