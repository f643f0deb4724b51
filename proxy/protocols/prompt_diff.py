"""Where in a prompt something was changed: its elements in tokens, as they came and as they were sent.

Nothing is counted until somebody asks, and then from the end on only as far as is needed: what is asked for is where
the provider's cache ended, which in a conversation that grows is near the end. Knows of no bill; `counterfactual` does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

from ...compression.tokens import TokenCounter
from ..protocols import token_counts
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import ProtocolAdapter
from ..stores.baseline import Prompt, PromptPart
from .json_edit import NO_CHANGES, ArrayEdit, BodyChanges, Path, StringEdit


class PromptDiff:
    """One request's conversation, and what was changed of it."""

    def __init__(self, adapter: ProtocolAdapter, body: Json) -> None:
        self._adapter, self._body = adapter, body
        self.is_rewritten = False  # whether something was shortened now that an earlier prompt still had whole
        self._edits: Mapping[Path, StringEdit] = {}
        self._tool_changes: BodyChanges = NO_CHANGES
        self._received_tokens = self._sent_tokens = 0

    def record_changes(
        self, edits: Mapping[Path, StringEdit], tool_changes: BodyChanges, received_tokens: int, sent_tokens: int
    ) -> None:
        """Note what was changed, and how many tokens came and were sent in all."""
        self._edits, self._tool_changes, self._received_tokens, self._sent_tokens = (
            edits,
            tool_changes,
            received_tokens,
            sent_tokens,
        )

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
        listed = self._list_elements()
        grown, between = self._count_growth(vocabulary), self._count_insertions(vocabulary)
        for index in reversed(range(len(listed))):
            received, begins = (
                token_counts.count_elements(self._adapter, [listed[index]], vocabulary),
                _starts_model_turn(listed, index),
            )
            yield PromptPart(received, received + grown.get(index, 0), begins)
            if index in between:
                yield PromptPart(0, between[index], begins)

    def _count_growth(self, vocabulary: TokenCounter) -> Counter[int]:
        """Return by how many tokens elements grew, or shrank below nought."""
        grown: Counter[int] = Counter()
        for path, tokens in token_counts.count_edits(
            {**self._tool_changes.string_edits, **self._edits}, vocabulary
        ).items():
            grown[_get_element_index(path)] += tokens
        for path, weave in self._tool_changes.array_edits.items():
            for woven in weave.insertions.values() if len(path) > 1 and path[0] == self._adapter.elements_key else ():
                grown[_get_element_index(path)] += token_counts.count_insertions(self._adapter, path, woven, vocabulary)
        return grown

    def _count_insertions(self, vocabulary: TokenCounter) -> dict[int, int]:
        """Return how many tokens were put before an element."""
        path = (self._adapter.elements_key,)
        weave = self._tool_changes.array_edits.get(path, ArrayEdit())
        return {
            place: token_counts.count_insertions(self._adapter, path, woven, vocabulary)
            for place, woven in weave.insertions.items()
            if woven
        }

    def _list_elements(self) -> list[Json]:
        found = self._body[self._adapter.elements_key]
        return found if is_array(found) else [{"role": "user", "content": found}]


def _get_element_index(path: Path) -> int:
    return cast("int", path[1]) if len(path) > 1 else 0  # an input that is a text is one element


def _starts_model_turn(listed: list[Json], index: int) -> bool:
    return index > 0 and _is_from_model(listed[index]) and not _is_from_model(listed[index - 1])


def _is_from_model(element: Json) -> bool:
    kind = str(element.get("type"))
    return element.get("role") == "assistant" or kind == "reasoning" or kind.endswith("_call")


def _has_cache_control(body: Json) -> bool:
    """Say whether a request names a place up to which it is to be cached."""
    contents = [one.get("content") for one in body["messages"]]
    within = (block for part in (body.get("tools"), body.get("system"), *contents) if is_array(part) for block in part)
    return "cache_control" in body or any(is_object(block) and "cache_control" in block for block in within)
