"""The baseline: the usage that a provider would have billed for the uncompressed request. Pure and without state.

The bill of the forwarded request reports how many tokens came from the provider's cache, that is, how much of the
prompt equals the beginning of an earlier one. Without the proxy the same messages would have been in the cache (the
prefix invariant). If the bill cannot tell, as for prompts below the minimum length of the cache, a prompt that
continues an earlier one counts as cached: the estimate errs against the proxy.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from .usage import Usage, estimate_12h_writes, estimate_hour_writes

MIN_CACHED_TOKENS, CACHE_STEP_TOKENS = 1024, 128  # OpenAI caches prompts of at least 1,024 tokens, in steps of 128
UNEXPLAINED_SHARE = 0.5  # of the tokens sent; a shorter bill is not explained by different vocabularies
_FRAMING_TOKENS = 8  # between the end of a message and the end of the prompt
_SCALE_RANGE = (0.5, 1.5)  # the model's tokens per token of a substitute vocabulary
_ESTIMATE_ERROR = 0.02  # relative error of a position counted with a substitute vocabulary


class PromptPart(NamedTuple):
    """The tokens of one element of a conversation, as received and as sent.

    `starts_reply`: a reply of the model begins with it, so an earlier prompt ended before it.
    """

    received: int
    sent: int
    starts_reply: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens of a prompt by our count, as received and as sent.

    `iter_parts` yields the elements from the last to the first; everything else (tools, instructions) comes before
    them. `is_exact`: the tokens were counted with the model's own vocabulary. `has_breakpoints`: the request marks what
    to cache (Anthropic); None if the provider decides. `is_rewritten`: an element is compressed now that was sent whole
    in an earlier prompt. `may_be_cut`: the provider may leave out elements (context editing, truncation).
    `cleared_billed` tokens of the provider's, and `cleared_sent` of ours, are cleared by it and in no other count.
    `tool_tokens` are those of the tool that the proxy adds before the conversation.
    """

    received: int
    sent: int
    is_exact: bool
    iter_parts: Callable[[], Iterator[PromptPart]]
    has_breakpoints: bool | None = None
    is_rewritten: bool = False
    may_be_cut: bool = False
    cleared_billed: int = 0
    cleared_sent: int = 0
    tool_tokens: int = 0


class _Position(NamedTuple):
    """A position in the prompt: the number of tokens before it, as sent and as received."""

    sent: float
    received: float


def estimate_baseline(
    usage: Usage,
    prompt: Prompt,
    *,
    has_cache_rate: bool,
    min_cached_tokens: int | None = None,
) -> Usage:
    """Return the usage of the prompt as received; its output is that of the bill.

    Args:
        usage: the bill of the prompt as sent. Without its `input` nothing is known.
        prompt: our count of the prompt.
        has_cache_rate: the model has a price for cached tokens. If the bill does not mention a cache, all saved tokens
            then count as cached.
        min_cached_tokens: the minimum length of a cached prompt.
    """
    if usage.input is None:
        return Usage()
    is_short = usage.input < UNEXPLAINED_SHARE * prompt.sent or prompt.cleared_billed > 2 * prompt.cleared_sent
    if prompt.may_be_cut and prompt.received > prompt.sent and is_short:
        return usage  # the provider left out more than it names, perhaps the compressed texts
    bill = _PromptBill(usage.input, prompt, MIN_CACHED_TOKENS if min_cached_tokens is None else min_cached_tokens)
    whole = max(0, usage.input + round(bill.scale * (prompt.received - prompt.sent)))
    if usage.cache_read is None:
        saved = whole - usage.input
        return Usage(whole, usage.output, usage.reasoning, saved if has_cache_rate and saved > 0 else None)
    written = usage.cache_write or 0
    cache_read = min(whole, _estimate_cache_read(bill, usage.cache_read, written) if has_cache_rate else 0)
    cache_write = usage.cache_write
    if written:
        position = bill.map_to_received(usage.cache_read + written, 1)
        cache_write = min(whole - cache_read, max(0, position - cache_read))
        if cache_read + cache_write < min(bill.min_cached_tokens, usage.cache_read + written):
            cache_write = 0  # the tool of the proxy made the prompt long enough
    hour, long = (estimate(usage, cache_write or 0) for estimate in (estimate_hour_writes, estimate_12h_writes))
    return Usage(whole, usage.output, usage.reasoning, cache_read, cache_write, hour, long)


def _estimate_cache_read(bill: "_PromptBill", cached: int, written: int) -> int:
    """Return how many tokens would have been read from the cache."""
    if not cached and bill.to_provider_tokens(bill.prompt.received) < bill.min_cached_tokens:
        return 0  # the fast path of short requests
    step = 1 if written or cached % CACHE_STEP_TOKENS or bill.prompt.has_breakpoints is not None else CACHE_STEP_TOKENS
    read = bill.map_to_received(cached, step) if cached else 0
    earlier = bill.find_earlier_end()
    if earlier is not None and (
        bill.prompt.is_rewritten or (not cached and bill.is_below_cache_minimum(earlier, written))
    ):
        read = max(read, bill.to_provider_tokens(earlier.received))
    minimum = min(bill.min_cached_tokens, cached) if cached else bill.min_cached_tokens
    return 0 if read < minimum else read // step * step


class _PromptBill:
    """Positions in a prompt in the provider's tokens; `scale` is the provider's tokens per token of ours."""

    def __init__(self, billed: int, prompt: Prompt, min_cached_tokens: int) -> None:
        self.prompt, self.min_cached_tokens = prompt, min_cached_tokens
        low, high = _SCALE_RANGE
        sent = prompt.sent + prompt.cleared_sent
        is_known = prompt.is_exact or not sent
        self.scale = 1.0 if is_known else min(high, max(low, (billed + prompt.cleared_billed) / sent))
        if prompt.cleared_sent:  # placeholders stand where the provider has cleared something
            placeholders = round(billed / self.scale) - prompt.sent
            self.prompt = prompt = replace(
                prompt, sent=prompt.sent + placeholders, received=prompt.received + placeholders
            )
        # Images and the format of tools: their position is unknown.
        self._unattributed_tokens = abs(billed - self.scale * prompt.sent)

    def to_provider_tokens(self, tokens: float) -> int:
        """Convert our tokens to the provider's."""
        return round(self.scale * tokens)

    def map_to_received(self, sent: int, step: int) -> int:
        """Return the position as received that corresponds to position `sent`, which is rounded down to a step."""
        tolerance = self._unattributed_tokens + (0 if self.prompt.is_exact else _ESTIMATE_ERROR * sent)
        if step == 1:
            tolerance = max(tolerance, _FRAMING_TOKENS)
        position = self._find_position(sent, sent + step - 1, tolerance)
        offset = min(max(sent, self.scale * position.sent), sent + step - 1)
        return max(0, round(offset + self.scale * (position.received - position.sent)))

    def find_earlier_end(self) -> _Position | None:
        """Return the end of the latest earlier prompt, or None if there was none."""
        return next((position for position, starts_reply in self._iter_positions() if starts_reply), None)

    def is_below_cache_minimum(self, earlier: _Position, written: int) -> bool:
        """Return True if the earlier prompt was too short for the cache, so that the bill does not reflect it."""
        is_too_short = self.scale * earlier.sent < self.min_cached_tokens
        if self.prompt.has_breakpoints is None:
            return is_too_short
        return self.prompt.has_breakpoints and (is_too_short or not written)

    def _find_position(self, low: int, high: int, tolerance: float) -> _Position:
        """Return the position between `low` and `high` (provider's tokens), or the nearest one within the tolerance.

        Ends of earlier prompts are preferred to other ends of elements, and late positions to early ones. Without a
        candidate the position is interpolated within an element.
        """
        end = after = _Position(self.prompt.sent, self.prompt.received)
        candidates: list[tuple[float, bool, float, _Position]] = []
        for position, starts_reply in chain([(end, False)], self._iter_positions()):
            offset = self.scale * position.sent
            distance = max(low - offset, offset - high, 0)
            if distance <= tolerance:
                penalty = 0 if starts_reply or position is end else tolerance / 2
                candidates.append((distance + penalty, not starts_reply, -offset, position))
            elif offset < low:
                middle = (low + high) / 2 / self.scale
                return min(candidates)[-1] if candidates else _interpolate(position, after, middle)
            after = position
        # Before the first element are the client's tools and then ours: the cached ones are the client's.
        head = min(low / self.scale, after.received)
        return min(candidates)[-1] if candidates else _Position(head, head)

    def _iter_positions(self) -> Iterator[tuple[_Position, bool]]:
        """Yield the position before each element, the last first, and True if an earlier prompt ended there."""
        sent, received = self.prompt.sent, self.prompt.received
        for part in self.prompt.iter_parts():
            sent, received = sent - part.sent, received - part.received
            yield _Position(sent, received), part.starts_reply


def _interpolate(before: _Position, after: _Position, sent: float) -> _Position:
    sent = min(max(sent, before.sent), after.sent)
    share = (sent - before.sent) / (after.sent - before.sent) if after.sent > before.sent else 0.0
    return _Position(sent, before.received + share * (after.received - before.received))
