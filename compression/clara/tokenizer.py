"""Converts text to ids and back, in CLaRa's vocabulary, without tensors.

Text is data: a document or a question that spells `<MEM0>`, `<SEP>` or `</s>` gets ordinary ids for those characters,
because text is tokenized by a second pipeline without special tokens. The ids of other text are those that the released
models were trained on. A tokenizer does not change after construction, so threads may share it.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from tokenizers import AddedToken, Tokenizer

from ..models.errors import CheckpointError, ModelError

_log = logging.getLogger(__name__)


class Span(NamedTuple):
    """A token's position in its text, in characters: `text[start:end]`."""

    start: int
    end: int


class MemoryTokenSpec(NamedTuple):
    """The number of memory tokens per document, and their spelling."""

    memory_tokens: int
    is_distinct: bool = True
    extra_tokens: tuple[str, ...] = ()

    def token_names(self) -> list[str]:
        """Return the memory tokens' names in slot order; all equal if they are not distinct."""
        return [f"<MEM{index}>" if self.is_distinct else "<MEM>" for index in range(self.memory_tokens)]


class ClaraTokenizer:
    """The base model's tokenizer with CLaRa's tokens added at the end.

    `memory_ids` are the ids of a document's memory tokens in order, `vocabulary_size` is the number of ids, and
    `revision` is a hash of everything that determines the ids.
    """

    def __init__(self, tokenizer_json: str, memory_spec: MemoryTokenSpec) -> None:
        raw: dict[str, Any] = _upgrade_pipeline(orjson.loads(tokenizer_json))
        self._full = Tokenizer.from_str(orjson.dumps(raw).decode())
        self._plain = Tokenizer.from_str(orjson.dumps(_remove_special_tokens(raw)).decode())
        self.memory_spec = memory_spec
        added = [*dict.fromkeys(memory_spec.token_names()), "<AE>", "<ENC>", "<SEP>", *memory_spec.extra_tokens]
        base = self._full.get_vocab_size(with_added_tokens=True)
        self._full.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
            [AddedToken(name, special=True, normalized=False) for name in added]
        )
        if self._full.get_vocab_size(with_added_tokens=True) != base + len(added):
            raise CheckpointError("tokenizer.json already holds CLaRa's tokens: this is not the base model's tokenizer")
        self.base_vocabulary_size, self.vocabulary_size = base, base + len(added)
        self.memory_ids = tuple(self._token_id(name) for name in memory_spec.token_names())
        self._memory_id_set = frozenset(self.memory_ids)
        self._special_ids = frozenset(
            key for key, token in self._full.get_added_tokens_decoder().items() if token.special
        )
        self.bos_id, self.eos_id, self.enc_id, self.sep_id = (
            self._token_id(name) for name in ("<s>", "</s>", "<ENC>", "<SEP>")
        )
        digest = hashlib.sha256()
        # In pieces: one call for the whole vocabulary would hold Python's interpreter lock for 0.2 s.
        for piece in json.JSONEncoder(sort_keys=True, ensure_ascii=True).iterencode([raw, added]):
            digest.update(piece.encode())
        self.revision = digest.hexdigest()[:16]

    @classmethod
    def from_file(cls, path: Path, memory_spec: MemoryTokenSpec) -> "ClaraTokenizer":
        """Read a base model's `tokenizer.json`. Raises `CheckpointError` naming a missing or unreadable file."""
        try:
            return cls(path.read_text(encoding="utf-8"), memory_spec)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except CheckpointError:
            raise
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer ({error})") from error

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of a text that follows a special token; `parse_special` reads special tokens, too."""
        if parse_special:
            return list(self._full.encode("<s>" + text, add_special_tokens=False).ids[1:])
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def token_spans(self, text: str) -> list[Span]:
        """Return the span of each token in a text."""
        return [Span(*span) for span in self._plain.encode(text, add_special_tokens=False).offsets]

    def cut_text(self, text: str, max_tokens: int) -> str:
        """Return the beginning of a text, with at most `max_tokens` tokens."""
        tokens = self.token_spans(text)
        return text if len(tokens) <= max_tokens else text[: tokens[max_tokens - 1].end]

    def build_encoder_row(self, text_ids: Sequence[int], limit: int) -> list[int]:
        """Return an encoder row: `<ENC><s>` text `</s>`, cut to `limit` ids, and the memory tokens."""
        body = [self.enc_id, self.bos_id, *text_ids, self.eos_id][:limit]
        if any(token in self._memory_id_set for token in body):
            raise ModelError('the text contains a memory token; escape it, or use special_text="plain"')
        return [*body, *self.memory_ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens; white space is kept."""
        return self._full.decode(list(ids), skip_special_tokens=True)

    def is_incomplete(self, token: int) -> bool:
        """Return True if the text of an id depends on the next one: a byte of a character, or a special token."""
        piece = self._full.id_to_token(token) or ""
        return token in self._special_ids or (len(piece) == 6 and piece.startswith("<0x"))

    def to_json(self) -> str:
        """Return a `tokenizer.json` with CLaRa's tokens in it."""
        return self._full.to_str()

    def _token_id(self, name: str) -> int:
        token = self._full.token_to_id(name)
        if token is None:
            raise CheckpointError(f"tokenizer.json has no {name} token")
        return token


def _upgrade_pipeline(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert the first revision of Mistral's tokenizer to CLaRa's; the vocabulary is the same."""
    normalizer: dict[str, Any] = raw.get("normalizer") or {}
    steps: list[dict[str, Any]] = [normalizer, *normalizer.get("normalizers", [])]
    raw = {**raw, "truncation": None, "padding": None}
    if not any(step.get("type") == "Prepend" for step in steps):
        return raw
    _log.warning("the base model's tokenizer.json is of the first revision; its pipeline is read as the current one")
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    return {**raw, "normalizer": None, "pre_tokenizer": metaspace}


def _remove_special_tokens(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the pipeline for text that follows a special token: no special tokens, and no space in front."""
    before: dict[str, Any] = raw.get("pre_tokenizer") or {}
    if before.get("type") == "Metaspace" and before.get("prepend_scheme") == "first":
        before = {**before, "prepend_scheme": "never"}
    return {**raw, "added_tokens": [], "post_processor": None, "pre_tokenizer": before or None}
