"""The changes of one prompt: its elements in tokens, as received and as sent.

The report on the bill needs the position where the provider's cache ended, which in a growing conversation is near the
end. So tokens are counted only on demand, from the end on, as far as needed. This module knows no prices and no usage;
`baseline` does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

from ...compression.tokens import TokenCounter
from ..stores.baseline import Prompt, PromptPart
from . import token_counts
from .json_edit import NO_CHANGES, ArrayEdit, BodyChanges, Path, StringEdit
from .json_types import Json, is_array, is_object
from .protocol import ProtocolAdapter


class PromptDiff:
    """One request's conversation and its changes."""

    def __init__(self, adapter: ProtocolAdapter, body: Json) -> None:
        self._adapter, self._body = adapter, body
        self.is_rewritten = False  # True if compression changed text that an earlier prompt held in full
        self._edits: Mapping[Path, StringEdit] = {}
        self._tool_changes: BodyChanges = NO_CHANGES
        self._received_tokens = self._sent_tokens = 0

    def record_changes(
        self, edits: Mapping[Path, StringEdit], tool_changes: BodyChanges, received_tokens: int, sent_tokens: int
    ) -> None:
        """Record the compressed strings, the changes for the expand tool, and the total tokens before and after."""
        self._edits, self._tool_changes = edits, tool_changes
        self._received_tokens, self._sent_tokens = received_tokens, sent_tokens

    def build_prompt(self, vocabulary: TokenCounter) -> Prompt:
        """Return the prompt in tokens of this vocabulary."""
        return Prompt(
            received=self._received_tokens,
            sent=self._sent_tokens,
            is_exact=vocabulary.is_exact,
            iter_parts=partial(self._iter_parts, vocabulary),
            has_breakpoints=_has_cache_control(self._body) if self._adapter.is_anthropic else None,
            is_rewritten=self.is_rewritten,
        )

    def _iter_parts(self, vocabulary: TokenCounter) -> Iterator[PromptPart]:
        elements = self._list_elements()
        growth, insertions = self._count_growth(vocabulary), self._count_insertions(vocabulary)
        for index in reversed(range(len(elements))):
            received = token_counts.count_elements(self._adapter, [elements[index]], vocabulary)
            starts_model_turn = _starts_model_turn(elements, index)
            yield PromptPart(received, received + growth.get(index, 0), starts_model_turn)
            if index in insertions:
                yield PromptPart(0, insertions[index], starts_model_turn)

    def _count_growth(self, vocabulary: TokenCounter) -> Counter[int]:
        """Return by how many tokens each element grew, negative if it shrank."""
        growth: Counter[int] = Counter()
        edits = {**self._tool_changes.string_edits, **self._edits}
        for path, tokens in token_counts.count_edits(edits, vocabulary).items():
            growth[_get_element_index(path)] += tokens
        for path, edit in self._tool_changes.array_edits.items():
            if len(path) > 1 and path[0] == self._adapter.elements_key:
                growth[_get_element_index(path)] += sum(
                    token_counts.count_insertions(self._adapter, path, parts, vocabulary)
                    for parts in edit.insertions.values()
                )
        return growth

    def _count_insertions(self, vocabulary: TokenCounter) -> dict[int, int]:
        """Return the number of tokens inserted before each element."""
        path = (self._adapter.elements_key,)
        edit = self._tool_changes.array_edits.get(path, ArrayEdit())
        return {
            index: token_counts.count_insertions(self._adapter, path, elements, vocabulary)
            for index, elements in edit.insertions.items()
            if elements
        }

    def _list_elements(self) -> list[Json]:
        elements = self._body[self._adapter.elements_key]
        return elements if is_array(elements) else [{"role": "user", "content": elements}]


def _get_element_index(path: Path) -> int:
    return cast("int", path[1]) if len(path) > 1 else 0  # an input that is a text is one element


def _starts_model_turn(elements: list[Json], index: int) -> bool:
    return index > 0 and _is_from_model(elements[index]) and not _is_from_model(elements[index - 1])


def _is_from_model(element: Json) -> bool:
    element_type = str(element.get("type"))
    return element.get("role") == "assistant" or element_type == "reasoning" or element_type.endswith("_call")


def _has_cache_control(body: Json) -> bool:
    """Return True if a request marks an end of its cached prefix."""
    contents = [message.get("content") for message in body["messages"]]
    parts = (part for part in (body.get("tools"), body.get("system"), *contents) if is_array(part))
    blocks = (block for part in parts for block in part)
    return "cache_control" in body or any(is_object(block) and "cache_control" in block for block in blocks)
