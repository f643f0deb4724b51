"""Greedy generation for rows that come and go: one `Decoding` is one running batch, owned by one thread.

Rows may be admitted while others run and leave when they end, so requests that arrive together or one after another
share every step. The model is only read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .kv_cache import KVCache
from .model import ClaraModel, group_by_length
from .tokenizer import ClaraTokenizer

FinishReason = Literal["stop", "length"]


@dataclass(eq=False, slots=True)
class GeneratedRow:
    """One text being written: `tokens` so far, without the end token, and why it ended once it has."""

    max_tokens: int
    tokens: list[int] = field(default_factory=list[int])
    finish: FinishReason | None = None


class DecodingBatch:
    """Rows that are decoded together with one adapter."""

    def __init__(self, model: ClaraModel, adapter: str) -> None:
        self._model, self._adapter = model, adapter
        self._eos = frozenset(model.base.config.eos_ids)
        self._cache: KVCache | None = None
        self.rows: list[GeneratedRow] = []

    def add_rows(
        self, prompts: Sequence[Tensor], limits: Sequence[int], banned_answers: Sequence[Sequence[int]] = ()
    ) -> list[GeneratedRow]:
        """Read prompts [T, H] and pick each one's first token; the rows come back in the order given.

        With `barred`, ids for each prompt, a row that would begin with its own gets the runner-up for its first token.
        """
        admitted = [GeneratedRow(limit) for limit in limits]
        for batch in group_by_length([len(prompt) for prompt in prompts], self._model.max_batch_positions):
            logits, cache = self._model.prefill([prompts[index] for index in batch], self._adapter)
            if self._cache is None:
                self._cache = cache
            else:
                self._cache.append_rows(cache)
            fresh = [admitted[index] for index in batch]
            self.rows.extend(fresh)
            for place, index in enumerate(batch if banned_answers else ()):
                self._ban_answer(logits[place], prompts[index], banned_answers[index])
            self._append_tokens(fresh, logits)
        self._remove_finished()
        return admitted

    def step(self) -> None:
        """Give every row one more token."""
        if self._cache is None:
            return
        logits = self._model.step([row.tokens[-1] for row in self.rows], self._cache, self._adapter)
        self._append_tokens(self.rows, logits)
        self._remove_finished()

    def remove_rows(self, unwanted: Sequence[GeneratedRow]) -> None:
        """Let rows go that nobody waits for any more."""
        gone = {id(row) for row in unwanted}
        self._keep_rows([place for place, row in enumerate(self.rows) if id(row) not in gone])

    def _ban_answer(self, logits: Tensor, prompt: Tensor, words: Sequence[int]) -> None:
        """Take the first id of words that may not be said out of the choice [V] of a row that would say them."""
        if not words or int(logits.argmax()) != words[0]:
            return
        if len(words) > 1:  # other words may begin alike
            begun = self._model.embed[torch.tensor(words[:-1], device=prompt.device)]
            after, _ = self._model.prefill([torch.cat((prompt, begun))], self._adapter)
            if int(after[0].argmax()) != words[-1]:
                return
        logits[words[0]] = -torch.inf

    def _append_tokens(self, rows: Sequence[GeneratedRow], logits: Tensor) -> None:
        for row, token in zip(rows, map(int, logits.argmax(dim=-1).cpu()), strict=True):
            if token in self._eos:
                row.finish = "stop"
                continue
            if len(row.tokens) < row.max_tokens:
                row.tokens.append(token)
            if len(row.tokens) >= row.max_tokens:
                row.finish = "length"

    def _remove_finished(self) -> None:
        self._keep_rows([place for place, row in enumerate(self.rows) if row.finish is None])

    def _keep_rows(self, places: Sequence[int]) -> None:
        if len(places) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in places]
        if not places:
            self._cache = None
        elif self._cache is not None:
            self._cache.select_rows(places)


class TextStream:
    """Turns a growing row of ids into pieces of text whose sum is the text of the whole row."""

    def __init__(self, vocabulary: ClaraTokenizer) -> None:
        self._vocabulary = vocabulary
        self._sent_text = ""

    def feed(self, tokens: Sequence[int], *, last: bool) -> str:
        """Return what can be said since the last call; single bytes wait until their character is whole."""
        if not last and tokens and self._vocabulary.is_incomplete(tokens[-1]):
            return ""
        text = self._vocabulary.decode(tokens)
        piece = text[len(self._sent_text) :]
        self._sent_text = text
        return piece
