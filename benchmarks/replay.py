"""Replays recorded runs of agents: `python -m clara_proxy.benchmarks.replay [FILE] [--curve]`.

Asks no model and sends nothing: every conversation is planned and shortened as the proxy does it, and what would have
been forwarded is counted turn by turn, each message again in every request that holds it. Prints the share of tokens
saved, of all and of tools' outputs (`once`: each output counted once), by agent and of the median conversation, and the
share of the spans used later (`spans`) that were lost. Epochs are not replayed: no recorded run is long enough to end
one. Ends with one line of JSON.
"""

import argparse
import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from ..compression.engine import Engine
from ..compression.policy import Rules
from ..compression.tokens import vocabulary
from ..config.settings import Settings
from ..proxy.commands.demo.replay import conversations
from ..proxy.shorten import Shortener, Wanted
from ..proxy.stores.accounting import Passage
from ..proxy.stores.originals import Originals
from ..proxy.wires import chat
from ..proxy.wires.shapes import Json
from . import spans
from .spans import Span

MODEL = "gpt-4o"
COUNTED = vocabulary(MODEL)
RATIOS: tuple[float | None, ...] = (None, 1.5, 2, 3, 5, 10)
LEAST = (150, 400, 1000)


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded conversation: what is in it, what it costs to send, and what was used of it.

    `tokens` of each message as a whole, `requests` that each is part of, `fixed` tokens of every request.
    """

    name: str
    agent: str
    messages: Sequence[Json]
    tokens: Sequence[int]
    requests: Sequence[int]
    fixed: int
    used: Sequence[Span]


@dataclass(slots=True)
class Sums:
    """Tokens and spans of some conversations, replayed; `shares` are the conversations' own savings."""

    received: int = 0
    sent: int = 0
    outputs: int = 0
    outputs_sent: int = 0
    once: int = 0
    once_sent: int = 0
    used: int = 0
    lost: int = 0
    shares: list[float] = field(default_factory=list[float])
    reasons: Counter[str] = field(default_factory=Counter[str])

    def figures(self) -> dict[str, float | int]:
        """Return the shares, in the words of the table."""
        return {
            "saved": _share(self.received - self.sent, self.received),
            "outputs_saved": _share(self.outputs - self.outputs_sent, self.outputs),
            "outputs_saved_once": _share(self.once - self.once_sent, self.once),
            "median_saved": round(median(self.shares), 4) if self.shares else 0.0,
            "spans": self.used,
            "spans_lost": _share(self.lost, self.used),
        }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def read(file: Path | None) -> Iterator[Run]:
    """Read the recorded conversations; those bundled for the demonstration when no file is given."""
    for one in conversations(file):
        messages: list[Json] = one["messages"]
        turns = [message["role"] == "assistant" for message in messages]
        offered = chat.texts({"tools": one.get("tools") or []}, [])
        yield Run(
            name=str(one["id"]),
            agent=str(one["agent"]),
            messages=messages,
            tokens=[sum(map(COUNTED.count, chat.texts({}, [message]))) + chat.PER_MESSAGE for message in messages],
            requests=[sum(turns[index + 1 :]) for index in range(len(messages))],
            fixed=sum(map(COUNTED.count, offered)) + chat.PER_REPLY,
            used=list(spans.find(messages)),
        )


async def replay(run: Run, rules: Rules, shortener: Shortener) -> tuple[list[str], Counter[str]]:
    """Return what would be forwarded for each message, and how many tokens of outputs stay whole, by reason."""
    wanted = Wanted(
        mode="extract",
        rules=rules,
        vocabulary=COUNTED,
        agentic=True,
        owner="",
        fetches=None,
        keeps=False,
        seconds=600,
    )
    turns = chat.turns(list(run.messages))
    shortened = await shortener.shorten(turns, wanted, new=0)
    forwarded = ["\n".join(shortened.edits.get(slot, slot.text) for slot in turn.slots) for turn in turns]
    return forwarded, _reasons(shortened.passages)


def _reasons(passages: Iterable[Passage]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for passage in passages:
        if passage.kind == "tool":
            counted[passage.reason or "shortened"] += passage.before
    return counted


def add(sums: Sums, run: Run, forwarded: Sequence[str], reasons: Counter[str]) -> None:
    """Add up what one replayed conversation costs, saves and loses."""
    received = sent = 0
    for index, message in enumerate(run.messages):
        times = run.requests[index]
        before = COUNTED.count("\n".join(chat.contents(message)))
        fewer = before - COUNTED.count(forwarded[index])
        received += times * run.tokens[index]
        sent += times * (run.tokens[index] - fewer)
        if message["role"] == "tool":
            sums.outputs += times * before
            sums.outputs_sent += times * (before - fewer)
            sums.once += before
            sums.once_sent += before - fewer
    overhead = run.fixed * (run.requests[0] + (run.messages[0]["role"] == "assistant"))
    sums.received += received + overhead
    sums.sent += sent + overhead
    sums.shares.append(_share(received - sent, received + overhead))
    sums.used += len(run.used)
    sums.lost += sum(spans.lost(span, forwarded) for span in run.used)
    sums.reasons += reasons


def rules_of(settings: Settings) -> Rules:
    """Return what a request without any header of ours asks for; no epoch ends."""
    return Rules(
        ratio=settings.ratio,
        min_tokens=settings.min_tokens,
        roles=frozenset(settings.roles),
        budget=settings.budget,
        query=None,
        protected_tools=frozenset(settings.protected_tools),
        file_tools=frozenset(settings.file_tools),
        epoch_tokens=10**12,
    )


def settings_of_the_curve(default: Rules) -> Iterator[tuple[str, Rules]]:
    """Name the settings that the curve goes through."""
    for files in (True, False):
        for ratio in RATIOS:
            for least in LEAST:
                size = "by kind" if ratio is None else f"{ratio:g}x"
                tools = default.file_tools if files else None
                rules = replace(default, ratio=ratio, min_tokens=least, file_tools=tools)
                yield f"{size}, from {least}, files {'kept' if files else 'too'}", rules


async def measure(runs: Sequence[Run], rules: Rules, shortener: Shortener) -> dict[str, Sums]:
    """Replay all conversations; sums by agent, and of all under the empty name."""
    sums: dict[str, Sums] = defaultdict(Sums)
    for run in runs:
        forwarded, reasons = await replay(run, rules, shortener)
        for name in ("", run.agent):
            add(sums[name], run, forwarded, reasons)
    return sums


def row(name: str, sums: Sums) -> str:
    """Lay one line of the table out."""
    one = sums.figures()
    shares = ("saved", "outputs_saved", "outputs_saved_once", "median_saved")
    cells = "".join(f"{100 * one[share]:>9.1f}" for share in shares)
    return f"{name:<36}{cells}{sums.used:>8}{100 * one['spans_lost']:>8.2f}"


async def run(file: Path | None, *, curve: bool) -> dict[str, Any]:
    """Measure and print; returns what the line of JSON says."""
    began = perf_counter()
    runs = list(read(file))
    engine = Engine(workers=1, queue=10**6, cache_bytes=10**9)
    shortener = Shortener({"extract": engine}, Originals(Path("never-opened"), 60))
    try:
        default = rules_of(Settings())
        print(f"{'% of tokens':<36}{'saved':>9}{'outputs':>9}{'once':>9}{'median':>9}{'spans':>8}{'% lost':>8}")
        sums = await measure(runs, default, shortener)
        for agent, one in sums.items():
            print(row(agent or "all, default settings", one))
        whole = sum(sums[""].reasons.values())
        for reason, tokens in sums[""].reasons.most_common():
            print(f"  {100 * tokens / whole:5.1f} % of the outputs' tokens, each counted once: {reason}")
        points = {}
        for name, rules in settings_of_the_curve(default) if curve else ():
            one = (await measure(runs, rules, shortener))[""]
            points[name] = one.figures()
            print(row(name, one))
    finally:
        engine.close()
    agents = {agent or "all": one.figures() for agent, one in sums.items()}
    return {"benchmark": "replay", "agents": agents, "curve": points, "seconds": round(perf_counter() - began, 1)}


def main() -> None:
    """Replay, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="conversations, gzip JSON lines (default: the bundled ones)")
    parser.add_argument("--curve", action="store_true", help="also replay at other ratios, sizes, and with files")
    asked = parser.parse_args()
    print(json.dumps(asyncio.run(run(asked.file, curve=asked.curve))))


if __name__ == "__main__":
    main()
