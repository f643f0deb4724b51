"""Computes the steps of a token count from received to billed, for one request or a span of the ledger. Pure.

Invariant, in tokens:

    received - left_out + added == sent
    sent - unbilled + uncounted + drift == billed == full_price + cache_read + cache_write

`unbilled` was sent, but no bill arrived. `uncounted` was billed, but the proxy does not count it (embeddings, for
example). `drift` is the difference between the provider's count and the proxy's count of the rest.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..stores.ledger import TotalValue
from ..stores.ledger_row import ADDED_KIND, Row
from . import recent_requests

BILLED_OUTCOMES = ("ok", "cancelled")  # outcomes with a bill for the tokens sent


class InputBill(NamedTuple):
    """Billed input tokens, cached ones included; `counted` is the proxy's own count of `billed_of_counted`."""

    counted: int = 0
    billed_of_counted: int = 0
    input: int = 0
    cache_read: int = 0
    cache_write: int = 0

    def subtract(self, other: "InputBill") -> "InputBill":
        """Return this bill without another that is part of it."""
        return InputBill(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def compute_row_steps(row: Row) -> dict[str, int]:
    """Return the steps of one request, in tokens."""
    passages = recent_requests.load_passages(row)
    added = sum(passage["after"] - passage["before"] for passage in passages if passage["kind"] == ADDED_KIND)
    return _build_steps(row.tokens_received, row.tokens_sent, added, read_bill(row))


def read_bill(row: Row) -> InputBill:
    """Return the input bill of one request."""
    billed = row.billed_input or 0
    is_counted = row.billed_input is not None and row.outcome in BILLED_OUTCOMES and row.tokens_sent > 0
    ours, theirs = (row.tokens_sent, billed) if is_counted else (0, 0)
    return InputBill(ours, theirs, billed, row.billed_cache_read or 0, row.billed_cache_write or 0)


def compute_span_steps(
    total: Mapping[str, TotalValue], kinds: Sequence[Mapping[str, TotalValue]], shadows: InputBill
) -> dict[str, int]:
    """Return the steps of a span, in tokens, from its totals, its totals by kind, and the bill of shadow checks.

    The bill of shadow checks is part of the totals and is subtracted here.
    """
    values = {name: int(value or 0) for name, value in total.items() if not isinstance(value, str)}
    added = sum(int(kind["sent"] or 0) - int(kind["received"] or 0) for kind in kinds if kind["group"] == ADDED_KIND)
    bill = InputBill(
        values["drift_sent"] + values["drift_sent_estimated"],
        values["drift_billed"] + values["drift_billed_estimated"],
        values["billed_input"],
        values["cache_read"],
        values["cache_write"],
    )
    return _build_steps(values["received"], values["sent"], added, bill.subtract(shadows))


def _build_steps(received: int, sent: int, added: int, bill: InputBill) -> dict[str, int]:
    return {
        "received": received,
        "left_out": received + added - sent,
        "added": added,
        "sent": sent,
        "unbilled": sent - bill.counted,
        "uncounted": bill.input - bill.billed_of_counted,
        "drift": bill.billed_of_counted - bill.counted,
        "billed": bill.input,
        "full_price": bill.input - bill.cache_read - bill.cache_write,
        "cache_read": bill.cache_read,
        "cache_write": bill.cache_write,
    }
