"""The daily usage of a key, from one row or from the stored totals of the ledger.

Tokens are the forwarded tokens of successful requests plus the tokens of the answers; dollars are the provider's bill.
Both are as in `clara-proxy report --by key`. The invariant: `read_stored_usage` of a day is the sum of `measure_row`
over its rows.
"""

from typing import NamedTuple, cast

from .ledger import Ledger
from .ledger_dialect import SECONDS_PER_DAY
from .ledger_row import COUNTED_OUTCOMES, Row


class KeyUsage(NamedTuple):
    """Used requests, tokens and US dollars."""

    requests: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def add(self, other: "KeyUsage") -> "KeyUsage":
        """Return the sum."""
        return KeyUsage(self.requests + other.requests, self.tokens + other.tokens, self.dollars + other.dollars)

    def subtract(self, other: "KeyUsage") -> "KeyUsage":
        """Return the difference."""
        return KeyUsage(self.requests - other.requests, self.tokens - other.tokens, self.dollars - other.dollars)

    def max_with(self, other: "KeyUsage") -> "KeyUsage":
        """Return the maximum of each value."""
        tokens, dollars = max(self.tokens, other.tokens), max(self.dollars, other.dollars)
        return KeyUsage(max(self.requests, other.requests), tokens, dollars)


NO_USAGE = KeyUsage()


def measure_row(row: Row) -> KeyUsage:
    """Return the usage of one request; of a shadow check only the bill counts."""
    sent = row.tokens_sent if row.outcome in COUNTED_OUTCOMES and not row.shadow_of else 0
    return KeyUsage(0 if row.shadow_of else 1, sent + (row.billed_output or 0), row.cost or 0.0)


def estimate_unbilled_cost(row: Row) -> float:
    """Return the minimum cost in dollars of a request without a bill, such as a stream that the client left.

    The ledger's totals do not include it, but budgets must: otherwise a client could avoid them by disconnecting.
    """
    return row.tokens_sent * (row.price_input or 0.0) if row.cost is None and row.outcome in COUNTED_OUTCOMES else 0.0


async def read_stored_usage(ledger: Ledger, day: int) -> dict[str, KeyUsage]:
    """Return the usage of each key on a day (UTC, in days since 1970), by name, according to the stored rows."""
    totals = await ledger.read_totals("key", day * SECONDS_PER_DAY, (day + 1) * SECONDS_PER_DAY)
    return {str(total["group"]): _parse_usage(total) for total in totals if total["group"]}


def _parse_usage(total: object) -> KeyUsage:
    values = cast("dict[str, float | None]", total)
    tokens = (values["sent"] or 0) + (values["billed_output"] or 0)
    return KeyUsage(int(values["requests"] or 0), int(tokens), float(values["cost"] or 0.0))
