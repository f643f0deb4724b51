"""Where in a prompt something was changed: its elements in tokens, as they came and as they were sent.

Nothing is counted until somebody asks, and then from the end on only as far as is needed: what is asked for is where
the provider's cache ended, which in a conversation that grows is near the end. Knows of no bill; `counterfactual` does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

from ...compression.tokens import Vocabulary
from ..protocols import token_counts
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import Wire
from ..stores.baseline import Part, Prompt
from .json_edit import NO_CHANGES, Changes, Edit, Path, Weave


class Layout:
    """One request's conversation, and what was changed of it."""

    def __init__(self, wire: Wire, body: Json) -> None:
        self._wire, self._body = wire, body
        self.rewritten = False  # whether something was shortened now that an earlier prompt still had whole
        self._edits: Mapping[Path, Edit] = {}
        self._added: Changes = NO_CHANGES
        self._received = self._sent = 0

    def changed(self, edits: Mapping[Path, Edit], added: Changes, received: int, sent: int) -> None:
        """Note what was changed, and how many tokens came and were sent in all."""
        self._edits, self._added, self._received, self._sent = edits, added, received, sent

    def prompt(self, counted: Vocabulary) -> Prompt:
        """Return the prompt in tokens of this vocabulary."""
        return Prompt(
            received=self._received,
            sent=self._sent,
            exact=counted.exact,
            parts=partial(self._parts, counted),
            marked=_is_marked(self._body) if self._wire.anthropic else None,
            rewritten=self.rewritten,
        )

    def _parts(self, counted: Vocabulary) -> Iterator[Part]:
        listed = self._elements()
        grown, between = self._grown(counted), self._between(counted)
        for index in reversed(range(len(listed))):
            received, begins = token_counts.elements(self._wire, [listed[index]], counted), _begins(listed, index)
            yield Part(received, received + grown.get(index, 0), begins)
            if index in between:
                yield Part(0, between[index], begins)

    def _grown(self, counted: Vocabulary) -> Counter[int]:
        """Return by how many tokens elements grew, or shrank below nought."""
        grown: Counter[int] = Counter()
        for path, tokens in token_counts.edited({**self._added.edits, **self._edits}, counted).items():
            grown[_index(path)] += tokens
        for path, weave in self._added.weaves.items():
            for woven in weave.into.values() if len(path) > 1 and path[0] == self._wire.elements else ():
                grown[_index(path)] += token_counts.woven(self._wire, path, woven, counted)
        return grown

    def _between(self, counted: Vocabulary) -> dict[int, int]:
        """Return how many tokens were put before an element."""
        path = (self._wire.elements,)
        weave = self._added.weaves.get(path, Weave())
        return {
            place: token_counts.woven(self._wire, path, woven, counted) for place, woven in weave.into.items() if woven
        }

    def _elements(self) -> list[Json]:
        found = self._body[self._wire.elements]
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
