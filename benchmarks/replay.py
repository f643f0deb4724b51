"""Replays recorded runs of agents: `python -m clara_proxy.benchmarks.replay [FILE] [--curve]`.

Asks no model and sends nothing: every conversation is planned and shortened as the proxy does it, and what would have
been forwarded is counted turn by turn, each message again in every request that holds it. Prints the share of tokens
saved, of all and of tools' outputs (`once`: each output as it was first forwarded), by agent and of the median
conversation, the share of the spans used later (`spans`) that the request they were used after did not hold, and how
many epochs ended. No window fills up: no recorded run is long enough. Ends with one line of JSON.
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

from ..compression import policy
from ..compression.engine import Engine
from ..compression.policy import Rules
from ..compression.tokens import get_token_counter
from ..compression.transcript import Turn
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
    """A recorded conversation: what is in it, what it costs to send, and what was used of it.

    `tokens` of each message as a whole, `requests` that each is part of, `fixed` tokens of every request.
    """

    name: str
    agent: str
    messages: Sequence[Json]
    message_tokens: Sequence[int]
    request_counts: Sequence[int]
    fixed_tokens: int
    used_spans: Sequence[Span]


class EpochStage(NamedTuple):
    """Requests between two ends of epochs, by how many messages they hold, and what they forward for each message."""

    request_lengths: Sequence[int]
    forwarded_texts: Sequence[str]

    def count_requests(self, message: int) -> int:
        """Return how many of the requests hold a message."""
        return len(self.request_lengths) - bisect_right(self.request_lengths, message)


@dataclass(slots=True)
class ReplayTotals:
    """Tokens and spans of some conversations, replayed; `shares` are the conversations' own savings.

    `used_late` and `lost_late` are the spans that were first used after an epoch had ended.
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
        """Return the shares, in the words of the table."""
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
    """Read the recorded conversations; those bundled for the demonstration when no file is given."""
    for one in read_conversations(file):
        messages: list[Json] = one["messages"]
        turns = [message["role"] == "assistant" for message in messages]
        offered = chat.list_counted_texts({"tools": one.get("tools") or []}, [])
        yield RecordedRun(
            name=str(one["id"]),
            agent=str(one["agent"]),
            messages=messages,
            message_tokens=[
                sum(map(VOCABULARY.count, chat.list_counted_texts({}, [message]))) + chat.TOKENS_PER_MESSAGE
                for message in messages
            ],
            request_counts=[sum(turns[index + 1 :]) for index in range(len(messages))],
            fixed_tokens=sum(map(VOCABULARY.count, offered)) + chat.TOKENS_PER_REPLY,
            used_spans=list(spans.find_spans(messages)),
        )


async def replay_run(
    run: RecordedRun, rules: Rules, shortener: ConversationCompressor
) -> tuple[list[EpochStage], Counter[str]]:
    """Return what is forwarded, stage by stage, and how many tokens of outputs stay whole at last, by reason."""
    wanted = CompressionOptions(
        mode="extract",
        rules=rules,
        vocabulary=VOCABULARY,
        agentic=True,
        owner_id="",
        reference_format=None,
        stores_originals=False,
        fail_closed=False,
        timeout=600,
    )
    turns = chat.build_turns(list(run.messages))
    stages: list[EpochStage] = []
    for requests in _split_stages(run, turns, rules):
        shortened = await shortener.compress(turns[: requests[-1]], wanted, new_chars=0)
        texts = [
            "\n".join(shortened.edits.get(slot, slot.text) for slot in turn.slots) for turn in turns[: requests[-1]]
        ]
        stages.append(EpochStage(requests, texts))
    last = await shortener.compress(turns, wanted, new_chars=0)
    return stages, _sum_reasons(last.passages)


def _split_stages(run: RecordedRun, turns: Sequence[Turn], rules: Rules) -> list[list[int]]:
    """Part the requests where an epoch has ended; each holds the messages before one of the model's."""
    found: list[list[int]] = []
    for index, message in enumerate(run.messages):
        if message["role"] != "assistant" or not index:
            continue
        if not found or policy.plan_compression(turns[:index], rules, VOCABULARY, has_tools=True).prefix_changed:
            found.append([])
        found[-1].append(index)
    return found


def _sum_reasons(passages: Iterable[Passage]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for passage in passages:
        if passage.kind == "tool":
            counted[passage.reason or "shortened"] += passage.before
    return counted


def add_run(sums: ReplayTotals, run: RecordedRun, stages: Sequence[EpochStage], reasons: Counter[str]) -> None:
    """Add up what one replayed conversation costs, saves and loses."""
    received = sum(times * tokens for times, tokens in zip(run.request_counts, run.message_tokens, strict=True))
    sent = received
    for index, message in enumerate(run.messages):
        is_output = message["role"] == "tool"
        before = VOCABULARY.count("\n".join(chat.iter_content_texts(message)))
        fewer = [
            before - VOCABULARY.count(one.forwarded_texts[index]) if index < len(one.forwarded_texts) else 0
            for one in stages
        ]
        saved = sum(one.count_requests(index) * few for one, few in zip(stages, fewer, strict=True))
        sent -= saved
        if is_output:
            first = next((few for one, few in zip(stages, fewer, strict=True) if one.count_requests(index)), 0)
            sums.output_tokens += run.request_counts[index] * before
            sums.output_tokens_sent += run.request_counts[index] * before - saved
            sums.unique_output_tokens += before
            sums.unique_output_tokens_sent += before - first
    overhead = run.fixed_tokens * (run.request_counts[0] + (run.messages[0]["role"] == "assistant"))
    sums.received += received + overhead
    sums.sent += sent + overhead
    sums.saved_shares.append(_divide(received - sent, received + overhead))
    sums.epochs += max(0, len(stages) - 1)
    sums.reasons += reasons
    _count_spans(sums, run, stages)


def _count_spans(sums: ReplayTotals, run: RecordedRun, stages: Sequence[EpochStage]) -> None:
    """Count the spans; one is lost when the request after which it was used did not hold it."""
    ends = [one.request_lengths[-1] for one in stages]
    for span in run.used_spans:
        stage = bisect_left(ends, span.first_use)
        is_lost = spans.is_lost(span, stages[stage].forwarded_texts)
        sums.used_spans += 1
        sums.lost_spans += is_lost
        sums.late_spans += stage > 0
        sums.late_lost_spans += is_lost and stage > 0


def build_rules(settings: Settings) -> Rules:
    """Return what a request without any header of ours asks for; no window fills up."""
    return Rules(
        ratio=settings.ratio,
        min_tokens=settings.min_tokens,
        roles=frozenset(settings.roles),
        budget=settings.budget,
        query=None,
        protected_tools=frozenset(settings.protected_tools),
        file_tools=frozenset(settings.file_tools),
        epoch_tokens=10**12,
        epoch_price=settings.epoch_price,
    )


def iter_curve_rules(default: Rules) -> Iterator[tuple[str, Rules]]:
    """Name the settings that the curve goes through."""
    for price in EPOCH_PRICES:
        yield f"an epoch ends at a price of {price}" if price else "no epoch ends", replace(default, epoch_price=price)
    for files in (True, False):
        for ratio in RATIOS:
            for least in MIN_TOKENS:
                size = "by kind" if ratio is None else f"{ratio:g}x"
                tools = default.file_tools if files else None
                rules = replace(default, ratio=ratio, min_tokens=least, file_tools=tools, epoch_price=0)
                yield f"{size}, from {least}, files {'kept' if files else 'too'}", rules


async def measure_runs(
    runs: Sequence[RecordedRun], rules: Rules, shortener: ConversationCompressor
) -> dict[str, ReplayTotals]:
    """Replay all conversations; sums by agent, and of all under the empty name."""
    sums: dict[str, ReplayTotals] = defaultdict(ReplayTotals)
    for run in runs:
        stages, reasons = await replay_run(run, rules, shortener)
        for name in ("", run.agent):
            add_run(sums[name], run, stages, reasons)
    return sums


def format_row(name: str, sums: ReplayTotals) -> str:
    """Lay one line of the table out."""
    one = sums.compute_shares()
    shares = ("saved", "outputs_saved", "outputs_saved_once", "median_saved")
    cells = "".join(f"{100 * one[share]:>9.1f}" for share in shares)
    return f"{name:<36}{cells}{sums.used_spans:>8}{100 * one['spans_lost']:>8.2f}{sums.epochs:>8}"


async def run_benchmark(file: Path | None, *, curve: bool) -> dict[str, Any]:
    """Measure and print; returns what the line of JSON says."""
    began = perf_counter()
    runs = list(read_runs(file))
    engine = Engine(workers=1, queue_limit=10**6, cache_bytes=10**9)
    shortener = ConversationCompressor({"extract": engine}, Originals(Path("never-opened"), 60))
    try:
        default = build_rules(Settings())
        print(
            f"{'% of tokens':<36}{'saved':>9}{'outputs':>9}{'once':>9}{'median':>9}"
            f"{'spans':>8}{'% lost':>8}{'epochs':>8}"
        )
        sums = await measure_runs(runs, default, shortener)
        for agent, one in sums.items():
            print(format_row(agent or "all, default settings", one))
        whole = sum(sums[""].reasons.values())
        for reason, tokens in sums[""].reasons.most_common():
            print(f"  {100 * tokens / whole:5.1f} % of the outputs' tokens, each counted once: {reason}")
        points = {}
        for name, rules in iter_curve_rules(default) if curve else ():
            one = (await measure_runs(runs, rules, shortener))[""]
            points[name] = one.compute_shares()
            print(format_row(name, one))
    finally:
        engine.close()
    agents = {agent or "all": one.compute_shares() for agent, one in sums.items()}
    return {"benchmark": "replay", "agents": agents, "curve": points, "seconds": round(perf_counter() - began, 1)}


def main() -> None:
    """Replay, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="conversations, gzip JSON lines (default: the bundled ones)")
    parser.add_argument("--curve", action="store_true", help="also replay at other ratios, sizes, and with files")
    asked = parser.parse_args()
    print(json.dumps(asyncio.run(run_benchmark(asked.file, curve=asked.curve))))


if __name__ == "__main__":
    main()
