"""Turns a text into windows of token ids for a pruner, and the scores of tokens back into scores of units.

Special tokens in a text are never those of the model (invariant: untrusted): only the templates of this module have
them. A window ends where a unit ends if one ends in its second half. Neighbouring windows overlap, and a token of two
windows has the mean of its scores.
"""

import json
import string
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ..extract.core.bm25 import Span
from ..models.errors import CheckpointError, ModelError
from .families import PrunerSpec
from .jobs import PruneJob, UnitScores
from .words import merge_tokens

OVERLAP_TOKENS = 50  # of two windows
MIN_WINDOW_TOKENS = 16  # of the text, in a window
MAX_QUESTION_SHARE = 0.4  # of a window
MAX_QUESTION_CHARACTERS = 20_000
_JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_QWEN3_PREFIX = f"<|im_start|>system\n{_JUDGE}<|im_end|>\n<|im_start|>user\n"
_QWEN3_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_QWEN3_INSTRUCTION = "Given a query, judge if the document(code) is related to query."
_FULL_STOP = "."
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Window(NamedTuple):
    """The tokens `start` to `end` of a text, and the index of their context."""

    start: int
    end: int
    context: int


@dataclass(slots=True)
class EncodedText:
    """A job's tokens and windows; `sums` and `counts` collect the scores of the tokens as windows are done."""

    job: PruneJob
    ids: Sequence[int]
    offsets: Sequence[Span]
    unit_tokens: Sequence[Span]
    prefix: Sequence[int]
    suffix: Sequence[int]
    windows: list[Window]
    sums: NDArray[np.float64] = field(init=False)
    counts: NDArray[np.int32] = field(init=False)
    relevance: list[float] = field(init=False)

    def __post_init__(self) -> None:
        """Create the empty scores."""
        self.sums, self.counts = np.zeros(len(self.ids)), np.zeros(len(self.ids), np.int32)
        self.relevance = [0.0] * max(1, len(self.job.contexts))

    def build_row(self, window: Window) -> list[int]:
        """Return the ids of a window between those of its template."""
        return [*self.prefix, *self.ids[window.start : window.end], *self.suffix]

    def add_scores(self, window: Window, scores: NDArray[np.float32], relevance: float) -> None:
        """Add a row's scores, those of its template included."""
        first = len(self.prefix)
        self.sums[window.start : window.end] += scores[first : first + window.end - window.start]
        self.counts[window.start : window.end] += 1
        self.relevance[window.context] = max(self.relevance[window.context], relevance)


class TextEncoder:
    """Encodes texts for one checkpoint."""

    def __init__(self, folder: Path, spec: PrunerSpec) -> None:
        """Read the tokenizer of a checkpoint. Raises `CheckpointError` without a fast tokenizer."""
        self._spec, self._backend = spec, _read_tokenizer(folder)
        self._backend.no_truncation()
        self._backend.no_padding()
        names = _read_special_names(folder)
        added: dict[int, Any] = self._backend.get_added_tokens_decoder()
        special = {token for token, entry in added.items() if entry.special}
        self.pad_id = self._find_id(names.get("pad_token"), 0)
        # The vocabulary of a unigram model holds its special tokens, and finds them in plain text.
        self._replacement = self._find_id(names.get("unk_token"), self._find_id("?", 0))
        self._special_ids = frozenset(special) - {self._replacement}
        if spec.family == "llmlingua2":
            # As the package llmlingua does: "[CLS]" and "[SEP]" on XLM-R, too, whose vocabulary has neither.
            self._start, self._separator = ([self._find_id(name, self._replacement)] for name in ("[CLS]", "[SEP]"))
        else:
            self._start = self._list_ids(names.get("cls_token"), names.get("bos_token"))
            self._separator = self._list_ids(names.get("sep_token"), names.get("eos_token"))

    @property
    def yes_no_ids(self) -> tuple[int, int]:
        """Return the ids of the words `yes` and `no`."""
        return self._find_id("yes", 0), self._find_id("no", 0)

    def _find_id(self, token: str | None, default: int) -> int:
        found: int | None = None if token is None else self._backend.token_to_id(token)
        return default if found is None else found

    def _list_ids(self, *tokens: str | None) -> list[int]:
        """Return the id of the first of these tokens that the vocabulary has, if any."""
        ids = [self._find_id(token, -1) for token in tokens]
        return [token for token in ids if token >= 0][:1]

    def _encode_texts(self, texts: Sequence[str], *, has_special_tokens: bool = False) -> list[Any]:
        self._backend.encode_special_tokens = not has_special_tokens
        return cast("list[Any]", self._backend.encode_batch(list(texts), add_special_tokens=False))

    def _read_ids(self, encoding: Any) -> list[int]:
        """Return the ids of a text, without special ones."""
        ids: list[int] = encoding.ids
        return ids if self._special_ids.isdisjoint(ids) else list(map(self._neutralize, ids))

    def _neutralize(self, token: int) -> int:
        return self._replacement if token in self._special_ids else token

    def _encode_template(self, text: str) -> list[int]:
        return list(self._encode_texts([text], has_special_tokens=True)[0].ids)

    def encode(self, job: PruneJob) -> EncodedText:
        """Return the windows of a job. Raises `ModelError` if a window has no room for text."""
        prefix, suffix = self._build_template(job.question)
        capacity = self._spec.max_tokens - len(prefix) - len(suffix)
        if capacity < MIN_WINDOW_TOKENS:
            raise ModelError(f"a window of {self._spec.max_tokens} tokens has no room for text")
        if self._spec.granularity == "sentences":
            ids, offsets, unit_tokens = self._encode_sentences(job)
            breaks = [start for start, _ in unit_tokens]
            bounds = [*(unit_tokens[index][0] for index in job.contexts if index < len(unit_tokens)), len(ids)]
        else:
            encoding = self._encode_texts([job.text])[0]
            ids, offsets, unit_tokens = self._read_ids(encoding), list(encoding.offsets), list[Span]()
            breaks = self._find_breaks(job, encoding.tokens, offsets)
            bounds = [0, len(ids)]
        windows = [
            Window(start, end, context)
            for context, (first, last) in enumerate(pairwise(bounds))
            for start, end in _split_windows(first, last, capacity, breaks)
        ]
        return EncodedText(job, ids, offsets, unit_tokens, prefix, suffix, windows)

    def _build_template(self, question: str) -> tuple[list[int], list[int]]:
        family = self._spec.family
        question = question[:MAX_QUESTION_CHARACTERS]
        if family in ("llmlingua2", "token-classifier"):
            return self._start, self._separator
        if family == "swe-pruner":
            instruction = f"<Instruct>: {_QWEN3_INSTRUCTION}\n<Query>: {question}\n<Document>: "
            asked = self._encode_question(instruction)
            return [*self._encode_template(_QWEN3_PREFIX), *asked], self._encode_template(_QWEN3_SUFFIX)
        if family == "provence":
            question = " ".join(question.lower().translate(_NO_PUNCTUATION).split())
        return [*self._start, *self._encode_question(question), *self._separator], self._separator

    def _encode_question(self, question: str) -> list[int]:
        """Return the ids of a question; of a long one, its beginning and its end."""
        ids = self._read_ids(self._encode_texts([question])[0])
        limit = int(MAX_QUESTION_SHARE * self._spec.max_tokens)
        return ids if len(ids) <= limit else [*ids[: limit // 2], *ids[len(ids) - (limit - limit // 2) :]]

    def _encode_sentences(self, job: PruneJob) -> tuple[list[int], list[Span], list[Span]]:
        """Encode each sentence by itself, as both kinds of Provence were trained."""
        ids: list[int] = []
        unit_tokens: list[Span] = []
        for encoding in self._encode_texts(list(self._iter_sentences(job))):
            unit_tokens.append((len(ids), len(ids) + len(encoding.ids)))
            ids += self._read_ids(encoding)
        return ids, [], unit_tokens

    def _iter_sentences(self, job: PruneJob) -> Iterator[str]:
        """Yield the texts of the sentences: with a blank before (Provence), or with the blanks behind it."""
        first_units = set(job.contexts)
        starts = [start for start, _ in job.units] + [len(job.text)]
        for index, (start, end) in enumerate(job.units):
            if self._spec.family == "provence":
                yield job.text[start:end] if index in first_units else f" {job.text[start:end]}"
            else:
                yield job.text[start : end if index + 1 in first_units else starts[index + 1]]

    def _find_breaks(self, job: PruneJob, tokens: Sequence[str], offsets: Sequence[Span]) -> list[int]:
        if self._spec.granularity == "words":
            return [index for index, token in enumerate(tokens, 1) if token == _FULL_STOP]
        starts = [start for start, _ in offsets]
        return [bisect_right(starts, start - 1) for start, _ in job.units]

    def collect(self, encoded: EncodedText) -> UnitScores:
        """Return the scores of the units, once all windows are done."""
        tokens = encoded.sums / np.maximum(encoded.counts, 1)
        job = encoded.job
        if self._spec.granularity == "words":
            names: list[str] = (
                [] if self._spec.family != "llmlingua2" else list(map(self._backend.id_to_token, encoded.ids))
            )
            spans, scores = merge_tokens(
                job.text, names, encoded.offsets, tokens.tolist(), is_wordpiece=self._spec.is_wordpiece
            )
            return UnitScores(spans, scores, encoded.relevance, self._spec.threshold)
        if self._spec.granularity == "sentences":
            totals = np.concatenate(([0.0], np.cumsum(tokens)))
            scores = [
                float(totals[end] - totals[start]) / (end - start) if end > start else 1.0
                for start, end in encoded.unit_tokens
            ]
            return UnitScores(job.units, scores, encoded.relevance, self._spec.threshold)
        return UnitScores(
            job.units, _average_characters(job, encoded.offsets, tokens), encoded.relevance, self._spec.threshold
        )


def _read_tokenizer(folder: Path) -> Any:
    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            return import_module("tokenizers").Tokenizer.from_file(str(path))
        auto: Any = import_module("transformers").AutoTokenizer
        tokenizer = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the libraries raise many kinds
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({error})") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{path}: no such file, and no other tokenizer that gives offsets")
    return tokenizer.backend_tokenizer


def _read_special_names(folder: Path) -> dict[str, str]:
    """Return the special tokens by their roles, such as `cls_token`."""
    names: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            fields: object = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for role, value in cast("dict[str, Any]", fields).items() if isinstance(fields, dict) else ():
            content: object = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(content, str):
                names[role] = content
    return names


def _split_windows(first: int, last: int, capacity: int, breaks: Sequence[int]) -> Iterator[Span]:
    """Yield windows of at most `capacity` tokens that cover `first` to `last`."""
    start = first
    while start < last:
        end = min(last, start + capacity)
        if end < last:
            position = bisect_right(breaks, end) - 1
            if position >= 0 and breaks[position] > start + capacity // 2:
                end = breaks[position]
        yield start, end
        if end == last:
            return
        # Of at least half a window; the overlap is whole units where these are short.
        overlap = max(end - min(OVERLAP_TOKENS, capacity // 4), start + 1)
        position = bisect_right(breaks, overlap - 1)
        start = breaks[position] if position < len(breaks) and breaks[position] < end else overlap


def _average_characters(job: PruneJob, offsets: Sequence[Span], tokens: NDArray[np.float64]) -> list[float]:
    """Return the mean score of each line's characters; 0 for a line without tokens, as the published code has it."""
    size = len(job.text)
    scores, known = np.zeros(size), np.zeros(size)
    for (start, end), score in zip(offsets, tokens.tolist(), strict=True):
        scores[start:end], known[start:end] = score, 1.0
    totals, counts = (np.concatenate(([0.0], np.cumsum(values))) for values in (scores, known))
    return [float((totals[end] - totals[start]) / max(1.0, counts[end] - counts[start])) for start, end in job.units]
