"""The state of one request from its arrival to its ledger row."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import getrandbits
from time import perf_counter, time, time_ns
from typing import NamedTuple, Protocol

from ...compression.compressor import NO_USAGE, ModelUsage
from ...compression.tokens import get_token_counter
from ...config import prices
from ...config.prices import Price
from ..protocols import usage_fields
from ..protocols.api_errors import ApiError, UpstreamError
from ..protocols.json_types import Json
from ..protocols.prompt_diff import PromptDiff
from ..protocols.received_text import ReceivedText
from ..stores import accounting, bill_baseline
from ..stores.baseline import Prompt
from ..stores.ledger import Ledger
from ..stores.ledger_row import (
    ADDED_KIND,
    COUNT_TOKENS_PROTOCOL,
    CacheMiss,
    Outcome,
    Passage,
    Row,
    encode_labels,
    encode_passages,
)
from ..stores.reply_bill import Bill, PricedBill, ReplyFacts, read_bill
from ..stores.usage import Usage
from .cache_misses import CacheMissDetector
from .exchange import ClientDisconnected, RawHeaders
from .request_options import RequestOptions

MAX_DEFERRED_WORK = 2**16  # work (see `offload`) of a body that may wait with its row
NO_FACTS = ReplyFacts()
log = logging.getLogger(__name__)


class _Estimates(NamedTuple):
    """The priced bill, the usage without the proxy, the cost of the expand tool, and the class of a cache miss."""

    priced: PricedBill
    baseline: Usage | None = None
    expand_cost: float | None = None
    cache_miss: CacheMiss = ""


NO_ESTIMATES = _Estimates(PricedBill(Usage(), prices.NO_PRICE))


def _create_counts() -> dict[str, int]:
    return {}  # `dict[str, int]()` takes twice as long


def _create_list() -> list[object]:
    return []


def _create_id() -> str:
    """Return a unique id. Its random part distinguishes processes, and is no secret."""
    return f"req_{time_ns():016x}{getrandbits(48):012x}"  # `urandom` calls the system


class Settlement(Protocol):
    """The reservation of a request in the budget of its key."""

    def settle_row(self, row: Row, received_tokens: int) -> None:
        """Replace the reservation by what the request has used; `received_tokens` are those of the reply's text."""
        ...

    def close(self) -> None:
        """Release the reservation if it was not settled."""
        ...


class CachedBill(NamedTuple):
    """The bill of an answer in the response cache."""

    usage: Usage
    service_tier: str
    region: str


class LedgerRecord:
    """A context manager that writes one row to the ledger, with the outcome, in any case (invariant: honest)."""

    def __init__(self, context: "RequestContext", ledger: Ledger) -> None:
        self._context, self._ledger = context, ledger

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Record the outcome, and write the row."""
        context = self._context
        if isinstance(error, ApiError):
            context.status = context.status or error.status
            context.record_error(error)
        elif isinstance(error, ClientDisconnected | asyncio.CancelledError):  # the provider may bill it all the same
            context.outcome = "cancelled"
        elif error is not None:
            context.outcome = "failed"
        context.write_row(self._ledger)


@dataclass(slots=True)
class RequestContext:
    """The state of a request so far. Sizes are in tokens, times in seconds; `body_work` is in bytes (see `offload`).

    `element_texts` are the JSON texts of the messages or items, if they are known. `alias_of` is the model behind a
    name from the operator's configuration. `is_late` is True if time ran out for this request, and not only for one of
    its passages in an earlier request; `is_too_long` if more time would not help. `round_usages` holds the total usage
    before each further round of the expand tool, `hidden_call_tokens` the tokens of the hidden calls in the last reply,
    `store_tokens` those of the passages that a vector store adds.
    `cache_result` is `hit`, `semantic` or `miss` if the request may use the response cache, and `cached_bill` that of
    a hit. `settlement` is set for a key with a budget, `received_text` as soon as its reply may end without a usage.
    """

    path: str
    options: RequestOptions
    protocol: str = "openai"
    id: str = field(default_factory=_create_id)
    timestamp: float = field(default_factory=time)
    start_time: float = field(default_factory=perf_counter)
    model: str = ""
    alias_of: str = ""
    mode: str = "off"
    engine: str = "none"
    is_streamed: bool = False
    body_work: int = 0
    element_texts: Sequence[bytes] = ()
    status: int = 0
    outcome: Outcome = "ok"
    received_tokens: int = 0
    saved_tokens: int = 0
    potential_saved_tokens: int | None = None
    is_estimated: bool = False
    is_late: bool = False
    is_too_long: bool = False
    passages: tuple[Passage, ...] = ()
    skip_counts: dict[str, int] = field(default_factory=_create_counts)
    compressor_seconds: float = 0.0
    model_cost: ModelUsage = NO_USAGE
    overhead_seconds: float = 0.0
    fetched_tokens: int = 0
    usage: object = None
    reply_facts: ReplyFacts = NO_FACTS
    region: str = ""
    cache_misses: CacheMissDetector | None = None
    offers_expand_tool: bool = False
    prompt_diff: PromptDiff | None = None
    round_usages: list[object] = field(default_factory=_create_list)
    hidden_call_tokens: int = 0
    store_tokens: int = 0
    settlement: Settlement | None = None
    received_text: ReceivedText | None = None
    cache_result: str = ""
    cached_bill: "CachedBill | None" = None
    latency_ms: float = 0.0

    @property
    def pricing_model(self) -> str:
        """Return the model's name in the tables of prices, vocabularies and context windows."""
        return self.alias_of or self.model

    def record_in_ledger(self, ledger: Ledger) -> "LedgerRecord":
        """Return a context manager that writes one row to the ledger when its block ends or raises."""
        return LedgerRecord(self, ledger)

    def write_row(self, ledger: Ledger) -> None:
        """Write the row of the request, which has ended, and settle its reservation.

        A row that nothing waits for is built later, together with others, unless its request takes much memory.
        """
        self.latency_ms = 1000 * (perf_counter() - self.start_time)
        is_usual = self.outcome == "ok" and self.settlement is None and not self.saved_tokens
        if is_usual and self.body_work <= MAX_DEFERRED_WORK:
            ledger.write_later(self.build_row)
            return
        ledger.build_rows()
        row = self.build_row()
        ledger.write(row)
        self.settle(row)

    def count_received_text(self) -> ReceivedText | None:
        """Return the counter of the reply's text, or None if it need not be counted: the key has no budget."""
        if self.settlement is not None and self.received_text is None:
            self.received_text = ReceivedText(self.protocol, get_token_counter(self.pricing_model).count)
        return self.received_text

    def settle(self, row: Row) -> None:
        """Settle the reservation of this request, if its key has a budget."""
        if self.settlement is not None:
            self.settlement.settle_row(row, 0 if self.received_text is None else self.received_text.tokens)

    def record_error(self, error: ApiError) -> None:
        """Set the outcome by the origin of an error: the upstream, the client, or the proxy."""
        is_upstream = isinstance(error, UpstreamError)
        self.outcome = "upstream_error" if is_upstream else "rejected" if error.status < 500 else "failed"

    def record_reply(self, message: Json) -> None:
        """Record the usage of a whole reply, and other facts about its bill."""
        self.usage, self.reply_facts = message.get("usage"), usage_fields.read_facts(message, NO_FACTS)

    def add_proxy_tokens(self, tokens: int) -> None:
        """Record tokens that the proxy adds: passages of a store, the expand tool, and the further rounds for it."""
        if tokens:
            self.saved_tokens -= tokens
            if self.potential_saved_tokens is not None:
                self.potential_saved_tokens -= tokens
            self.passages = (*self.passages, Passage(ADDED_KIND, "", 0, tokens))

    def build_response_headers(self) -> RawHeaders:
        """Return the `x-clara-*` headers of the response."""
        after = self.received_tokens - self.saved_tokens
        seconds = self.compressor_seconds if self.outcome == "served" else self.overhead_seconds
        ratio = self.received_tokens / after if after > 0 else 1.0
        skipped = ", ".join([f"{reason}={count}" for reason, count in self.skip_counts.items()])
        response_headers: RawHeaders = [
            (b"x-clara-mode", self.mode.encode()),
            (b"x-clara-engine", self.engine.encode()),
            (b"x-clara-tokens-before", b"%d" % self.received_tokens),
            (b"x-clara-tokens-after", b"%d" % after),
            (b"x-clara-tokens-saved", b"%d" % self.saved_tokens),
            (b"x-clara-ratio", b"%.2f" % ratio),
            (b"x-clara-latency-ms", b"%.2f" % (1000 * seconds)),
            (b"x-clara-skipped", skipped.encode()),
            (b"x-clara-request-id", self.id.encode()),
        ]
        if self.potential_saved_tokens is not None:
            response_headers.append((b"x-clara-would-save", b"%d" % self.potential_saved_tokens))
        if self.cache_result:
            response_headers.append((b"x-clara-cache", self.cache_result.encode()))
        response_headers.append((b"server-timing", b"clara;dur=%.2f" % (1000 * seconds)))
        return response_headers

    def build_row(self) -> Row:
        """Return the ledger row, with the provider's usage as far as it is known."""
        return (self._clear_token_counts() if self.protocol == COUNT_TOKENS_PROTOCOL else self)._build_row()

    def _clear_token_counts(self) -> "RequestContext":
        """Return a copy without tokens: counting sends no tokens to a model, and so saves none."""
        outcome: Outcome = "served" if self.outcome == "ok" else self.outcome
        return replace(
            self, received_tokens=0, saved_tokens=0, potential_saved_tokens=None, passages=(), outcome=outcome
        )

    def _build_row(self) -> Row:
        latency = self.latency_ms or 1000 * (perf_counter() - self.start_time)
        price = prices.find_price(self.pricing_model) or prices.NO_PRICE
        bill = None
        estimates = NO_ESTIMATES
        if self.cached_bill is None:
            bill = read_bill(self.usage, self.round_usages, self.reply_facts, self.region)
        if bill is not None:
            estimates = self._estimate(bill, price)
        row = Row(
            id=self.id,
            at=self.timestamp,
            protocol=self.protocol,
            path=self.path,
            model=self.model,
            mode_asked=self.options.mode,
            mode_used=self.mode,
            engine=self.engine,
            streamed=self.is_streamed,
            status=self.status,
            outcome=self.outcome,
            tokens_received=self.received_tokens,
            tokens_sent=self.received_tokens - self.saved_tokens,
            tokens_estimated=self.is_estimated,
            would_send=None
            if self.potential_saved_tokens is None
            else self.received_tokens - self.potential_saved_tokens,
            compressor_seconds=self.compressor_seconds,
            compressor_tokens=self.model_cost.tokens,
            gpu_seconds=self.model_cost.gpu_seconds,
            fetched_back_tokens=self.fetched_tokens,
            latency_ms=latency,
            overhead_ms=min(latency, 1000 * self.overhead_seconds),
            skipped=encode_labels(self.skip_counts),
            passages=encode_passages([passage for passage in self.passages if passage.reason != "too-short"]),
            session=self.options.session or "",
            user=self.options.user or "",
            project=self.options.project or "",
            tags=encode_labels(self.options.tags),
            key=self.options.key_name,
            price_table=prices.get_table_version(),
            expand_tokens=0 if bill is None else self._added_tokens,
            expand_cost=estimates.expand_cost,
            cache_miss=estimates.cache_miss,
        )
        if self.cached_bill is not None:
            usage, service_tier, region = self.cached_bill
            return accounting.apply_cached_bill(row, usage, price, service_tier, region)
        if bill is None:
            return accounting.apply_bill(row, None, price)
        return accounting.apply_priced_bill(row, estimates.priced, price, estimates.baseline, bill)

    def _estimate(self, bill: Bill, price: Price) -> "_Estimates":
        """Return the bill at its prices, and what it would have been without the proxy."""
        priced, baseline = bill.price(self.pricing_model, prices.find_price), None
        try:
            if self.prompt_diff is not None and self.saved_tokens and bill.readings:
                priced, baseline = bill_baseline.estimate_bill_baseline(
                    bill, priced, price, self._build_prompt, self.hidden_call_tokens
                )
            expand_cost = self._estimate_expand_cost(bill, price)
            return _Estimates(priced, baseline, expand_cost, self._classify_cache_miss(bill, price))
        except Exception as error:  # noqa: BLE001 - fail open: an estimate must not cost the client its answer
            log.warning("cannot estimate the cost without the proxy: %s", type(error).__name__)
            return _Estimates(priced)

    @property
    def _added_tokens(self) -> int:
        return sum([passage.after for passage in self.passages if passage.kind == ADDED_KIND])

    def _build_prompt(self) -> Prompt | None:
        """Return our count of the prompt, or None if no saved token certainly counts.

        That is so if the provider has cleared something and does not say how many tool results.
        """
        diff, facts = self.prompt_diff, self.reply_facts
        if diff is None or (facts.cleared_tokens and facts.cleared_tool_uses is None):
            return None
        return diff.build_prompt(get_token_counter(self.pricing_model), facts)

    def _classify_cache_miss(self, bill: Bill, price: Price) -> CacheMiss:
        if self.cache_misses is None or self.prompt_diff is None or self.outcome != "ok":
            return ""
        return self.cache_misses.classify(self.options.key_name, self.prompt_diff, bill, price)

    def _estimate_expand_cost(self, bill: Bill, price: Price) -> float | None:
        if not self._added_tokens:
            return 0.0
        first_added = next(passage.after for passage in self.passages if passage.kind == ADDED_KIND)
        return bill_baseline.estimate_expand_cost(bill, price, first_added, self.hidden_call_tokens)
