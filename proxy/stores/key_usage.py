"""The usage of a key: of one request, from its row, and of a day, from the stored totals of the ledger."""

from typing import NamedTuple, cast

from .ledger import Ledger
from .ledger_dialect import SECONDS_PER_DAY
from .ledger_row import COUNTED_OUTCOMES, Row


class KeyUsage(NamedTuple):
    """Tokens and US dollars."""

    tokens: int = 0
    dollars: float = 0.0

    def add(self, other: "KeyUsage") -> "KeyUsage":
        """Return the sum."""
        return KeyUsage(self.tokens + other.tokens, self.dollars + other.dollars)

    def subtract(self, other: "KeyUsage") -> "KeyUsage":
        """Return the difference."""
        return KeyUsage(self.tokens - other.tokens, self.dollars - other.dollars)


NO_USAGE = KeyUsage()


def measure_row(row: Row) -> KeyUsage:
    """Return the usage of one request as the ledger's totals add it up; of a shadow check only the bill counts.

    Tokens are the forwarded tokens of successful requests plus the tokens of the answers; dollars are the provider's
    bill. The invariant: `read_stored_usage` of a day is the sum of `measure_row` over its rows.
    """
    sent = row.tokens_sent if row.outcome in COUNTED_OUTCOMES and not row.shadow_of else 0
    return KeyUsage(sent + (row.billed_output or 0), row.cost or 0.0)


def measure_for_budget(row: Row, received_tokens: int, reserved_input: int) -> KeyUsage:
    """Return the usage of one request in a budget: the bill, and without a complete bill at least the text that passed.

    A stream that ends early counts with the sent tokens plus the received text. A request that the upstream refused, or
    that never reached it, counts nothing.

    Args:
        row: the completed row of the request.
        received_tokens: tokens of the answers' text.
        reserved_input: the bound of the prompt; it replaces an uncounted prompt.
    """
    if row.outcome == "ok" and row.billed_input is not None:
        return KeyUsage(max(row.tokens_sent, row.billed_input) + (row.billed_output or 0), row.cost or 0.0)
    if row.outcome == "served":  # answered by the proxy itself
        return KeyUsage(max(row.tokens_sent, row.billed_input or 0) + (row.billed_output or 0), 0.0)
    billed_input, billed_output = row.billed_input or 0, row.billed_output or 0
    is_broken_off = row.outcome == "cancelled" or (row.outcome == "upstream_error" and row.status < 400)
    if not is_broken_off and row.outcome != "ok":
        return KeyUsage(billed_input + billed_output, row.cost or 0.0)
    sent = max(row.tokens_sent or (reserved_input if row.billed_input is None else 0), billed_input)
    output = max(billed_output, received_tokens)
    dollars = (row.cost or 0.0) + (sent - (billed_input if row.cost is not None else 0)) * (row.price_input or 0.0)
    dollars += (output - (billed_output if row.cost is not None else 0)) * (row.price_output or 0.0)
    return KeyUsage(sent + output, dollars)


async def read_stored_usage(ledger: Ledger, day: int) -> dict[str, KeyUsage]:
    """Return the usage of each key on a day (UTC, in days since 1970), by name, according to the stored rows."""
    totals = await ledger.read_totals("key", day * SECONDS_PER_DAY, (day + 1) * SECONDS_PER_DAY)
    return {str(total["group"]): _parse_usage(total) for total in totals if total["group"]}


def _parse_usage(total: object) -> KeyUsage:
    values = cast("dict[str, float | None]", total)
    return KeyUsage(int((values["sent"] or 0) + (values["billed_output"] or 0)), float(values["cost"] or 0.0))
