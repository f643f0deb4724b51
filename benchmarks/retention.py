"""Measures how many literal answers survive extraction at 2x, 4x and 10x.

    python -m clara_proxy.benchmarks.retention [--data ../shared/data] [--limit N] [--only NAME ...]
    python -m clara_proxy.benchmarks.retention --peers headroom,kompact,litellm [--sample 60] [--seed 2026]

No model is asked. The target of a passage is its number of tokens divided by the ratio. An answer survives if the
rendered output contains it verbatim; markers count as tokens of the output. Two baselines get the same passages and
targets: the first and last lines, and the lines with the best BM25 score over lower-case words. A third one, `knowing`,
runs only by request: it knows the answers, and is the upper bound for a selection of whole lines. With peers, a sample
of the passages is compressed by them as well (`retention_peers`). The last line of the output is JSON.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from ..compression import registry
from ..compression.compressor import Task
from ..compression.markers import render
from ..compression.tokens import get_token_counter
from ..proxy.evaluation.baselines import keep_lines, rank_by_bm25
from . import retention_peers
from .retention_cases import READERS, Case, count_survivors, read_cases

RATIOS = (2, 4, 10)
MODEL = "gpt-4"  # cl100k_base, as in the data


@dataclass(slots=True)
class RetentionTotals:
    """Sums over the passages of one data file, method and ratio."""

    survived_literals: int = 0
    wanted_literals: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    seconds: float = 0.0
    compressor_names: Counter[str] = field(default_factory=Counter[str])


Method = Callable[[Task, Sequence[str]], tuple[str, str]]  # task, literals (used by `knowing`) -> output, compressor


def run_extract(task: Task, _: Sequence[str]) -> tuple[str, str]:
    """Compress with the compressor from the registry."""
    compressor = registry.find_compressor(task.text)
    passage = compressor.compress(task)
    return (task.text if passage is None else render(passage, None)), compressor.name


def keep_head_and_tail(task: Task, _: Sequence[str]) -> tuple[str, str]:
    """Keep the first and the last lines, half of the target each."""
    lines = task.text.split("\n")
    order = [index // 2 if index % 2 == 0 else len(lines) - 1 - index // 2 for index in range(len(lines))]
    return keep_lines(task, lines, order), "head+tail"


def keep_best_lines(task: Task, _: Sequence[str]) -> tuple[str, str]:
    """Keep the lines with the best BM25 score."""
    return rank_by_bm25(task), "bm25"


def keep_known_lines(task: Task, literals: Sequence[str]) -> tuple[str, str]:
    """Keep the shortest line that contains each literal, the shortest first: the upper bound."""
    lines = task.text.split("\n")
    candidates = [[index for index, line in enumerate(lines) if literal in line] for literal in literals]
    kept_lines = {min(places, key=lambda index: len(lines[index])) for places in candidates if places}
    return keep_lines(task, lines, sorted(kept_lines, key=lambda index: len(lines[index]))), "knowing"


METHODS: dict[str, Method] = {
    "extract": run_extract,
    "head+tail": keep_head_and_tail,
    "bm25": keep_best_lines,
    "knowing": keep_known_lines,
}


def measure_case(
    case: Case, method: str, ratio: int, totals_by_row: dict[tuple[str, str, int], RetentionTotals]
) -> None:
    """Run one method on one passage, and add the result to the totals."""
    count = get_token_counter(MODEL).count
    before = count(case.text)
    task = Task(case.text, case.question, max(1, before // ratio), count)
    start = perf_counter()
    output, name = METHODS[method](task, [literal for literals in case.answers.values() for literal in literals])
    seconds = perf_counter() - start
    for kind, literals in case.answers.items():
        survivors, literal_count = count_survivors(literals, kind, output)
        for row in case.list_row_names(kind) if literals else ():
            totals = totals_by_row[row, method, ratio]
            totals.survived_literals += survivors
            totals.wanted_literals += literal_count
            totals.tokens_before += before
            totals.tokens_after += count(output)
            totals.seconds += seconds
            totals.compressor_names[name] += 1


def format_table(totals_by_row: dict[tuple[str, str, int], RetentionTotals]) -> Iterator[str]:
    """Yield the lines of the table: at each ratio the share of survivors, the share of tokens kept, and the time."""
    header = "".join(f"{f'{ratio}x alive':>10}{'kept':>6}{'ms/10k':>8}" for ratio in RATIOS)
    yield f"{'data':<32}{'method':<11}{header}  by"
    for row, method in sorted(
        {(row, method) for row, method, _ in totals_by_row}, key=lambda pair: (pair[0], list(METHODS).index(pair[1]))
    ):
        cells = [totals_by_row[row, method, ratio] for ratio in RATIOS]
        numbers = "".join(map(_format_totals, cells))
        names = (
            ", ".join(f"{name} {frequency}" for name, frequency in cells[0].compressor_names.most_common(6))
            if method == "extract"
            else ""
        )
        yield f"{row:<32}{method:<11}{numbers}  {names}"


def _format_totals(totals: RetentionTotals) -> str:
    tokens = max(1, totals.tokens_before)
    survived = totals.survived_literals / max(1, totals.wanted_literals)
    return f"{survived:>10.3f}{totals.tokens_after / tokens:>6.2f}{totals.seconds * 1e7 / tokens:>8.1f}"


def main() -> None:
    """Measure, and print the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int, help="maximum number of items of each file")
    parser.add_argument("--only", nargs="*", choices=list(READERS), help="only these files")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS)[:3])
    parser.add_argument("--peers", default="", help="comma-separated peers to compare with: headroom,kompact,litellm")
    parser.add_argument(
        "--sample", type=int, default=60, help="with peers: maximum number of passages of each file and kind"
    )
    parser.add_argument("--seed", type=int, default=2026, help="with peers: seed of the sample")
    arguments = parser.parse_args()
    if arguments.peers:
        cases = (
            case
            for case in read_cases(arguments.data, arguments.limit)
            if not arguments.only or case.data in arguments.only
        )
        print(
            json.dumps(
                retention_peers.run_comparison(cases, arguments.peers.split(","), arguments.sample, arguments.seed)
            )
        )
        return
    totals_by_row: dict[tuple[str, str, int], RetentionTotals] = defaultdict(RetentionTotals)
    for case in read_cases(arguments.data, arguments.limit):
        if not arguments.only or case.data in arguments.only:
            for method in arguments.methods:
                for ratio in RATIOS:
                    measure_case(case, method, ratio, totals_by_row)
    print("\n".join(format_table(totals_by_row)))
    print(
        json.dumps(
            {
                "benchmark": "retention",
                "results": [
                    {
                        "data": row,
                        "method": method,
                        "ratio": ratio,
                        "survived": round(totals.survived_literals / max(1, totals.wanted_literals), 4),
                        "tokens_kept": round(totals.tokens_after / max(1, totals.tokens_before), 4),
                        "ms_per_10k_tokens": round(totals.seconds * 1e7 / max(1, totals.tokens_before), 2),
                        "literals": totals.wanted_literals,
                    }
                    for (row, method, ratio), totals in totals_by_row.items()
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
