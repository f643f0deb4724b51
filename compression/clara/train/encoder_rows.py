"""Encoder rows: tokenized texts followed by their memory tokens, padded to one tensor."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..tokens import Vocabulary

IGNORED_LABEL = -100  # torch's cross entropy skips it


class EncoderRows(NamedTuple):
    """`ids` [N, T] are padded on the right; `memories` [N, M] are the positions of the memory tokens."""

    ids: Tensor
    memories: Tensor


def make_encoder_rows(vocabulary: Vocabulary, texts: Sequence[str], limit: int) -> EncoderRows:
    """Tokenize texts into encoder rows of at most `limit` text tokens each."""
    rows = [vocabulary.row(vocabulary.text(text), limit + 3) for text in texts]
    count = len(vocabulary.memory)
    ends = torch.tensor([len(row) for row in rows])
    return EncoderRows(pad_right(rows, vocabulary.bos), ends[:, None] - count + torch.arange(count)[None])


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of different lengths as one tensor [N, T], padded on the right with `value`."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
