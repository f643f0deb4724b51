"""Encoder rows: tokenized texts followed by their memory tokens, padded to one tensor."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..tokenizer import ClaraTokenizer

IGNORED_LABEL = -100  # torch's cross entropy skips it


class EncoderRows(NamedTuple):
    """`ids` [N, T] are padded on the right; `memories` [N, M] are the positions of the memory tokens."""

    ids: Tensor
    memories: Tensor


def make_encoder_rows(tokenizer: ClaraTokenizer, texts: Sequence[str], limit: int) -> EncoderRows:
    """Tokenize texts into encoder rows of at most `limit` text tokens each."""
    rows = [tokenizer.build_encoder_row(tokenizer.encode(text), limit + 3) for text in texts]
    count = len(tokenizer.memory_ids)
    ends = torch.tensor([len(row) for row in rows])
    return EncoderRows(pad_right(rows, tokenizer.bos_id), ends[:, None] - count + torch.arange(count)[None])


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Return rows of different lengths as one tensor [N, T], padded on the right with `value`."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
