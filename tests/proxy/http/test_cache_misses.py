from typing import Any

import pytest

from clara_proxy.compression.transcript import TextSlot
from clara_proxy.config.prices import Price
from clara_proxy.proxy.http import cache_misses
from clara_proxy.proxy.http.cache_misses import CacheMissDetector
from clara_proxy.proxy.protocols import chat, messages
from clara_proxy.proxy.protocols.json_edit import NO_CHANGES, StringEdit
from clara_proxy.proxy.protocols.prompt_diff import PromptDiff
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.proxy.stores.reply_bill import Bill, Reading, ReplyFacts
from clara_proxy.proxy.stores.usage import Usage

PRICE = Price(input=5e-6, output=25e-6, cache_read=5e-7, cache_write=6e-6)
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "because"},
    {"role": "user", "content": "and a long text"},
    {"role": "assistant", "content": "I see"},
    {"role": "user", "content": "now?"},
]


class Conversation:
    """Requests that grow along the history, at a detector."""

    def __init__(self, adapter: ProtocolAdapter = messages.ADAPTER, price: Price = PRICE) -> None:
        self.detector, self.adapter, self.price = CacheMissDetector(), adapter, price

    def ask(self, length: int, read: int | None, write: int = 0, *, reason: str = "", **changes: Any) -> str:
        """Send the first messages; `new` replaces the text of the third one, `history` all of them."""
        history = changes.get("history", HISTORY)[:length]
        body = {"model": changes.get("model", "m"), "messages": history, "max_tokens": 1}
        diff = PromptDiff(self.adapter, body)
        if "new" in changes:
            slot = TextSlot(("messages", 2, "content"), history[2]["content"])
            diff.record_changes({slot.path: StringEdit(slot.text, changes["new"])}, NO_CHANGES, 10, 9)
        usage = Usage(8_000 + 100 * length, 5, None, read, write)
        bill = Bill((Reading(0, "message", "", usage),), facts=ReplyFacts(cache_miss_reason=reason))
        return self.detector.classify("key", diff, bill, self.price)


def test_a_growing_conversation_has_no_miss() -> None:
    conversation = Conversation()
    assert [conversation.ask(1, 0, 8_000), conversation.ask(3, 8_000, 300), conversation.ask(5, 8_300)] == ["", "", ""]


def test_a_changed_prefix_is_our_miss() -> None:
    conversation = Conversation()
    conversation.ask(3, 0, 8_300)
    assert conversation.ask(5, 0, 8_500, new="short") == "ours"
    assert conversation.ask(5, 8_500, new="short") == ""


def test_a_dropped_entry_is_theirs_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(cache_misses, "monotonic", lambda: now[0])
    conversation = Conversation()
    conversation.ask(3, 0, 8_300)
    now[0] = 299.0
    assert conversation.ask(5, 0) == "theirs"
    now[0] = 301.0
    assert conversation.ask(5, 0) == "expired"


def test_what_the_client_changed_is_unknown_here() -> None:
    conversation = Conversation()
    conversation.ask(3, 0, 8_300)
    edited = [{"role": "user", "content": "something else"}, *HISTORY[1:]]
    assert conversation.ask(5, 0, history=edited) == ""
    assert conversation.ask(5, 0, model="another") == ""


@pytest.mark.parametrize(
    ("reason", "new", "expected"),
    [
        ("messages_changed", "short", "ours"),
        ("tools_changed", None, "theirs"),
        ("system_changed", "short", "theirs"),
        ("model_changed", None, "theirs"),
        ("unavailable", None, "theirs"),  # the usage shows a miss, and nothing has changed
        ("previous_message_not_found", "short", "ours"),
    ],
)
def test_the_reason_of_the_provider_is_used(reason: str, new: str | None, expected: str) -> None:
    conversation = Conversation()
    conversation.ask(3, 0, 8_300)
    changes: dict[str, Any] = {} if new is None else {"new": new}
    assert conversation.ask(5, 0, reason=reason, **changes) == expected


@pytest.mark.parametrize(
    ("reason", "expected"), [("unavailable", "unknown"), ("system_changed", "theirs"), ("something_new", "unknown")]
)
def test_a_reason_without_an_earlier_request(reason: str, expected: str) -> None:
    assert Conversation().ask(5, 0, reason=reason) == expected


def test_implicit_caches_are_checked_and_silent_ones_are_not() -> None:
    free = Price(input=2e-6, output=8e-6, cache_read=1e-6, cache_write=2e-6)
    conversation = Conversation(chat.ADAPTER, free)
    assert [conversation.ask(3, 0), conversation.ask(5, 8_192)] == ["", ""]
    conversation = Conversation(chat.ADAPTER, free)
    assert [conversation.ask(3, 0), conversation.ask(5, 1_024)] == ["", "theirs"]
    conversation = Conversation(chat.ADAPTER, free)
    assert [conversation.ask(3, 0), conversation.ask(5, None)] == ["", ""]
