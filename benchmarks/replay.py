"""Replay recorded agent runs, and measure the saved tokens and the lost spans.

    python -m clara_proxy.benchmarks.replay [FILE] [--curve]

No request is sent. Each conversation is compressed with the proxy's own pipeline, and the forwarded tokens are counted
for every turn; a message counts once for each request that contains it. An epoch is the requests between two pruning
points: at its end, stale tool outputs are pruned and the forwarded prefix changes. The context window has no limit.

The table has a row for each agent. The columns are the percentages of saved tokens (of all tokens, of tool outputs, of
tool outputs counted once as first forwarded, and of the median conversation), the number of spans of tool outputs that
the agent uses later (see `spans`), the percentage of them missing in the request before their use, and the number of
pruning points. The last line is JSON.
"""

import argparse
import asyncio
import json
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from ..compression import planning
from ..compression.engine import Engine
from ..compression.policy import Rules
from ..compression.tokens import get_token_counter
from ..compression.transcript import Turn
from ..config import prices
from ..config.settings import Settings
from ..proxy.commands.demo.run import read_conversations
from ..proxy.pipeline.compress import CompressionOptions, ConversationCompressor
from ..proxy.protocols import chat
from ..proxy.protocols.json_types import Json
from ..proxy.stores.ledger_row import Passage
from ..proxy.stores.originals import Originals
from . import spans
from .spans import Span

MODEL = "gpt-4o"
VOCABULARY = get_token_counter(MODEL)
RATIOS: tuple[float | None, ...] = (None, 1.5, 2, 3, 5, 10)
MIN_TOKENS = (150, 400, 1000)
EPOCH_PRICES = (0, 3, 6, 9, 16, 23)


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A recorded conversation, its token counts, and the spans that the agent uses.

    `message_tokens` and `request_counts` have an entry for each message: its tokens, and the number of requests that
    contain it. `fixed_tokens` are the tokens of the tools and of the reply's start, part of every request.
    """

    name: str
    agent: str
    messages: Sequence[Json]
    message_tokens: Sequence[int]
    request_counts: Sequence[int]
    fixed_tokens: int
    used_spans: Sequence[Span]


class EpochStage(NamedTuple):
    """The requests of one epoch: the number of messages of each, and the forwarded text of each message."""

    request_lengths: Sequence[int]
    forwarded_texts: Sequence[str]

    def count_requests(self, message: int) -> int:
        """Return the number of requests that contain the message with this index."""
        return len(self.request_lengths) - bisect_right(self.request_lengths, message)


@dataclass(slots=True)
class ReplayTotals:
    """Tokens and spans of replayed conversations.

    `late_spans` are first used after a pruning point. `saved_shares` has the saved share of each conversation.
    `reasons` has the tokens of the tool outputs, each counted once, by skip reason (or `compressed`).
    """

    received: int = 0
    sent: int = 0
    output_tokens: int = 0
    output_tokens_sent: int = 0
    unique_output_tokens: int = 0
    unique_output_tokens_sent: int = 0
    used_spans: int = 0
    lost_spans: int = 0
    epochs: int = 0
    late_spans: int = 0
    late_lost_spans: int = 0
    saved_shares: list[float] = field(default_factory=list[float])
    reasons: Counter[str] = field(default_factory=Counter[str])

    def compute_shares(self) -> dict[str, float | int]:
        """Return the shares and counts under their JSON keys."""
        return {
            "saved": _divide(self.received - self.sent, self.received),
            "outputs_saved": _divide(self.output_tokens - self.output_tokens_sent, self.output_tokens),
            "outputs_saved_once": _divide(
                self.unique_output_tokens - self.unique_output_tokens_sent, self.unique_output_tokens
            ),
            "median_saved": round(median(self.saved_shares), 4) if self.saved_shares else 0.0,
            "spans": self.used_spans,
            "spans_lost": _divide(self.lost_spans, self.used_spans),
            "epochs": self.epochs,
            "spans_late": self.late_spans,
            "spans_late_lost": _divide(self.late_lost_spans, self.late_spans),
        }


def _divide(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def read_runs(file: Path | None) -> Iterator[RecordedRun]:
    """Yield the recorded conversations of a file (default: those of the demo)."""
    for conversation in read_conversations(file):
        messages: list[Json] = conversation["messages"]
        turns = [message["role"] == "assistant" for message in messages]
        tool_texts = chat.list_counted_texts({"tools": conversation.get("tools") or []}, [])
        yield RecordedRun(
            name=str(conversation["id"]),
            agent=str(conversation["agent"]),
            messages=messages,
            message_tokens=[
                sum(map(VOCABULARY.count, chat.list_counted_texts({}, [message]))) + chat.TOKENS_PER_MESSAGE
                for message in messages
            ],
            request_counts=[sum(turns[index + 1 :]) for index in range(len(messages))],
            fixed_tokens=sum(map(VOCABULARY.count, tool_texts)) + chat.TOKENS_PER_REPLY,
            used_spans=list(spans.find_spans(messages)),
        )


async def replay_run(
    run: RecordedRun, rules: Rules, compressor: ConversationCompressor
) -> tuple[list[EpochStage], Counter[str]]:
    """Return the forwarded texts by epoch, and the tokens of the tool outputs of the last request by skip reason."""
    options = CompressionOptions(
        mode="extract",
        rules=rules,
        vocabulary=VOCABULARY,
        agentic=True,
        owner_id="",
        reference_format=None,
        stores_originals=False,
        fail_closed=False,
        timeout=600,
        start_time=perf_counter(),
    )
    turns = chat.build_turns(list(run.messages))
    stages: list[EpochStage] = []
    for requests in _split_stages(run, turns, rules):
        epoch_turns = turns[: requests[-1]]
        result = await compressor.compress(epoch_turns, options)
        texts = ["\n".join(result.compressed.edits.get(slot, slot.text) for slot in turn.slots) for turn in epoch_turns]
        stages.append(EpochStage(requests, texts))
    last = await compressor.compress(turns, options)
    return stages, _sum_reasons(last.compressed.passages)


def _split_stages(run: RecordedRun, turns: Sequence[Turn], rules: Rules) -> list[list[int]]:
    """Group the requests by epoch. A request is the number of its messages, all before an assistant message."""
    stages: list[list[int]] = []
    for index, message in enumerate(run.messages):
        if message["role"] != "assistant" or not index:
            continue
        if not stages or planning.plan_compression(turns[:index], rules, VOCABULARY, has_tools=True).prefix_changed:
            stages.append([])
        stages[-1].append(index)
    return stages


def _sum_reasons(passages: Iterable[Passage]) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for passage in passages:
        if passage.kind == "tool":
            reasons[passage.reason or "compressed"] += passage.before
    return reasons


def add_run(sums: ReplayTotals, run: RecordedRun, stages: Sequence[EpochStage], reasons: Counter[str]) -> None:
    """Add the tokens and spans of one replayed conversation to the totals."""
    received = sum(count * tokens for count, tokens in zip(run.request_counts, run.message_tokens, strict=True))
    sent = received
    for index, message in enumerate(run.messages):
        is_output = message["role"] == "tool"
        before = VOCABULARY.count("\n".join(chat.iter_content_texts(message)))
        savings = [
            before - VOCABULARY.count(stage.forwarded_texts[index]) if index < len(stage.forwarded_texts) else 0
            for stage in stages
        ]
        saved = sum(stage.count_requests(index) * saving for stage, saving in zip(stages, savings, strict=True))
        sent -= saved
        if is_output:
            pairs = zip(stages, savings, strict=True)
            first_saving = next((saving for stage, saving in pairs if stage.count_requests(index)), 0)
            sums.output_tokens += run.request_counts[index] * before
            sums.output_tokens_sent += run.request_counts[index] * before - saved
            sums.unique_output_tokens += before
            sums.unique_output_tokens_sent += before - first_saving
    overhead = run.fixed_tokens * (run.request_counts[0] + (run.messages[0]["role"] == "assistant"))
    sums.received += received + overhead
    sums.sent += sent + overhead
    sums.saved_shares.append(_divide(received - sent, received + overhead))
    sums.epochs += max(0, len(stages) - 1)
    sums.reasons += reasons
    _count_spans(sums, run, stages)


def _count_spans(sums: ReplayTotals, run: RecordedRun, stages: Sequence[EpochStage]) -> None:
    """Count the spans. A span is lost if the request before its first use does not contain it."""
    ends = [stage.request_lengths[-1] for stage in stages]
    for span in run.used_spans:
        index = bisect_left(ends, span.first_use)
        is_lost = spans.is_lost(span, stages[index].forwarded_texts)
        sums.used_spans += 1
        sums.lost_spans += is_lost
        sums.late_spans += index > 0
        sums.late_lost_spans += is_lost and index > 0


def build_rules(settings: Settings) -> Rules:
    """Return the rules of a request without `x-clara-*` headers, without a limit of the context window."""
    return Rules(
        ratio=settings.ratio,
        min_tokens=settings.min_tokens,
        roles=frozenset(settings.roles),
        budget=settings.budget,
        query=None,
        protected_tools=frozenset(settings.protected_tools),
        file_tools=frozenset(settings.file_tools),
        epoch_tokens=10**12,
        epoch_price=prices.find_rewrite_price(MODEL) if settings.epoch_price is None else settings.epoch_price,
    )


def iter_curve_rules(default: Rules) -> Iterator[tuple[str, Rules]]:
    """Yield the name and the rules of each point of the curve; the names are JSON keys."""
    for price in EPOCH_PRICES:
        yield f"an epoch ends at a price of {price}" if price else "no epoch ends", replace(default, epoch_price=price)
    for keeps_files in (True, False):
        for ratio in RATIOS:
            for min_tokens in MIN_TOKENS:
                size = "by kind" if ratio is None else f"{ratio:g}x"
                file_tools = default.file_tools if keeps_files else None
                rules = replace(default, ratio=ratio, min_tokens=min_tokens, file_tools=file_tools, epoch_price=0)
                yield f"{size}, from {min_tokens}, files {'kept' if keeps_files else 'too'}", rules


async def measure_runs(
    runs: Sequence[RecordedRun], rules: Rules, compressor: ConversationCompressor
) -> dict[str, ReplayTotals]:
    """Replay all conversations, and return the totals by agent; the empty name has the totals of all agents."""
    sums: dict[str, ReplayTotals] = defaultdict(ReplayTotals)
    for run in runs:
        stages, reasons = await replay_run(run, rules, compressor)
        for name in ("", run.agent):
            add_run(sums[name], run, stages, reasons)
    return sums


def format_row(name: str, sums: ReplayTotals) -> str:
    """Return one row of the table."""
    shares = sums.compute_shares()
    columns = ("saved", "outputs_saved", "outputs_saved_once", "median_saved")
    cells = "".join(f"{100 * shares[column]:>9.1f}" for column in columns)
    return f"{name:<36}{cells}{sums.used_spans:>8}{100 * shares['spans_lost']:>8.2f}{sums.epochs:>9}"


async def run_benchmark(file: Path | None, *, curve: bool) -> dict[str, Any]:
    """Replay a file, print the table, and return the JSON result."""
    start = perf_counter()
    runs = list(read_runs(file))
    engine = Engine(workers=1, queue_limit=10**6, cache_bytes=10**9)
    compressor = ConversationCompressor({"extract": engine}, Originals(Path("never-opened"), 60))
    try:
        default = build_rules(Settings())
        headings = ("saved", "outputs", "once", "median")
        columns = "".join(f"{heading:>9}" for heading in headings)
        print(f"{'% of tokens saved':<36}{columns}{'spans':>8}{'% lost':>8}{'prunings':>9}")
        sums = await measure_runs(runs, default, compressor)
        for agent, totals in sums.items():
            print(format_row(agent or "all, default settings", totals))
        output_tokens = sum(sums[""].reasons.values())
        for reason, tokens in sums[""].reasons.most_common():
            print(f"  {100 * tokens / output_tokens:5.1f} % of the tool outputs' tokens, each counted once: {reason}")
        points: dict[str, Any] = {}
        for name, rules in iter_curve_rules(default) if curve else ():
            totals = (await measure_runs(runs, rules, compressor))[""]
            points[name] = totals.compute_shares()
            print(format_row(name, totals))
    finally:
        engine.close()
    agents = {agent or "all": totals.compute_shares() for agent, totals in sums.items()}
    return {"benchmark": "replay", "agents": agents, "curve": points, "seconds": round(perf_counter() - start, 1)}


def main() -> None:
    """Replay, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="conversations, gzip JSON lines (default: the bundled ones)")
    parser.add_argument("--curve", action="store_true", help="also replay with other ratios, sizes and file rules")
    options = parser.parse_args()
    print(json.dumps(asyncio.run(run_benchmark(options.file, curve=options.curve))))


if __name__ == "__main__":
    main()
