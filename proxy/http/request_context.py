"""One request from its arrival to its row in the ledger: what is learned on the way, in one place."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import urandom
from time import perf_counter, time, time_ns

from ...compression.compressor import NO_USAGE, ModelUsage
from ...compression.tokens import get_token_counter
from ...config import prices
from ...config.prices import Price
from ..protocols.api_errors import ApiError, UpstreamError
from ..protocols.prompt_diff import PromptDiff
from ..stores import accounting, baseline
from ..stores.ledger import Ledger
from ..stores.ledger_row import ADDED_KIND, COUNT_TOKENS_PROTOCOL, Outcome, Passage, Row, encode_labels, encode_passages
from ..stores.usage import Usage, read_usage
from .exchange import ClientDisconnected, RawHeaders
from .request_options import RequestOptions

log = logging.getLogger(__name__)


@dataclass(slots=True)
class RequestContext:
    """What is known of a request so far. Sizes in tokens, times in seconds.

    `rounds` holds what had been used when the upstream was asked again, each time; `unseen` the tokens of calls in its
    last reply that the client does not get to see. `alias_of` is the model behind a name of the operator's own. `late`:
    time ran out for this request's compression, and not only, some time ago, for one of its passages.
    """

    path: str
    options: RequestOptions
    protocol: str = "openai"
    id: str = field(default_factory=lambda: f"req_{time_ns():016x}{urandom(6).hex()}")
    timestamp: float = field(default_factory=time)
    start_time: float = field(default_factory=perf_counter)
    model: str = ""
    alias_of: str = ""
    mode: str = "off"
    engine: str = "none"
    is_streamed: bool = False
    status: int = 0
    outcome: Outcome = "ok"
    received_tokens: int = 0
    saved_tokens: int = 0
    potential_saved_tokens: int | None = None
    is_estimated: bool = False
    is_late: bool = False
    passages: tuple[Passage, ...] = ()
    skip_counts: dict[str, int] = field(default_factory=dict[str, int])
    compressor_seconds: float = 0.0
    model_cost: ModelUsage = NO_USAGE
    overhead_seconds: float = 0.0
    fetched_tokens: int = 0
    usage: object = None
    offers_expand_tool: bool = False
    prompt_diff: PromptDiff | None = None
    round_usages: list[object] = field(default_factory=list[object])
    hidden_call_tokens: int = 0

    @property
    def pricing_model(self) -> str:
        """Return the name by which the model's prices, vocabulary and window are known."""
        return self.alias_of or self.model

    @contextmanager
    def record_in_ledger(self, ledger: Ledger) -> Generator[None]:
        """Leave one row in the ledger, which says what became of the request, whatever that is (law 7)."""
        try:
            yield
        except (
            ClientDisconnected,
            asyncio.CancelledError,
        ):  # the client left, or we are told to stop: what was sent is billed
            self.outcome = "cancelled"
            raise
        except ApiError as error:
            self.status = self.status or error.status
            self.record_error(error)
            raise
        except BaseException:
            self.outcome = "failed"
            raise
        finally:
            ledger.write(self.build_row())

    def record_error(self, error: ApiError) -> None:
        """Write down whose fault an error is."""
        theirs = isinstance(error, UpstreamError)
        self.outcome = "upstream_error" if theirs else "rejected" if error.status < 500 else "failed"

    def add_proxy_tokens(self, tokens: int) -> None:
        """Count tokens that the proxy itself sends: what it offers, and what it asks again."""
        if tokens:
            self.saved_tokens -= tokens
            self.passages = (*self.passages, Passage(ADDED_KIND, "", 0, tokens))

    def build_response_headers(self) -> RawHeaders:
        """Return the headers that tell the client what was done; known before the upstream answers."""
        after = self.received_tokens - self.saved_tokens
        told = [
            ("mode", self.mode),
            ("engine", self.engine),
            ("tokens-before", str(self.received_tokens)),
            ("tokens-after", str(after)),
            ("tokens-saved", str(self.saved_tokens)),
            ("ratio", f"{self.received_tokens / after:.2f}" if after > 0 else "1.00"),
            ("latency-ms", f"{1000 * self.overhead_seconds:.2f}"),
            ("skipped", ", ".join(f"{reason}={count}" for reason, count in self.skip_counts.items())),
            ("request-id", self.id),
        ]
        if self.potential_saved_tokens is not None:
            told.append(("would-save", str(self.potential_saved_tokens)))
        headers = [(f"x-clara-{name}".encode(), value.encode()) for name, value in told]
        return [*headers, (b"server-timing", f"clara;dur={1000 * self.overhead_seconds:.2f}".encode())]

    def build_row(self) -> Row:
        """Write the visit down, with the provider's bill as far as it came."""
        return (self._clear_token_counts() if self.protocol == COUNT_TOKENS_PROTOCOL else self)._build_row()

    def _clear_token_counts(self) -> "RequestContext":
        """Return the visit as one that sent no model a token and so saved none, whatever the provider counted."""
        outcome: Outcome = "served" if self.outcome == "ok" else self.outcome
        return replace(
            self, received_tokens=0, saved_tokens=0, potential_saved_tokens=None, passages=(), outcome=outcome
        )

    def _build_row(self) -> Row:
        latency = 1000 * (perf_counter() - self.start_time)
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
            passages=encode_passages(passage for passage in self.passages if passage.reason != "too-short"),
            session=self.options.session or "",
            user=self.options.user or "",
            project=self.options.project or "",
            tags=encode_labels(self.options.tags),
            key=self.options.key_name,
        )
        usage, price = read_usage(self.usage), prices.find_price(self.pricing_model)
        bills = [read_usage(one) or Usage() for one in self.round_usages]
        try:
            without = self._estimate_baseline(usage, bills, price)
        except Exception as error:  # noqa: BLE001 - law 4: no sum of ours may cost the client its answer
            log.warning("what a request would have cost is not known: %s", type(error).__name__)
            without = None
        return accounting.apply_bill(row, usage, price, without, longest_prompt=_find_longest_prompt(usage, bills))

    def _estimate_baseline(self, usage: Usage | None, bills: list[Usage], price: Price | None) -> Usage | None:
        """Return what the provider would have billed without us; None where that is not known or nothing was changed.

        There would have been one prompt: the first one, as it came. What the model said in order to have something back
        it would not have said.
        """
        if usage is None or self.prompt_diff is None or not self.saved_tokens:
            return None
        found = baseline.estimate_baseline(
            bills[0] if bills else usage,
            self.prompt_diff.build_prompt(get_token_counter(self.pricing_model)),
            has_cache_rate=price is not None and price.cache_read is not None,
            min_cached_tokens=None if price is None else price.min_cacheable_tokens,
        )
        unasked = self.hidden_call_tokens + ((bills[-1].output or 0) if bills else 0)
        return found if not unasked or usage.output is None else replace(found, output=max(0, usage.output - unasked))


def _find_longest_prompt(usage: Usage | None, bills: list[Usage]) -> int | None:
    """Return the length of the longest prompt, where there were several: the last one, which has the others in it."""
    if usage is None or usage.input is None or not bills:
        return None
    return usage.input - (bills[-1].input or 0)
