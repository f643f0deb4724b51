"""The cost of one request of a key with limits: bounded, reserved before it is forwarded, and settled afterwards."""

from dataclasses import dataclass
from math import isfinite
from typing import NoReturn

from ...config import prices
from ...config.prices import Price
from ..http.request_context import RequestContext
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, is_object
from ..stores.api_keys import ApiKey
from ..stores.key_usage import NO_USAGE, KeyUsage, measure_for_budget
from ..stores.ledger_row import Row
from ..stores.usage import read_usage
from . import limit_errors
from .limits import KeyLimits, KeyMeter

MAX_BOUND = 2**40  # tokens of one request
_BYTES_PER_TOKEN = 8  # a counted token explains at most so many bytes of a body
# The fields that limit the output, by protocol: a field of another protocol would be ignored.
_OUTPUT_LIMITS = {
    "chat": ("max_tokens", "max_completion_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
# What the provider adds to a prompt by itself.
_STORED_FIELDS = frozenset({"previous_response_id", "conversation", "prompt", "thread", "container", "mcp_servers"})
# Elements and parts whose tokens follow from their text. Any other type may be a file, media or a reference.
_TEXT_TYPES = frozenset(
    {None, "message", "text", "input_text", "output_text", "refusal", "reasoning", "thinking", "redacted_thinking"}
    | {"summary_text", "reasoning_text", "tool_use", "tool_result", "function_call", "function_call_output"}
    | {"custom_tool_call", "custom_tool_call_output"}
)


@dataclass(slots=True)
class Reservation:
    """The reservation of one admitted request. `settle_row` or `close` ends it; both may be called."""

    limits: KeyLimits
    key: ApiKey
    meter: KeyMeter
    start_time: float | None = None
    default_window: int = 128_000
    _amount: KeyUsage = NO_USAGE
    _day: int = -1
    _input_tokens: int = 0
    _is_closed: bool = False

    def fork(self) -> "Reservation":
        """Return the reservation of a further request on the same key; it does not count as a start."""
        self.meter.open_requests += 1
        return Reservation(self.limits, self.key, self.meter, None, self.default_window)

    async def reserve_round(self, context: RequestContext, body: Json, text: bytes) -> None:
        """Reserve the cost of the next round of a request; `text` is its JSON body, parsed as `body`.

        Raises:
            ApiError: 403 if the cost cannot be bounded, 429 if the budget is used up or reserved.
        """
        key, price = self.key, prices.find_price(context.pricing_model)
        if key.dollars_per_day is not None and (price is None or price.input is None or price.output is None):
            problem = f"the price of the model {context.model[:80]!r} is unknown"
            self.reject(problem, "use a model with a price, or a key without a limit in dollars")
        if body.get("background"):
            problem = "the cost of a background response is unknown"
            self.reject(problem, "set background to false")
        input_tokens = bound_input(context, body, text, price, self.default_window)
        output_tokens = bound_output(context.protocol, body, text, price, self.default_window)
        if self._day >= 0:
            self._shrink_to_usage(context, price)
        dollars = 0.0 if key.dollars_per_day is None else _price_tokens(input_tokens, output_tokens, price)
        await self._reserve(KeyUsage(input_tokens + output_tokens, dollars))
        self._input_tokens += input_tokens

    async def reserve_local(self, size: int, max_output: int = 0) -> None:
        """Reserve the tokens of a request of `size` bytes that the proxy answers itself, free of charge.

        Raises:
            ApiError: 429 if the budget is used up or reserved.
        """
        await self._reserve(KeyUsage(size + max_output, 0.0))

    def reject(self, problem: str, remedy: str) -> NoReturn:
        """Reject a request without a bound of its cost.

        Raises:
            ApiError: 403.
        """
        self.cancel_start()
        raise limit_errors.unmetered_error(self.key, problem, remedy)

    def settle_row(self, row: Row, received_tokens: int) -> None:
        """Replace the reservation by the usage of the request."""
        if not self._is_closed and self._day >= 0:
            self._end(measure_for_budget(row, received_tokens, self._input_tokens))

    def cancel_start(self) -> None:
        """Take back the start of a request that was refused before anything was reserved."""
        if self.start_time is not None and self._day < 0:
            self.meter.window.cancel_start(self.start_time)
            self.start_time = None

    def close(self) -> None:
        """End the request; a reservation that was not settled is released."""
        if not self._is_closed:
            self._end(NO_USAGE)

    def _end(self, spent: KeyUsage) -> None:
        self._is_closed = True
        self.meter.open_requests -= 1
        if self._day >= 0:
            self.limits.release(self.meter, self._amount, self._day, spent)

    async def _reserve(self, amount: KeyUsage) -> None:
        if not self.limits.try_reserve(self.key, self.meter, amount):
            try:
                await self.limits.reserve(self.key, self.meter, amount)
            except ApiError:
                self.cancel_start()
                raise
        # What was reserved yesterday does not count today.
        self._amount = self._amount.add(amount) if self._day == self.meter.day else amount
        self._day = self.meter.day

    def _shrink_to_usage(self, context: RequestContext, price: Price | None) -> None:
        """Reduce the reservation of earlier rounds to their usage, if the upstream has reported it."""
        usage = read_usage(context.round_usages[-1]) if context.round_usages else None
        if usage is None or usage.input is None or usage.output is None:
            return
        dollars = min(_price_tokens(usage.input, usage.output, price), self._amount.dollars)
        used = KeyUsage(min(usage.input + usage.output, self._amount.tokens), dollars)
        self.limits.release(self.meter, self._amount.subtract(used), self._day)
        self._amount = used


def bound_input(context: RequestContext, body: Json, text: bytes, price: Price | None, default_window: int) -> int:
    """Return the most tokens that a prompt may have; `text` is its JSON body, `body` the client's, parsed.

    Text has at most a token for each byte. If it was counted, the count decides, and only bytes beyond the
    counted text are added. Files, media and stored text may fill the model's window.
    """
    counted = context.received_tokens - context.saved_tokens
    skipped = context.skip_counts
    is_counted = counted > 0 and not context.is_late and "bypass" not in skipped and "unknown-shape" not in skipped
    bound = len(text)
    if is_counted:
        counted = 2 * counted if context.is_estimated else counted
        bound = min(bound, max(counted, len(text) - _BYTES_PER_TOKEN * counted))
    elements = body.get("input" if context.protocol == "responses" else "messages")
    if not (body.keys().isdisjoint(_STORED_FIELDS) and _is_all_text(elements)):
        window = (price.context_window if price is not None else None) or default_window
        return min(max(window, counted), MAX_BOUND)
    return min(bound, MAX_BOUND)


def _is_all_text(value: object) -> bool:
    """Return True if a conversation, an element or a part of one consists of text, as far as its types tell."""
    if value.__class__ is str or value is None:
        return True
    if is_array(value):
        return all(map(_is_all_text, value))
    if not is_object(value) or value.get("type") not in _TEXT_TYPES or value.get("audio"):
        return False
    content, output = value.get("content"), value.get("output")
    return (content.__class__ is str or _is_all_text(content)) and (output is None or _is_all_text(output))


def bound_output(protocol: str, body: Json, text: bytes, price: Price | None, default_window: int) -> int:
    """Return the most tokens that the answers to a request may have, by its own limit or else the model's."""
    bound = 0
    for name in _OUTPUT_LIMITS.get(protocol, ()):
        if name in body:
            bound = max(bound, _parse_limit(body[name]))
    if not bound:
        bound = (price.max_output or price.context_window if price is not None else None) or default_window
    if "n" in body:
        bound *= _parse_limit(body["n"]) or 1
    if body.get("prediction"):  # what the model does not accept of it is billed as well
        bound += len(text)
    return min(bound, MAX_BOUND)


def _parse_limit(value: object) -> int:
    """Return a positive number as an integer; 0 for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return 0
    return int(min(max(value, 0), MAX_BOUND))


def _price_tokens(input_tokens: int, output_tokens: int, price: Price | None) -> float:
    """Return the most dollars that a request with these tokens costs; 0 without a price."""
    price = price or Price()
    rates = price.rates_for(input_tokens)
    input_rate = max(
        rate or 0.0
        for rate in (rates.input, rates.cache_write, rates.cache_write_hour, rates.cache_write_12h, price.input)
    )
    return input_tokens * input_rate + output_tokens * max(rates.output or 0.0, price.output or 0.0)
