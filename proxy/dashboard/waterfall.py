"""The way of tokens from received to billed, of one request or of a span of the ledger. Pure.

It adds nothing up that the ledger adds up. The invariant, in tokens:

    received - left_out + added == sent
    sent - unbilled + uncounted + drift == billed == full_price + cache_read + cache_write

`unbilled` was sent and no bill came, `uncounted` was billed and not counted here (embeddings, say), `drift` is how far
the provider's count of the rest is from ours.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..stores.ledger import TotalValue
from ..stores.ledger_row import ADDED_KIND, Row
from . import recent_requests

BILLED_OUTCOMES = ("ok", "cancelled")  # whose bill is for what was sent


class InputBill(NamedTuple):
    """What the provider billed as input, with cached tokens in it; `counted` is what we counted of it, before."""

    counted: int = 0
    billed_of_counted: int = 0
    input: int = 0
    cache_read: int = 0
    cache_write: int = 0

    def subtract(self, other: "InputBill") -> "InputBill":
        """Take another bill out of this one."""
        return InputBill(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def compute_row_steps(row: Row) -> dict[str, int]:
    """Return the way of one request."""
    grown = sum(one["after"] - one["before"] for one in recent_requests.load_passages(row) if one["kind"] == ADDED_KIND)
    return _build_steps(row.tokens_received, row.tokens_sent, grown, read_bill(row))


def read_bill(row: Row) -> InputBill:
    """Return the bill of one request."""
    billed = row.billed_input or 0
    counted = row.billed_input is not None and row.outcome in BILLED_OUTCOMES and row.tokens_sent > 0
    ours, theirs = (row.tokens_sent, billed) if counted else (0, 0)
    return InputBill(ours, theirs, billed, row.billed_cache_read or 0, row.billed_cache_write or 0)


def compute_span_steps(
    total: Mapping[str, TotalValue], kinds: Sequence[Mapping[str, TotalValue]], shadows: InputBill
) -> dict[str, int]:
    """Return the way of a span: its totals, those by kind, and in them the bill of shadow checks, taken out here."""
    of = {name: int(figure or 0) for name, figure in total.items() if not isinstance(figure, str)}
    grown = sum(int(kind["sent"] or 0) - int(kind["received"] or 0) for kind in kinds if kind["group"] == ADDED_KIND)
    counted = of["drift_sent"] + of["drift_sent_estimated"]
    for_counted = of["drift_billed"] + of["drift_billed_estimated"]
    whole = InputBill(counted, for_counted, of["billed_input"], of["cache_read"], of["cache_write"])
    return _build_steps(of["received"], of["sent"], grown, whole.subtract(shadows))


def _build_steps(received: int, sent: int, added: int, billed: InputBill) -> dict[str, int]:
    return {
        "received": received,
        "left_out": received + added - sent,
        "added": added,
        "sent": sent,
        "unbilled": sent - billed.counted,
        "uncounted": billed.input - billed.billed_of_counted,
        "drift": billed.billed_of_counted - billed.counted,
        "billed": billed.input,
        "full_price": billed.input - billed.cache_read - billed.cache_write,
        "cache_read": billed.cache_read,
        "cache_write": billed.cache_write,
    }
