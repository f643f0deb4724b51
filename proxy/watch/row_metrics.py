"""What a ledger row adds to the metrics, figure by figure. Pure, and nothing is kept here.

The definitions are those of the ledger's totals (`stores/ledger_totals`), and a test holds the two together. The
invariant: no figure is ever negative, because counters must only grow. What may be negative is therefore two figures:
what was saved and what was added, what was saved and what was overspent.
"""

from typing import NamedTuple

from ..stores.ledger_row import COUNTED_OUTCOMES, Row
from ..stores.ledger_totals import GATEWAY_PROTOCOL

METRIC_PREFIX = "clara_"


class Amounts(NamedTuple):
    """What one row adds to each counter; the fields are the counters' names, without `PREFIX` and `_total`."""

    received_tokens: int
    sent_tokens: int
    saved_tokens: int
    added_tokens: int
    would_save_tokens: int
    fetched_back_tokens: int
    billed_input_tokens: int
    billed_output_tokens: int
    billed_reasoning_tokens: int
    billed_cache_read_tokens: int
    billed_cache_write_tokens: int
    cost_dollars: float
    cost_without_dollars: float
    saved_dollars: float
    overspent_dollars: float
    unpriced_requests: int
    unpriced_savings_requests: int
    estimated_requests: int
    shadow_requests: int
    compressor_tokens: int
    compressor_seconds: float
    gpu_seconds: float


HELP: dict[str, str] = {
    "received_tokens": "Tokens of context in requests that came to something.",
    "sent_tokens": "Tokens of context that were sent on of these.",
    "saved_tokens": "Tokens not sent, of requests that got shorter.",
    "added_tokens": "Tokens sent in addition (tools offered, questions asked again), of requests that got longer.",
    "would_save_tokens": "Tokens that observing requests would have saved.",
    "fetched_back_tokens": "Tokens of originals that were had back.",
    "billed_input_tokens": "Prompt tokens billed, cached ones included.",
    "billed_output_tokens": "Output tokens billed, reasoning included.",
    "billed_reasoning_tokens": "Output tokens billed that were reasoning.",
    "billed_cache_read_tokens": "Prompt tokens billed as read from the provider's cache.",
    "billed_cache_write_tokens": "Prompt tokens billed as written to the provider's cache.",
    "cost_dollars": "What requests cost, where it is known.",
    "cost_without_dollars": "What requests would have cost without the proxy, where it is known.",
    "saved_dollars": "Money saved, by requests that cost less than they would have.",
    "overspent_dollars": "Money lost, by requests that cost more than they would have.",
    "unpriced_requests": "Requests that came to something and whose cost nobody knows.",
    "unpriced_savings_requests": "Requests that came to something and of which nobody knows what they saved in money; "
    "where no provider was asked, none was.",
    "estimated_requests": "Requests counted by a stand-in for the model's vocabulary.",
    "shadow_requests": "Requests of the proxy's own, asked to compare answers; they count nowhere but in the bill.",
    "compressor_tokens": "Tokens that compressing took.",
    "compressor_seconds": "Seconds that compressing took.",
    "gpu_seconds": "Seconds of an accelerator that compressing took.",
}


class Histogram(NamedTuple):
    """A distribution: its name without `PREFIX`, what it says, and the upper bounds of its buckets in seconds."""

    name: str
    help: str
    bounds: tuple[float, ...]


DURATION = Histogram(
    "request_duration_seconds",
    "From a request's arrival to the end of its answer.",
    (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0),
)
OVERHEAD = Histogram(
    "overhead_duration_seconds",
    "What the proxy took of that before it sent a request on.",
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


def compute_amounts(row: Row) -> Amounts:
    """Return what a row adds: what it cost in any case, tokens only if it was a client's and came to something."""
    own = bool(row.shadow_of)  # asked by the proxy itself: nobody's request, but its bill counts
    counts = row.outcome in COUNTED_OUTCOMES and not own
    observed = counts and row.would_send is not None
    billed = row.outcome != "served" or (
        row.protocol == GATEWAY_PROTOCOL and row.saved_tokens != 0
    )  # here, or elsewhere
    saved_cost = row.saved_cost or 0.0
    return Amounts(
        received_tokens=row.tokens_received if counts else 0,
        sent_tokens=row.tokens_sent if counts else 0,
        saved_tokens=max(0, row.saved_tokens) if counts else 0,
        added_tokens=max(0, -row.saved_tokens) if counts else 0,
        would_save_tokens=row.tokens_received - (row.would_send or 0) if observed else 0,
        fetched_back_tokens=row.fetched_back_tokens,
        billed_input_tokens=row.billed_input or 0,
        billed_output_tokens=row.billed_output or 0,
        billed_reasoning_tokens=row.billed_reasoning or 0,
        billed_cache_read_tokens=row.billed_cache_read or 0,
        billed_cache_write_tokens=row.billed_cache_write or 0,
        cost_dollars=row.cost or 0.0,
        cost_without_dollars=row.cost_without or 0.0,
        saved_dollars=max(0.0, saved_cost),
        overspent_dollars=max(0.0, -saved_cost),
        unpriced_requests=counts and row.cost is None,
        unpriced_savings_requests=counts and billed and row.saved_cost is None,
        estimated_requests=row.tokens_estimated and not own,
        shadow_requests=own,
        compressor_tokens=row.compressor_tokens,
        compressor_seconds=row.compressor_seconds,
        gpu_seconds=row.gpu_seconds,
    )
