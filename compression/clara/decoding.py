"""Greedy generation in a running batch: rows join while others run, and leave when they end.

Requests that arrive together or one after another share every step. A `DecodingBatch` belongs to one thread; the model
is only read.

Shapes: T positions, H hidden size, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from .inference import Array, InferenceModel, RowCache, group_by_length
from .tokenizer import ClaraTokenizer

FinishReason = Literal["stop", "length"]


@dataclass(eq=False, slots=True)
class GeneratedRow:
    """One text being generated: its `tokens` without the end token, and the reason it ended, if it has."""

    max_tokens: int
    tokens: list[int] = field(default_factory=list[int])
    finish: FinishReason | None = None

    @classmethod
    def finished(cls, tokens: Sequence[int], max_tokens: int) -> "GeneratedRow":
        """Return a finished row of known tokens."""
        return cls(max_tokens, list(tokens[:max_tokens]), "length" if len(tokens) > max_tokens else "stop")


class DecodingBatch:
    """Rows that are decoded together with one adapter."""

    def __init__(self, model: InferenceModel, adapter: str) -> None:
        self._model, self._adapter = model, adapter
        self._eos = frozenset(model.base.config.eos_ids)
        self._cache: RowCache | None = None
        self.rows: list[GeneratedRow] = []

    def add_rows(
        self, prompts: Sequence[Array], limits: Sequence[int], banned_answers: Sequence[Sequence[int]] = ()
    ) -> list[GeneratedRow]:
        """Read prompts [T, H] and pick the first token of each; return the rows in the same order.

        `banned_answers` holds ids per prompt: a row that would begin with them gets the runner-up as its first token.
        """
        rows = [GeneratedRow(limit) for limit in limits]
        for batch in group_by_length([len(prompt) for prompt in prompts], self._model.max_batch_positions):
            logits, cache = self._model.prefill([prompts[index] for index in batch], self._adapter)
            if self._cache is None:
                self._cache = cache
            else:
                self._cache.append_rows(cache)
            new_rows = [rows[index] for index in batch]
            self.rows.extend(new_rows)
            for position, index in enumerate(batch if banned_answers else ()):
                self._ban_answer(logits, position, prompts[index], banned_answers[index])
            self._append_tokens(new_rows, logits)
        self._remove_finished()
        return rows

    def step(self) -> None:
        """Append one token to every row."""
        if self._cache is None:
            return
        logits = self._model.step([row.tokens[-1] for row in self.rows], self._cache, self._adapter)
        self._append_tokens(self.rows, logits)
        self._remove_finished()

    def remove_rows(self, unwanted: Sequence[GeneratedRow]) -> None:
        """Drop rows that are no longer needed."""
        unwanted_ids = {id(row) for row in unwanted}
        self._keep_rows([index for index, row in enumerate(self.rows) if id(row) not in unwanted_ids])

    def _ban_answer(self, logits: Array, row: int, prompt: Array, answer: Sequence[int]) -> None:
        """Exclude the first id of a banned answer from the logits [B, V] of a row that would give that answer."""
        if not answer or int(logits[row].argmax()) != answer[0]:
            return
        if len(answer) > 1:  # another answer may begin alike
            beginning = self._model.extend_prompt(prompt, answer[:-1])  # [T + len(answer) - 1, H]
            next_logits, _ = self._model.prefill([beginning], self._adapter)  # [1, V]
            if int(next_logits[0].argmax()) != answer[-1]:
                return
        logits[row, answer[0]] = -math.inf

    def _append_tokens(self, rows: Sequence[GeneratedRow], logits: Array) -> None:
        next_tokens: list[int] = logits.argmax(-1).tolist()
        for row, token in zip(rows, next_tokens, strict=True):
            if token in self._eos:
                row.finish = "stop"
                continue
            if len(row.tokens) < row.max_tokens:
                row.tokens.append(token)
            if len(row.tokens) >= row.max_tokens:
                row.finish = "length"

    def _remove_finished(self) -> None:
        self._keep_rows([index for index, row in enumerate(self.rows) if row.finish is None])

    def _keep_rows(self, indices: Sequence[int]) -> None:
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in indices]
        if not indices:
            self._cache = None
        elif self._cache is not None:
            self._cache.select_rows(indices)


class TextStream:
    """Converts a growing row of ids to pieces of text that add up to the text of the whole row."""

    def __init__(self, vocabulary: ClaraTokenizer) -> None:
        self._vocabulary = vocabulary
        self._sent_text = ""

    def feed(self, tokens: Sequence[int], *, last: bool) -> str:
        """Return the new text since the last call; bytes are held back until their character is complete."""
        if not last and tokens and self._vocabulary.is_incomplete(tokens[-1]):
            return ""
        text = self._vocabulary.decode(tokens)
        piece = text[len(self._sent_text) :]
        self._sent_text = text
        return piece
