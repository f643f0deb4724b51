"""Measure whether real tool outputs keep what the answer to a question needs.

    python -m clara_proxy.benchmarks.tool_outputs [FILE] [--ratio N] [--show NAME] [--failures] [--peers NAMES]

Each case is a tool output behind the question and the tool call that produced it. It counts as kept if all its regular
expressions (`needles`) still match the forwarded text. Prints a table by content type and ends with one JSON line.
Without FILE it reads `../shared/cases/outputs.jsonl.gz`. With peers (headroom, kompact), the same outputs go through
them, each in an environment of its own (`retention_peers`), and one more table has all side by side.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from ..compression.tokens import get_token_counter
from ..config.settings import Settings
from ..proxy.runtime.in_process import compress
from .retention_cases import Case
from .retention_peers import PeerProcess, ensure_environment

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "outputs.jsonl.gz"
SETTINGS = Settings(model="none", deadline_ms=60_000)
TOKEN_COUNTER = get_token_counter("gpt-4o")


class CaseResult(NamedTuple):
    """One case: the forwarded text, tokens before and after, the needles that no longer match, seconds."""

    name: str
    kind: str
    text: str
    tokens_before: int
    tokens_after: int
    missing: list[str]
    seconds: float


def read_cases(file: Path) -> list[dict[str, Any]]:
    """Read the cases, one JSON object per line."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def run_case(case: dict[str, Any], ratio: float | None) -> CaseResult:
    """Compress the output of one case as the proxy does."""
    call = {"name": case["tool"], "arguments": json.dumps({"command": case["command"]})}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": case["question"]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": case["text"]},
    ]
    started = perf_counter()
    tools = [{"type": "function", "function": {"name": case["tool"], "parameters": {"type": "object"}}}]
    result = compress(messages, ratio=ratio, tools=tools, custom_settings=SETTINGS)
    seconds = perf_counter() - started
    text: str = result.messages[-1]["content"]
    return _judge(case, text, seconds)


def run_peer(name: str, cases: list[dict[str, Any]]) -> list[CaseResult]:
    """Compress the outputs with a peer, at the size that the peer chooses."""
    with PeerProcess(name, ensure_environment(name)) as peer:
        print(f"{peer.name} {peer.version}" + (f"; could not run here: {peer.missing}" if peer.missing else ""))
        replies = [peer.compress_case(Case("", case["text"], case["question"], {}), 0.0) for case in cases]
    return [_judge(case, reply["text"], reply["seconds"]) for case, reply in zip(cases, replies, strict=True)]


def _judge(case: dict[str, Any], text: str, seconds: float) -> CaseResult:
    missing = [needle for needle in case["needles"] if not re.search(needle, text, re.MULTILINE)]
    before, after = TOKEN_COUNTER.count(case["text"]), TOKEN_COUNTER.count(text)
    return CaseResult(case["name"], case["kind"], text, before, after, missing, seconds)


def summarize(results: list[CaseResult]) -> dict[str, float]:
    """Return the share of cases kept, and the mean and total share of tokens sent."""
    shares = [result.tokens_after / result.tokens_before for result in results]
    return {
        "cases": len(results),
        "kept": round(sum(not result.missing for result in results) / len(results), 3),
        "sent_mean": round(sum(shares) / len(shares), 3),
        "sent_total": round(
            sum(result.tokens_after for result in results) / sum(result.tokens_before for result in results), 3
        ),
        "seconds": round(sum(result.seconds for result in results), 2),
    }


def format_table(results: list[CaseResult]) -> Iterator[str]:
    """Yield the table's lines, one content type each."""
    yield f"{'content type':<14} {'cases':>5} {'kept':>6} {'sent':>6}"
    for kind in [*sorted({result.kind for result in results}), "all"]:
        totals = summarize([result for result in results if kind in (result.kind, "all")])
        yield f"{kind:<14} {totals['cases']:>5} {totals['kept']:>6.1%} {totals['sent_total']:>6.1%}"


def format_comparison(columns: dict[str, list[CaseResult]]) -> Iterator[str]:
    """Yield the lines of a table with all columns: outputs kept whole, and tokens sent, by content type."""
    kinds = [*sorted({result.kind for results in columns.values() for result in results}), "all"]
    yield f"{'kept (sent)':<14} {'cases':>5} " + "".join(f"{title:>18}" for title in columns)
    for kind in kinds:
        totals = [
            summarize([result for result in results if kind in (result.kind, "all")]) for results in columns.values()
        ]
        cells = "".join(
            f"{total['kept']:>10.1%} {'(' + format(total['sent_total'], '.1%') + ')':>7}" for total in totals
        )
        yield f"{kind:<14} {totals[0]['cases']:>5} {cells}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Measure whether tool outputs keep what the answer needs.")
    parser.add_argument("file", nargs="?", type=Path, default=CASES)
    parser.add_argument("--ratio", type=float, action="append", help="compression ratio; may be repeated")
    parser.add_argument("--show", help="print the forwarded text of this case")
    parser.add_argument("--failures", action="store_true", help="list the cases that lost something")
    parser.add_argument("--peers", default="", help="comma-separated peers to compare with: headroom,kompact")
    arguments = parser.parse_args()
    cases = [case for case in read_cases(arguments.file) if arguments.show in (None, case["name"])]
    summary: dict[str, dict[str, float]] = {}
    columns: dict[str, list[CaseResult]] = {}
    for ratio in arguments.ratio or [None, 4]:
        title = "default" if ratio is None else f"{ratio:g}x"
        results = [run_case(case, ratio) for case in cases]
        print(f"\n{title}", *format_table(results), sep="\n")
        for result in results:
            if arguments.failures and result.missing:
                print(f"  {result.name}: {result.tokens_before} -> {result.tokens_after}: {result.missing}")
            if arguments.show:
                print(result.text)
        summary[title] = summarize(results)
        columns[title] = results
    for name in filter(None, arguments.peers.split(",")):
        columns[name] = run_peer(name, cases)
        summary[name] = summarize(columns[name])
    if arguments.peers:
        print("", *format_comparison(columns), sep="\n")
    print(json.dumps({"benchmark": "tool_outputs", **summary}))


if __name__ == "__main__":
    main()
