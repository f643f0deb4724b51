"""One request from its arrival to its row in the ledger: what is learned on the way, in one place."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import urandom
from time import perf_counter, time, time_ns

from ...compression.compressor import NOTHING, Spent
from ...compression.tokens import vocabulary
from ...config import prices
from ...config.prices import Price
from ..protocols.api_errors import ApiError, UpstreamError
from ..protocols.prompt_diff import Layout
from ..stores import accounting, baseline
from ..stores.ledger import Ledger
from ..stores.ledger_row import ADDED, COUNTING, Outcome, Passage, Row, labels_json, passages_json
from ..stores.usage import Usage, read_usage
from .exchange import ClientGone, RawHeaders
from .request_options import Steering

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Visit:
    """What is known of a request so far. Sizes in tokens, times in seconds.

    `rounds` holds what had been used when the upstream was asked again, each time; `unseen` the tokens of calls in its
    last reply that the client does not get to see. `alias_of` is the model behind a name of the operator's own. `late`:
    time ran out for this request's compression, and not only, some time ago, for one of its passages.
    """

    path: str
    steering: Steering
    protocol: str = "openai"
    id: str = field(default_factory=lambda: f"req_{time_ns():016x}{urandom(6).hex()}")
    at: float = field(default_factory=time)
    started: float = field(default_factory=perf_counter)
    model: str = ""
    alias_of: str = ""
    mode: str = "off"
    engine: str = "none"
    streamed: bool = False
    status: int = 0
    outcome: Outcome = "ok"
    received: int = 0
    saved: int = 0
    would_save: int | None = None
    estimated: bool = False
    late: bool = False
    passages: tuple[Passage, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    compressor_seconds: float = 0.0
    spent: Spent = NOTHING
    overhead: float = 0.0
    fetched_back: int = 0
    usage: object = None
    offered: bool = False
    layout: Layout | None = None
    rounds: list[object] = field(default_factory=list[object])
    unseen: int = 0

    @property
    def priced_as(self) -> str:
        """Return the name by which the model's prices, vocabulary and window are known."""
        return self.alias_of or self.model

    @contextmanager
    def accounted(self, ledger: Ledger) -> Generator[None]:
        """Leave one row in the ledger, which says what became of the request, whatever that is (law 7)."""
        try:
            yield
        except (ClientGone, asyncio.CancelledError):  # the client left, or we are told to stop: what was sent is billed
            self.outcome = "cancelled"
            raise
        except ApiError as error:
            self.status = self.status or error.status
            self.judge(error)
            raise
        except BaseException:
            self.outcome = "failed"
            raise
        finally:
            ledger.write(self.row())

    def judge(self, error: ApiError) -> None:
        """Write down whose fault an error is."""
        theirs = isinstance(error, UpstreamError)
        self.outcome = "upstream_error" if theirs else "rejected" if error.status < 500 else "failed"

    def added(self, tokens: int) -> None:
        """Count tokens that the proxy itself sends: what it offers, and what it asks again."""
        if tokens:
            self.saved -= tokens
            self.passages = (*self.passages, Passage(ADDED, "", 0, tokens))

    def response_headers(self) -> RawHeaders:
        """Return the headers that tell the client what was done; known before the upstream answers."""
        after = self.received - self.saved
        told = [
            ("mode", self.mode),
            ("engine", self.engine),
            ("tokens-before", str(self.received)),
            ("tokens-after", str(after)),
            ("tokens-saved", str(self.saved)),
            ("ratio", f"{self.received / after:.2f}" if after > 0 else "1.00"),
            ("latency-ms", f"{1000 * self.overhead:.2f}"),
            ("skipped", ", ".join(f"{reason}={count}" for reason, count in self.skipped.items())),
            ("request-id", self.id),
        ]
        if self.would_save is not None:
            told.append(("would-save", str(self.would_save)))
        headers = [(f"x-clara-{name}".encode(), value.encode()) for name, value in told]
        return [*headers, (b"server-timing", f"clara;dur={1000 * self.overhead:.2f}".encode())]

    def row(self) -> Row:
        """Write the visit down, with the provider's bill as far as it came."""
        return (self._only_counted() if self.protocol == COUNTING else self)._row()

    def _only_counted(self) -> "Visit":
        """Return the visit as one that sent no model a token and so saved none, whatever the provider counted."""
        outcome: Outcome = "served" if self.outcome == "ok" else self.outcome
        return replace(self, received=0, saved=0, would_save=None, passages=(), outcome=outcome)

    def _row(self) -> Row:
        latency = 1000 * (perf_counter() - self.started)
        row = Row(
            id=self.id,
            at=self.at,
            protocol=self.protocol,
            path=self.path,
            model=self.model,
            mode_asked=self.steering.mode,
            mode_used=self.mode,
            engine=self.engine,
            streamed=self.streamed,
            status=self.status,
            outcome=self.outcome,
            tokens_received=self.received,
            tokens_sent=self.received - self.saved,
            tokens_estimated=self.estimated,
            would_send=None if self.would_save is None else self.received - self.would_save,
            compressor_seconds=self.compressor_seconds,
            compressor_tokens=self.spent.tokens,
            gpu_seconds=self.spent.gpu_seconds,
            fetched_back_tokens=self.fetched_back,
            latency_ms=latency,
            overhead_ms=min(latency, 1000 * self.overhead),
            skipped=labels_json(self.skipped),
            passages=passages_json(passage for passage in self.passages if passage.reason != "too-short"),
            session=self.steering.session or "",
            user=self.steering.user or "",
            project=self.steering.project or "",
            tags=labels_json(self.steering.tags),
            key=self.steering.key,
        )
        usage, price = read_usage(self.usage), prices.find(self.priced_as)
        bills = [read_usage(one) or Usage() for one in self.rounds]
        try:
            without = self._without(usage, bills, price)
        except Exception as error:  # noqa: BLE001 - law 4: no sum of ours may cost the client its answer
            log.warning("what a request would have cost is not known: %s", type(error).__name__)
            without = None
        return accounting.settle(row, usage, price, without, longest=_longest(usage, bills))

    def _without(self, usage: Usage | None, bills: list[Usage], price: Price | None) -> Usage | None:
        """Return what the provider would have billed without us; None where that is not known or nothing was changed.

        There would have been one prompt: the first one, as it came. What the model said in order to have something back
        it would not have said.
        """
        if usage is None or self.layout is None or not self.saved:
            return None
        found = baseline.without(
            bills[0] if bills else usage,
            self.layout.prompt(vocabulary(self.priced_as)),
            caches=price is not None and price.cache_read is not None,
            least=None if price is None else price.cache_least,
        )
        unasked = self.unseen + ((bills[-1].output or 0) if bills else 0)
        return found if not unasked or usage.output is None else replace(found, output=max(0, usage.output - unasked))


def _longest(usage: Usage | None, bills: list[Usage]) -> int | None:
    """Return the length of the longest prompt, where there were several: the last one, which has the others in it."""
    if usage is None or usage.input is None or not bills:
        return None
    return usage.input - (bills[-1].input or 0)
