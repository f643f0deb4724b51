"""Classifies misses of the provider's prompt cache: the live check of the prefix invariant.

The detector remembers hashes of the conversations of recent requests, as received and as sent, and the number of
tokens in the provider's cache. If the next request of a conversation reads fewer tokens from the cache, the hashes tell
a change by the proxy from others. Each process knows its own requests only: without an earlier one there is no verdict.
"""

from collections.abc import Iterator
from time import monotonic
from typing import NamedTuple

from cachetools import LRUCache

from ...config.prices import Price
from ..protocols.prompt_diff import PromptDiff
from ..stores.baseline import CACHE_STEP_TOKENS, MIN_CACHED_TOKENS
from ..stores.ledger_row import CacheMiss
from ..stores.reply_bill import Bill
from ..stores.usage import Usage

MAX_CONVERSATIONS = 4096
MINUTE, HOUR = 60, 3600
TOLERANCE_TOKENS = 2 * CACHE_STEP_TOKENS  # providers round the end of a cached prefix down
# Reasons of Anthropic and OpenAI that name what the proxy never changes, and those that name nothing.
_CLIENT_REASONS = frozenset({"model_changed", "system_changed", "instructions_changed", "settings_changed"})
_UNKNOWN_REASONS = frozenset({"previous_message_not_found", "comparison_response_not_found", "unavailable"})


class _Record(NamedTuple):
    """An earlier prompt: the hash of the sent text, the time, the cached tokens, and their lifetime in seconds."""

    sent_hash: bytes
    time: float
    cached_tokens: int
    lifetime: float


class CacheMissDetector:
    """Classifies cache misses of one protocol. `scope` separates clients, whose caches the provider separates, too."""

    def __init__(self) -> None:
        self._records: LRUCache[bytes, _Record] = LRUCache(MAX_CONVERSATIONS)

    def classify(self, scope: str, prompt: PromptDiff, bill: Bill, price: Price) -> CacheMiss:
        """Return why the cache missed, or an empty string if it did not, and remember the prompt."""
        readings = [reading.usage for reading in bill.readings if not reading.model]
        reason = bill.facts.cache_miss_reason
        if not readings or (readings[0].cache_read is None and not reason):
            return ""
        hashes = list(prompt.hash_prefixes(scope))
        record, sent_hash = next(self._find_records(hashes[:-1]), (None, b""))
        is_changed = record is not None and record.sent_hash != sent_hash
        verdict = _judge(readings[0], record, is_changed=is_changed)
        if reason:
            verdict = _judge_reason(reason, verdict, is_changed=is_changed or prompt.is_pruned)
        self._remember(hashes[-1], readings[0], bill, price, is_anthropic=prompt.is_anthropic)
        return verdict

    def _find_records(self, hashes: list[tuple[bytes, bytes]]) -> Iterator[tuple[_Record, bytes]]:
        """Yield the earlier prompts that this conversation continues, the latest first, with the hash as sent now."""
        for received_hash, sent_hash in reversed(hashes):
            if (record := self._records.get(received_hash)) is not None:
                yield record, sent_hash

    def _remember(
        self, hashes: tuple[bytes, bytes], usage: Usage, bill: Bill, price: Price, *, is_anthropic: bool
    ) -> None:
        received_hash, sent_hash = hashes
        written = usage.cache_write or 0
        # Providers without a price for writes cache each prompt on their own, and do not report it.
        is_implicit = not is_anthropic and not written and (price.cache_write or 0) <= (price.input or 0)
        cached = usage.input or 0 if is_implicit else (usage.cache_read or 0) + written
        if bill.facts.cleared_tokens or cached < (price.min_cacheable_tokens or MIN_CACHED_TOKENS):
            cached = 0
        lifetime = _find_lifetime(usage, price, is_anthropic=is_anthropic)
        self._records[received_hash] = _Record(sent_hash, monotonic(), cached, lifetime)


def _judge(usage: Usage, record: _Record | None, *, is_changed: bool) -> CacheMiss:
    if record is None or usage.cache_read is None or usage.cache_read + TOLERANCE_TOKENS >= record.cached_tokens:
        return ""
    if is_changed:
        return "ours"
    return "expired" if monotonic() - record.time > record.lifetime else "theirs"


def _judge_reason(reason: str, verdict: CacheMiss, *, is_changed: bool) -> CacheMiss:
    """Return the verdict if the provider gives a reason. What it says about messages and tools may be our change."""
    if reason in _CLIENT_REASONS:
        return "theirs"
    if verdict:
        return verdict
    if is_changed:
        return "ours"
    return "unknown" if reason in _UNKNOWN_REASONS or not reason.endswith("_changed") else "theirs"


def _find_lifetime(usage: Usage, price: Price, *, is_anthropic: bool) -> float:
    """Return for how many seconds the provider keeps an entry at least."""
    if usage.cache_write_12h:
        return 12 * HOUR
    if usage.cache_write_hour:
        return HOUR
    return 30 * MINUTE if not is_anthropic and price.cache_write_12h else 5 * MINUTE
