"""What a provider would have billed for a request as it came, told from its bill for the request as it was sent. Pure.

No state: every replica says the same. The bill says how much of the prompt that was sent stood in the provider's cache,
which is to say how far it was the same as an earlier one; the same messages of an earlier request, as it came, would
have stood there otherwise (law 1). Where the bill cannot tell, as below the least prompt that is cached, a prompt that
goes on from an earlier one counts as cached: in doubt against us.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from .usage import Usage, estimate_hour_writes

MIN_CACHED_TOKENS, CACHE_STEP_TOKENS = 1024, 128  # tokens: OpenAI caches prompts from so many on, in steps of so many
_SCALE_RANGE = (0.5, 1.5)  # tokens of a model over those of the vocabulary that stands in for its own
_ESTIMATE_ERROR = 0.02  # of a position, where tokens were counted by a stand-in


class PromptPart(NamedTuple):
    """One element of a conversation in tokens, as it came and as it was sent.

    `begins` says that the model's own words begin with it, so that an earlier prompt ended before it.
    """

    received: int
    sent: int
    starts_reply: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt in tokens as we count them, as it came and as it was sent.

    `parts` yields the elements from the last back to the first; what they do not hold (tools, instructions) stands
    before them. `exact`: the vocabulary is the model's own. `marked` says whether the request names the places up to
    which it is to be cached (Anthropic), and is None where the provider finds them itself. `rewritten` says whether
    something was shortened now that an earlier prompt still had whole.
    """

    received: int
    sent: int
    is_exact: bool
    iter_parts: Callable[[], Iterator[PromptPart]]
    has_breakpoints: bool | None = None
    is_rewritten: bool = False


class _Position(NamedTuple):
    """A place in the prompt: tokens before it, as sent and as received."""

    sent: float
    received: float


def estimate_baseline(
    usage: Usage, prompt: Prompt, *, has_cache_rate: bool, min_cached_tokens: int | None = None
) -> Usage:
    """Return the usage of the prompt as it came: its input, cache reads and cache writes; the output is the same.

    `usage` is the bill of one prompt as it was sent. `caches` says that the model has a rate for cached tokens,
    `least` from how many tokens on a prompt is cached. Where the bill says nothing of a cache, all that was saved
    counts as cached if the model has a rate for that. Without an input nothing is known.
    """
    if usage.input is None:
        return Usage()
    bill = _PromptBill(usage.input, prompt, MIN_CACHED_TOKENS if min_cached_tokens is None else min_cached_tokens)
    whole = max(0, usage.input + round(bill.scale * (prompt.received - prompt.sent)))
    if usage.cache_read is None:
        saved = whole - usage.input
        return Usage(whole, usage.output, usage.reasoning, saved if has_cache_rate and saved > 0 else None)
    wrote = usage.cache_write or 0
    read = min(whole, _estimate_cache_read(bill, usage.cache_read, wrote) if has_cache_rate else 0)
    write = (
        min(whole - read, max(0, bill.map_to_received(usage.cache_read + wrote, 1) - read))
        if wrote
        else usage.cache_write
    )
    hour = estimate_hour_writes(usage, write or 0)
    return Usage(whole, usage.output, usage.reasoning, read, write, hour)


def _estimate_cache_read(bill: "_PromptBill", cached: int, wrote: int) -> int:
    """Return how many tokens would have been read from the cache."""
    if not cached and bill.to_provider_tokens(bill.prompt.received) < bill.min_cached_tokens:
        return 0  # nearly every short request: nothing more needs to be known
    step = 1 if wrote or cached % CACHE_STEP_TOKENS or bill.prompt.has_breakpoints is not None else CACHE_STEP_TOKENS
    read = bill.map_to_received(cached, step) if cached else 0
    earlier = bill.find_earlier_end()
    if earlier is not None and (
        bill.prompt.is_rewritten or (not cached and bill.is_below_cache_minimum(earlier, wrote))
    ):
        read = max(read, bill.to_provider_tokens(earlier.received))
    least = min(bill.min_cached_tokens, cached) if cached else bill.min_cached_tokens
    return 0 if read < least else read // step * step


class _PromptBill:
    """Places in a prompt, by the provider's tokens; `scale` is how many of them one of ours is."""

    def __init__(self, billed: int, prompt: Prompt, least: int) -> None:
        self.prompt, self.min_cached_tokens = prompt, least
        few, many = _SCALE_RANGE
        self.scale = 1.0 if prompt.is_exact or not prompt.sent else min(many, max(few, billed / prompt.sent))
        self._unattributed_tokens = abs(billed - self.scale * prompt.sent)  # images, how tools are written: anywhere

    def to_provider_tokens(self, tokens: float) -> int:
        """Return tokens of ours as the provider's."""
        return round(self.scale * tokens)

    def map_to_received(self, told: int, step: int) -> int:
        """Return how many tokens, as received, stand before a place that lies as sent from `told` on within a step."""
        slack = self._unattributed_tokens + (0 if self.prompt.is_exact else _ESTIMATE_ERROR * told)
        place = self._find_position(told, told + step - 1, slack)
        position = min(max(told, self.scale * place.sent), told + step - 1)
        return max(0, round(position + self.scale * (place.received - place.sent)))

    def find_earlier_end(self) -> _Position | None:
        """Return where the latest of the earlier prompts ended; None where nothing says that there was one."""
        for place, begins in self._iter_positions():
            if begins:
                return place
        return None

    def is_below_cache_minimum(self, earlier: _Position, wrote: int) -> bool:
        """Say whether that prompt was too short to be cached, so that the bill cannot say that it was sent."""
        too_short = self.scale * earlier.sent < self.min_cached_tokens
        return (
            too_short
            if self.prompt.has_breakpoints is None
            else self.prompt.has_breakpoints and (too_short or not wrote)
        )

    def _find_position(self, low: int, high: int, slack: float) -> _Position:
        """Find the place from `low` to `high`, in the provider's tokens, or within the slack the nearest one.

        Better than between two elements is where an earlier prompt ended, and the latest of these. Where there is
        none, it lies within an element, as far in it as received as it does as sent.
        """
        end = after = _Position(self.prompt.sent, self.prompt.received)
        found: list[tuple[float, bool, float, _Position]] = []
        for place, begins in chain([(end, False)], self._iter_positions()):
            at = self.scale * place.sent
            off = max(low - at, at - high, 0)
            if off <= slack:
                found.append((off + (0 if begins or place is end else slack / 2), not begins, -at, place))
            elif at < low:
                return min(found)[-1] if found else _interpolate(place, after, (low + high) / 2 / self.scale)
            after = place
        # Before the first element stand the client's tools, and behind them ours: what is cached of them is theirs.
        head = min(low / self.scale, after.received)
        return min(found)[-1] if found else _Position(head, head)

    def _iter_positions(self) -> Iterator[tuple[_Position, bool]]:
        """Yield the places before each element, from the last back, and whether an earlier prompt ended there."""
        sent, received = self.prompt.sent, self.prompt.received
        for part in self.prompt.iter_parts():
            sent, received = sent - part.sent, received - part.received
            yield _Position(sent, received), part.starts_reply


def _interpolate(before: _Position, after: _Position, sent: float) -> _Position:
    sent = min(max(sent, before.sent), after.sent)
    share = (sent - before.sent) / (after.sent - before.sent) if after.sent > before.sent else 0.0
    return _Position(sent, before.received + share * (after.received - before.received))
