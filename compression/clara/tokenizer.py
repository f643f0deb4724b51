"""Text to ids and back, in CLaRa's vocabulary; knows nothing of tensors.

Text is data: a document or a question that spells `<MEM0>`, `<SEP>` or `</s>` gets ordinary ids for those characters,
because text is tokenized by a second pipeline that has no special tokens at all. For text without such spellings the
ids are the ones the released models were trained on. Nothing here changes after construction, so threads may share it.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from .exceptions import CheckpointError, ClaraError

_log = logging.getLogger(__name__)


class Span(NamedTuple):
    """One token's place in its text, in characters: `text[start:end]`."""

    start: int
    end: int


class MemoryTokenSpec(NamedTuple):
    """How many memory tokens a document becomes, and how they are spelt."""

    memory_tokens: int
    is_distinct: bool = True
    extra_tokens: tuple[str, ...] = ()

    def token_names(self) -> list[str]:
        """Return the memory tokens' names in slot order; all alike when they are not distinct."""
        return [f"<MEM{index}>" if self.is_distinct else "<MEM>" for index in range(self.memory_tokens)]


class ClaraTokenizer:
    """The base model's tokenizer with CLaRa's tokens behind it.

    `memory` holds the ids of one document's memory tokens in order, `bos`, `eos`, `enc` and `sep` one id each, `size`
    the number of ids, and `revision` a hash that changes whenever any id could.
    """

    def __init__(self, tokenizer_json: str, layout: MemoryTokenSpec) -> None:
        raw: dict[str, Any] = _upgrade_pipeline(json.loads(tokenizer_json))
        self._full = Tokenizer.from_str(json.dumps(raw))
        self._plain = Tokenizer.from_str(json.dumps(_remove_special_tokens(raw)))
        self.memory_spec = layout
        added = [*dict.fromkeys(layout.token_names()), "<AE>", "<ENC>", "<SEP>", *layout.extra_tokens]
        base = self._full.get_vocab_size(with_added_tokens=True)
        self._full.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
            [AddedToken(name, special=True, normalized=False) for name in added]
        )
        if self._full.get_vocab_size(with_added_tokens=True) != base + len(added):
            raise CheckpointError("tokenizer.json already holds CLaRa's tokens: this is not the base model's tokenizer")
        self.base_vocabulary_size, self.vocabulary_size = base, base + len(added)
        self.memory_ids = tuple(self._token_id(name) for name in layout.token_names())
        self._memory_id_set = frozenset(self.memory_ids)
        self._special_ids = frozenset(
            key for key, token in self._full.get_added_tokens_decoder().items() if token.special
        )
        self.bos_id, self.eos_id, self.enc_id, self.sep_id = (
            self._token_id(name) for name in ("<s>", "</s>", "<ENC>", "<SEP>")
        )
        described = json.dumps([raw, added], sort_keys=True, ensure_ascii=True)
        self.revision = hashlib.sha256(described.encode()).hexdigest()[:16]

    @classmethod
    def from_file(cls, path: Path, layout: MemoryTokenSpec) -> "ClaraTokenizer":
        """Read a base model's `tokenizer.json`; a missing or unreadable file is a `CheckpointError` that names it."""
        try:
            return cls(path.read_text(encoding="utf-8"), layout)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except CheckpointError:
            raise
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer ({error})") from error

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Return the ids of a text as it stands behind a special token; `parse_special` only for comparisons."""
        if parse_special:
            return list(self._full.encode("<s>" + text, add_special_tokens=False).ids[1:])
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def token_spans(self, text: str) -> list[Span]:
        """Return where each token of a text stands in it."""
        return [Span(*span) for span in self._plain.encode(text, add_special_tokens=False).offsets]

    def find_special_tokens(self, text: str) -> list[str]:
        """Return the special tokens that a text spells, in no order."""
        return [token.content for token in self._full.get_added_tokens_decoder().values() if token.content in text]

    def build_encoder_row(self, text_ids: Sequence[int], limit: int) -> list[int]:
        """Return an encoder row: `<ENC><s>` text `</s>`, at most `limit` ids of these, then the memory tokens."""
        body = [self.enc_id, self.bos_id, *text_ids, self.eos_id][:limit]
        if any(token in self._memory_id_set for token in body):
            raise ClaraError("the text holds a memory token: escape it, or let it be read as plain text")
        return [*body, *self.memory_ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out, nothing stripped."""
        return self._full.decode(list(ids), skip_special_tokens=True)

    def is_incomplete(self, token: int) -> bool:
        """Say whether what an id means can still change with the next: a byte of a character, or nothing at all."""
        piece = self._full.id_to_token(token) or ""
        return token in self._special_ids or (len(piece) == 6 and piece.startswith("<0x"))

    def _token_id(self, name: str) -> int:
        token = self._full.token_to_id(name)
        if token is None:
            raise CheckpointError(f"tokenizer.json has no {name} token")
        return token


def _upgrade_pipeline(raw: dict[str, Any]) -> dict[str, Any]:
    """Bring the first revision of Mistral's tokenizer to the one CLaRa was trained with; the vocabulary is the same."""
    normalizer: dict[str, Any] = raw.get("normalizer") or {}
    steps: list[dict[str, Any]] = [normalizer, *normalizer.get("normalizers", [])]
    raw = {**raw, "truncation": None, "padding": None}
    if not any(step.get("type") == "Prepend" for step in steps):
        return raw
    _log.warning("the base model's tokenizer.json is of the first revision; its pipeline is read as the current one")
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    return {**raw, "normalizer": None, "pre_tokenizer": metaspace}


def _remove_special_tokens(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the pipeline for text behind a special token: no special tokens, and no space put in front."""
    before: dict[str, Any] = raw.get("pre_tokenizer") or {}
    if before.get("type") == "Metaspace" and before.get("prepend_scheme") == "first":
        before = {**before, "prepend_scheme": "never"}
    return {**raw, "added_tokens": [], "post_processor": None, "pre_tokenizer": before or None}
