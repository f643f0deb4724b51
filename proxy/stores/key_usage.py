"""What a key has used of a day: one definition, for a row as it is written and for the totals that the ledger keeps.

Tokens are those sent, of requests that came to something, and those of the answers; dollars are what the provider
bills; both as `clara-proxy report --by key` shows them. The invariant: `stored` of a day is the sum of `of` its rows.
"""

from typing import NamedTuple, cast

from .ledger import Ledger
from .ledger_dialect import SECONDS_PER_DAY
from .ledger_row import COUNTED_OUTCOMES, Row


class KeyUsage(NamedTuple):
    """How much was used: requests, tokens, US dollars."""

    requests: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def add(self, other: "KeyUsage") -> "KeyUsage":
        """Add up."""
        return KeyUsage(self.requests + other.requests, self.tokens + other.tokens, self.dollars + other.dollars)

    def subtract(self, other: "KeyUsage") -> "KeyUsage":
        """Take away."""
        return KeyUsage(self.requests - other.requests, self.tokens - other.tokens, self.dollars - other.dollars)

    def max_with(self, other: "KeyUsage") -> "KeyUsage":
        """Return the greater of each."""
        tokens, dollars = max(self.tokens, other.tokens), max(self.dollars, other.dollars)
        return KeyUsage(max(self.requests, other.requests), tokens, dollars)


NO_USAGE = KeyUsage()


def measure_row(row: Row) -> KeyUsage:
    """Return what one request used; one that the proxy repeats on its own (`shadow_of`) counts as a bill alone."""
    sent = row.tokens_sent if row.outcome in COUNTED_OUTCOMES and not row.shadow_of else 0
    return KeyUsage(0 if row.shadow_of else 1, sent + (row.billed_output or 0), row.cost or 0.0)


def estimate_unbilled_cost(row: Row) -> float:
    """Return the dollars that a request cost at least of which no bill came, as when its client leaves in a stream.

    No total has them; but budgets could be got around by leaving if they did not count.
    """
    return row.tokens_sent * (row.price_input or 0.0) if row.cost is None and row.outcome in COUNTED_OUTCOMES else 0.0


async def read_stored_usage(ledger: Ledger, day: int) -> dict[str, KeyUsage]:
    """Return what the keys have used of a day (UTC, days since 1970), by name, as far as rows are stored."""
    totals = await ledger.read_totals("key", day * SECONDS_PER_DAY, (day + 1) * SECONDS_PER_DAY)
    return {str(total["group"]): _parse_usage(total) for total in totals if total["group"]}


def _parse_usage(total: object) -> KeyUsage:
    told = cast("dict[str, float | None]", total)
    tokens = (told["sent"] or 0) + (told["billed_output"] or 0)
    return KeyUsage(int(told["requests"] or 0), int(tokens), float(told["cost"] or 0.0))
