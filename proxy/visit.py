"""One request from its arrival to its row in the ledger: what is learned on the way, in one place."""

from dataclasses import dataclass, field, replace
from os import urandom
from time import perf_counter, time, time_ns

from ..compression.compressor import NOTHING, Spent
from ..config import prices
from .exchange import RawHeaders
from .steering import Steering
from .stores import accounting
from .stores.accounting import Outcome, Passage, Row


@dataclass(slots=True)
class Visit:
    """What is known of a request so far. Sizes in tokens, times in seconds."""

    path: str
    steering: Steering
    protocol: str = "openai"
    id: str = field(default_factory=lambda: f"req_{time_ns():016x}{urandom(6).hex()}")
    at: float = field(default_factory=time)
    started: float = field(default_factory=perf_counter)
    model: str = ""
    mode: str = "off"
    engine: str = "none"
    streamed: bool = False
    status: int = 0
    outcome: Outcome = "ok"
    received: int = 0
    saved: int = 0
    would_save: int | None = None
    estimated: bool = False
    passages: tuple[Passage, ...] = ()
    skipped: dict[str, int] = field(default_factory=dict[str, int])
    compressor_seconds: float = 0.0
    spent: Spent = NOTHING
    overhead: float = 0.0
    fetched_back: int = 0
    usage: object = None
    offered: bool = False

    def added(self, tokens: int) -> None:
        """Count tokens that the proxy itself sends: what it offers, and what it asks again."""
        if tokens:
            self.saved -= tokens
            self.passages = (*self.passages, Passage(accounting.ADDED, "", 0, tokens))

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
        return (self._only_counted() if self.protocol == accounting.COUNTING else self)._row()

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
            skipped=accounting.skipped_json(self.skipped),
            passages=accounting.passages_json(passage for passage in self.passages if passage.reason != "too-short"),
            session=self.steering.session or "",
            user=self.steering.user or "",
            project=self.steering.project or "",
            tags=accounting.tags_json(self.steering.tags),
        )
        return accounting.settle(row, accounting.read_usage(self.usage), prices.find(self.model))
