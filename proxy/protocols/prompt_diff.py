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
from ..stores.baseline import PromptPart, Prompt
from .json_edit import NO_CHANGES, BodyChanges, StringEdit, Path, ArrayEdit


class PromptDiff:
    """One request's conversation, and what was changed of it."""

    def __init__(self, wire: ProtocolAdapter, body: Json) -> None:
        self._wire, self._body = wire, body
        self.is_rewritten = False  # whether something was shortened now that an earlier prompt still had whole
        self._edits: Mapping[Path, StringEdit] = {}
        self._added: BodyChanges = NO_CHANGES
        self._received = self._sent = 0

    def record_changes(self, edits: Mapping[Path, StringEdit], added: BodyChanges, received: int, sent: int) -> None:
        """Note what was changed, and how many tokens came and were sent in all."""
        self._edits, self._added, self._received, self._sent = edits, added, received, sent

    def build_prompt(self, counted: TokenCounter) -> Prompt:
        """Return the prompt in tokens of this vocabulary."""
        return Prompt(
            received=self._received,
            sent=self._sent,
            is_exact=counted.is_exact,
            iter_parts=partial(self._parts, counted),
            has_breakpoints=_is_marked(self._body) if self._wire.is_anthropic else None,
            is_rewritten=self.is_rewritten,
        )

    def _parts(self, counted: TokenCounter) -> Iterator[PromptPart]:
        listed = self._elements()
        grown, between = self._grown(counted), self._between(counted)
        for index in reversed(range(len(listed))):
            received, begins = token_counts.count_elements(self._wire, [listed[index]], counted), _begins(listed, index)
            yield PromptPart(received, received + grown.get(index, 0), begins)
            if index in between:
                yield PromptPart(0, between[index], begins)

    def _grown(self, counted: TokenCounter) -> Counter[int]:
        """Return by how many tokens elements grew, or shrank below nought."""
        grown: Counter[int] = Counter()
        for path, tokens in token_counts.count_edits({**self._added.string_edits, **self._edits}, counted).items():
            grown[_index(path)] += tokens
        for path, weave in self._added.array_edits.items():
            for woven in weave.insertions.values() if len(path) > 1 and path[0] == self._wire.elements_key else ():
                grown[_index(path)] += token_counts.count_insertions(self._wire, path, woven, counted)
        return grown

    def _between(self, counted: TokenCounter) -> dict[int, int]:
        """Return how many tokens were put before an element."""
        path = (self._wire.elements_key,)
        weave = self._added.array_edits.get(path, ArrayEdit())
        return {
            place: token_counts.count_insertions(self._wire, path, woven, counted)
            for place, woven in weave.insertions.items()
            if woven
        }

    def _elements(self) -> list[Json]:
        found = self._body[self._wire.elements_key]
        return found if is_array(found) else [{"role": "user", "content": found}]


def _index(path: Path) -> int:
    return cast("int", path[1]) if len(path) > 1 else 0  # an input that is a text is one element


def _begins(listed: list[Json], index: int) -> bool:
    return index > 0 and _is_models(listed[index]) and not _is_models(listed[index - 1])


def _is_models(element: Json) -> bool:
    kind = str(element.get("type"))
    return element.get("role") == "assistant" or kind == "reasoning" or kind.endswith("_call")


def _is_marked(body: Json) -> bool:
    """Say whether a request names a place up to which it is to be cached."""
    contents = [one.get("content") for one in body["messages"]]
    within = (block for part in (body.get("tools"), body.get("system"), *contents) if is_array(part) for block in part)
    return "cache_control" in body or any(is_object(block) and "cache_control" in block for block in within)
