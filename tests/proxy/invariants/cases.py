"""The protocols as cases of the tests of invariants, and what these tests share."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson
from hypothesis import settings
from hypothesis import strategies as st

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.compression.transcript import Turn
from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.protocol_bodies import as_chat, as_messages, as_responses
from clara_proxy.tests.proxy.inprocess import (
    JSON_STYLES,
    InProcessProxy,
    SentRequest,
    message_list_bytes,
    whole_request_settings,
)
from clara_proxy.tests.proxy.invariants.compressors import long_chat
from clara_proxy.tests.proxy.invariants.messages_bodies import messages_bodies
from clara_proxy.tests.proxy.invariants.responses_bodies import responses_bodies

few_examples = settings(whole_request_settings, max_examples=10)  # on each of three protocols
LOW_MINIMUM = {"x-clara-min-tokens": "60"}
SHELL_TOOL = {"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}
json_styles = st.sampled_from(JSON_STYLES)
option_headers = st.fixed_dictionaries(
    {"x-clara-min-tokens": st.sampled_from(["1", "20", "100", "400"])},
    optional={
        "x-clara-ratio": st.sampled_from(["1", "2.5x", "10", "1000"]),
        "x-clara-budget": st.sampled_from(["1", "300", "3000"]),
        "x-clara-roles": st.sampled_from(["tool", "user", "tool, assistant", ""]),
        "x-clara-query": st.sampled_from(["which worker timed out?", "漢字", ""]),
        "x-clara-retrieve": st.sampled_from(["url", "none"]),
        "x-clara-mode": st.sampled_from(["auto", "extract", "answer", "summary", "prune"]),
    },
)


class Protocol(NamedTuple):
    """One protocol: its adapter, the key of its list of messages, and strategies for its bodies."""

    adapter: ProtocolAdapter
    list_key: str
    convert: Callable[[Json], Json]  # from a chat request
    bodies: st.SearchStrategy[Json]
    untagged_bodies: st.SearchStrategy[Json]  # without the tags that the proxy removes


class ProtocolCase(NamedTuple):
    """A protocol with two proxies: one offers the hidden tool, and one does not."""

    protocol: Protocol
    plain: InProcessProxy
    offering: InProcessProxy

    def convert(self, conversation: Json) -> Json:
        """Return a chat request as a body of this protocol."""
        return self.protocol.convert(conversation)

    def build_body(self, tool_output: str) -> Json:
        """Return a body with one tool output."""
        conversation = long_chat()
        conversation["messages"][-1]["content"] = tool_output
        return self.convert(add_tools(conversation))

    def list_turns(self, body: Json) -> list[Turn]:
        """Return the turns of a body."""
        conversation = self.protocol.adapter.read_conversation(body)
        assert conversation is not None
        return conversation.turns()

    def list_texts(self, body: Json) -> list[str]:
        """Return the texts of a body that may be compressed, in order."""
        return [slot.text for turn in self.list_turns(body) for slot in turn.slots]

    def iter_changes(self, before: Json, forwarded: bytes) -> Iterator[tuple[str, str]]:
        """Yield the texts that changed, before and after."""
        for text, new_text in zip(self.list_texts(before), self.list_texts(orjson.loads(forwarded)), strict=True):
            if text != new_text:
                yield text, new_text

    def blank_texts(self, body: Json) -> Json:
        """Return a copy of a body in which every text that may be compressed is empty."""
        blank: Json = copy.deepcopy(body)
        for turn in self.list_turns(body):
            for slot in turn.slots:
                parent: Any = blank
                for key in slot.path[:-1]:
                    parent = parent[key]
                parent[slot.path[-1]] = ""
        return blank

    def count_tokens(self, body: Json) -> int:
        """Return the tokens of a body."""
        return count_tokens(self.protocol.adapter, body)

    def check_row(self, sent: SentRequest, before: Json) -> None:
        """Check that the ledger row adds up and agrees with a second count."""
        check_row(self.protocol.adapter, sent, before)

    def cut(self, body: Json, length: int) -> Json:
        """Return a body with the first messages only."""
        return {**body, self.protocol.list_key: body[self.protocol.list_key][:length]}

    def count_messages(self, body: Json) -> int:
        """Return the number of messages or items of a body."""
        return len(body[self.protocol.list_key])

    def list_bytes(self, sent: SentRequest) -> bytes:
        """Return the bytes of the forwarded messages without the closing bracket."""
        return message_list_bytes(sent.forwarded, self.protocol.list_key)


PROTOCOLS: dict[str, Protocol] = {
    "chat": Protocol(chat.ADAPTER, "messages", as_chat, chats(), chats(tags=False)),
    "responses": Protocol(responses.ADAPTER, "input", as_responses, responses_bodies(), responses_bodies()),
    "messages": Protocol(messages.ADAPTER, "messages", as_messages, messages_bodies(), messages_bodies()),
}


def count_tokens(adapter: ProtocolAdapter, body: Json) -> int:
    """Return the tokens of a body."""
    conversation = adapter.read_conversation(body)
    assert conversation is not None
    counter = get_token_counter(body["model"])
    return conversation.overhead_tokens + sum(map(counter.count, conversation.texts()))


def check_row(adapter: ProtocolAdapter, sent: SentRequest, before: Json) -> None:
    """Check that the ledger row adds up and agrees with a second count."""
    assert accounting.find_inconsistencies(sent.row) == []
    assert sent.row.tokens_received == count_tokens(adapter, before)
    assert sent.row.tokens_sent == count_tokens(adapter, orjson.loads(sent.forwarded))
    assert sent.row.tokens_estimated == (not get_token_counter(before["model"]).is_exact)


def add_tools(conversation: Json) -> Json:
    """Return a chat request with a tool."""
    return {**conversation, "tools": [SHELL_TOOL]}


def is_pruned(sent: SentRequest) -> bool:
    """Return True if this request rewrites the prompt before it, as a pruning point does."""
    return sent.context.prompt_diff is not None and sent.context.prompt_diff.is_rewritten
