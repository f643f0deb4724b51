"""The changes of one prompt: its elements in tokens, as received and as sent.

The report on the bill needs the position where the provider's cache ended, which in a growing conversation is near the
end. So tokens are counted only on demand, from the end on, as far as needed. This module knows no prices and no usage;
`baseline` does.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import cast

import orjson

from ...compression.memo import Memo
from ...compression.tokens import TokenCounter
from ..stores.baseline import Prompt, PromptPart
from ..stores.reply_bill import ReplyFacts
from . import compaction, json_codec, token_counts
from .json_edit import NO_CHANGES, ArrayEdit, BodyChanges, Path, StringEdit
from .json_types import Json, is_array, is_object
from .protocol import ProtocolAdapter

MEMO_SIZE = 100_000  # elements remembered with their hashes, of 16 bytes
NO_FACTS, NO_PART = ReplyFacts(), PromptPart(0, 0, starts_reply=False)


class PromptDiff:
    """One request's conversation and its changes."""

    def __init__(self, adapter: ProtocolAdapter, body: Json) -> None:
        self._adapter, self._body = adapter, body
        self.element_texts: Sequence[bytes] = ()  # the JSON texts of all elements, if they are known
        self.is_pruned = False  # True if compression changed text that an earlier prompt held in full
        self._edits: Mapping[Path, StringEdit] = {}
        self._tool_changes: BodyChanges = NO_CHANGES
        self._received_tokens = self._sent_tokens = 0

    def record_changes(
        self, edits: Mapping[Path, StringEdit], tool_changes: BodyChanges, received_tokens: int, sent_tokens: int
    ) -> None:
        """Record the compressed strings, the changes for the expand tool, and the total tokens before and after."""
        self._edits, self._tool_changes = edits, tool_changes
        self._received_tokens, self._sent_tokens = received_tokens, sent_tokens

    def build_prompt(self, vocabulary: TokenCounter, facts: ReplyFacts = NO_FACTS) -> Prompt:
        """Return the prompt in tokens of this vocabulary, without the tool results that the provider has cleared."""
        cleared = self._count_cleared(vocabulary, facts.cleared_tool_uses or 0)
        return Prompt(
            received=self._received_tokens - sum(part.received for part in cleared.values()),
            sent=self._sent_tokens - sum(part.sent for part in cleared.values()),
            is_exact=vocabulary.is_exact,
            iter_parts=partial(self._iter_parts, vocabulary, cleared),
            has_breakpoints=_has_cache_control(self._body) if self._adapter.is_anthropic else None,
            is_rewritten=self.is_pruned,
            cleared_billed=facts.cleared_tokens,
            cleared_sent=sum(part.sent for part in cleared.values()),
            tool_tokens=self._count_tools(vocabulary),
            may_be_cut=bool(facts.cleared_tokens) or _may_be_cut(self._body),
        )

    @property
    def is_anthropic(self) -> bool:
        """Return True if the request went to the Anthropic upstream."""
        return self._adapter.is_anthropic

    @property
    def is_rewritten(self) -> bool:
        """Return True if text differs from the previous prompt: it was pruned, or the provider has compacted it."""
        if self.is_pruned:
            return True
        elements = self._list_elements()
        start = compaction.find_read_start(elements)
        if start == compaction.ReadStart():
            return False
        replies = [index for index in range(len(elements)) if _starts_model_turn(elements, index)]
        return start.element >= max(replies, default=0) - 1

    def hash_prefixes(self, scope: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield hashes of the conversation as received and as sent, at the ends of earlier prompts and at its own end.

        `scope` belongs to both hashes. Elements that the provider does not read any more end no prompt.
        """
        elements = self._list_elements()
        start = compaction.find_read_start(elements).element
        head = {name: self._body.get(name) for name in ("model", "tools", "system", "instructions")}
        received = blake2b(json_codec.dumps_canonical([scope, head]), digest_size=16)
        sent = received.copy()
        changes = _group_changes(self._edits, self._tool_changes)
        sent.update(repr(changes.pop(None, [])).encode("utf-8", "surrogatepass"))
        for index, element in enumerate(elements):
            if index > start and _starts_model_turn(elements, index):
                yield received.digest(), sent.digest()
            digest = self._digest_element(index, element)
            received.update(digest)
            sent.update(digest)
            if index in changes:
                sent.update(b"".join(map(_encode_change, changes[index])))
        yield received.digest(), sent.digest()

    def _digest_element(self, index: int, element: Json) -> bytes:
        """Return a hash of an element, from memory if it was in an earlier request."""
        if index < len(self.element_texts):
            return _get_digest_memo(self._adapter)(self.element_texts[index])
        return _digest_element(self._adapter, element)

    def _count_tools(self, vocabulary: TokenCounter) -> int:
        """Return the tokens of tools that the proxy adds."""
        path = ("tools",)
        insertions = self._tool_changes.array_edits.get(path, ArrayEdit()).insertions.values()
        return sum(token_counts.count_insertions(self._adapter, path, tools, vocabulary) for tools in insertions)

    def _count_cleared(self, vocabulary: TokenCounter, tool_uses: int) -> dict[int, PromptPart]:
        """Return the tokens of the oldest tool results by the index of their element, as received and as sent."""
        conversation = self._adapter.read_conversation(self._body) if tool_uses else None
        turns = [] if conversation is None else conversation.turns()
        results = [turn for turn in turns if turn.role == "tool" and turn.slots and not turn.is_compacted]
        cleared: dict[int, PromptPart] = {}
        for turn in results[:tool_uses]:
            index = _get_element_index(turn.slots[0].path)
            part = cleared.get(index, NO_PART)
            new_texts = [edit.new if (edit := self._edits.get(slot.path)) else slot.text for slot in turn.slots]
            received = part.received + sum(vocabulary.count(slot.text) for slot in turn.slots)
            cleared[index] = PromptPart(received, part.sent + sum(map(vocabulary.count, new_texts)), starts_reply=False)
        return cleared

    def _iter_parts(self, vocabulary: TokenCounter, cleared: Mapping[int, PromptPart]) -> Iterator[PromptPart]:
        elements = self._list_elements()
        start = compaction.find_read_start(elements).element
        growth, insertions = self._count_growth(vocabulary), self._count_insertions(vocabulary)
        for index in reversed(range(start, len(elements))):
            received = token_counts.count_elements(self._adapter, [elements[index]], vocabulary)
            starts_model_turn = _starts_model_turn(elements, index)
            gone = cleared.get(index, NO_PART)
            sent = received + growth.get(index, 0) - gone.sent
            yield PromptPart(received - gone.received, sent, starts_model_turn)
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


_digest_memos = dict[str, Memo[bytes, bytes]]()  # by the name of the protocol


def _get_digest_memo(adapter: ProtocolAdapter) -> Memo[bytes, bytes]:
    memo = _digest_memos.get(adapter.name)
    if memo is None:
        memo = Memo[bytes, bytes](lambda text: _digest_element(adapter, orjson.loads(text)), MEMO_SIZE)
        _digest_memos[adapter.name] = memo
    return memo


def _digest_element(adapter: ProtocolAdapter, element: Json) -> bytes:
    return blake2b(adapter.fingerprint_element(element) or b"", digest_size=16).digest()


def _group_changes(
    edits: Mapping[Path, StringEdit], tool_changes: BodyChanges
) -> dict[int | None, list[tuple[object, ...]]]:
    """Return the new texts and the insertions by the index of their element; None stands for what precedes them."""
    changes: dict[int | None, list[tuple[object, ...]]] = {}
    for path, edit in sorted({**tool_changes.string_edits, **edits}.items(), key=_sort_by_path):
        changes.setdefault(_get_element_index(path), []).append((path, edit.new))
    for path, array_edit in sorted(tool_changes.array_edits.items(), key=_sort_by_path):
        for position, elements in sorted(array_edit.insertions.items(), key=repr):
            is_head = path == ("tools",)
            index = None if is_head else _get_element_index(path) if len(path) > 1 else position
            changes.setdefault(index, []).append((path, position, elements))
    return changes


def _encode_change(change: tuple[object, ...]) -> bytes:
    """Return a path with its new text, or with what is inserted there, as bytes of a known length."""
    parts = [part if isinstance(part, str) else repr(part) for part in change]  # repr of a long text takes long
    return b"".join(b"%d %b" % (len(text), text) for text in (part.encode("utf-8", "surrogatepass") for part in parts))


def _sort_by_path(change: tuple[Path, object]) -> str:
    return repr(change[0])


def _get_element_index(path: Path) -> int:
    return cast("int", path[1]) if len(path) > 1 else 0  # an input that is a text is one element


def _starts_model_turn(elements: list[Json], index: int) -> bool:
    return index > 0 and _is_from_model(elements[index]) and not _is_from_model(elements[index - 1])


def _is_from_model(element: Json) -> bool:
    element_type = str(element.get("type"))
    return element.get("role") == "assistant" or element_type == "reasoning" or element_type.endswith("_call")


def _may_be_cut(body: Json) -> bool:
    """Return True if a request lets the provider leave out parts of the conversation."""
    return bool(body.get("context_management")) or body.get("truncation") == "auto"


def _has_cache_control(body: Json) -> bool:
    """Return True if a request marks an end of its cached prefix."""
    contents = [message.get("content") for message in body["messages"]]
    parts = (part for part in (body.get("tools"), body.get("system"), *contents) if is_array(part))
    blocks = (block for part in parts for block in part)
    return "cache_control" in body or any(is_object(block) and "cache_control" in block for block in blocks)
