"""Measures whether extraction keeps the answer to a question, and errors or outliers not in the question.

    python -m clara_proxy.benchmarks.planted [--seed N] [--ratio R ...]

Long outputs of eighteen kinds are generated from a seed (`plants_data`, `plants_text`, `plants_traces`). Each contains
the answer to a question and two errors or outliers. They are compressed by the engine to the default size of a tool
output (ratio 0) and at 4x. No model is asked. Milliseconds are processor time. The last line of the output is JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from random import Random
from statistics import median
from time import process_time
from typing import NamedTuple

from ..compression import policy, registry
from ..compression.engine import CompressionJob, Outcome, run_job
from ..compression.tokens import get_token_counter
from . import plants_data, plants_text, plants_traces
from .plant import Plant

MODEL = "gpt-4o"
PLANTS: tuple[Callable[[Random], Plant], ...] = (
    plants_data.search_results,
    plants_text.app_log,
    plants_text.test_run,
    plants_text.git_diff,
    plants_text.grep,
    plants_text.source_file,
    plants_text.web_page,
    plants_text.report,
    plants_data.table,
    plants_data.nested_api,
    plants_text.stack_traces,
    plants_traces.bare_traces,
    plants_traces.log_of_traces,
    plants_traces.log_with_traces,
    plants_text.package_log,
    plants_text.repeated_reads,
    plants_data.json_lines,
    plants_data.query_result,
)
ROUNDS = 3  # the median time counts


class PlantResult(NamedTuple):
    """The result for one output: the share of tokens kept, the surviving facts, and the time."""

    plant: Plant
    ratio: float
    tokens: int
    compressor: str
    kept_share: float
    has_answer: bool
    unasked_kept: int
    milliseconds: float


def measure_plant(plant: Plant, ratio: float) -> PlantResult:
    """Compress one output as the proxy does; a ratio of 0 means the default size of its content type."""
    counter = get_token_counter(MODEL)
    total = counter.count(plant.text)
    default = policy.compute_kind_target(registry.find_compressor(plant.text).name, total) or total
    job = CompressionJob(
        plant.text, plant.question, int(total / ratio) if ratio else default, None, counter, bool(ratio)
    )
    outcomes: list[Outcome] = []
    seconds: list[float] = []
    for _ in range(ROUNDS):
        start = process_time()
        outcomes.append(run_job(job))
        seconds.append(process_time() - start)
    output = plant.text if outcomes[0].text is None else outcomes[0].text
    return PlantResult(
        plant,
        ratio,
        total,
        outcomes[0].compressor,
        outcomes[0].tokens / total,
        plant.answer in output,
        sum(fact in output for fact in plant.unasked_facts),
        1000 * median(seconds),
    )


def format_table(rows: list[PlantResult]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"{'output':<24}{'tokens':>8}{'ratio':>7}  {'by':<10}{'kept':>6}{'asked':>7}{'unasked':>9}{'ms':>8}"
    for row in rows:
        yield (
            f"{row.plant.name:<24}{row.tokens:>8,}{row.ratio:>7g}  {row.compressor:<10}{row.kept_share:>6.3f}"
            f"{'yes' if row.has_answer else 'NO':>7}{row.unasked_kept:>7}/2{row.milliseconds:>8.1f}"
        )


def summarize_rows(rows: list[PlantResult]) -> dict[str, float]:
    """Return the averages and medians of the rows of one ratio."""
    return {
        "ratio": rows[0].ratio,
        "median_kept": round(median(row.kept_share for row in rows), 4),
        "asked": sum(row.has_answer for row in rows) / len(rows),
        "unasked": round(sum(row.unasked_kept for row in rows) / (2 * len(rows)), 4),
        "median_ms": round(median(row.milliseconds for row in rows), 2),
        "worst_ms": round(max(row.milliseconds for row in rows), 2),
    }


def main() -> None:
    """Measure, and print the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--ratio", type=float, nargs="*", default=[0.0, 4.0])
    arguments = parser.parse_args()
    plants = [make(Random(f"{arguments.seed} {make.__name__}")) for make in PLANTS]
    summaries: list[dict[str, float]] = []
    for ratio in arguments.ratio:
        rows = [measure_plant(plant, ratio) for plant in plants]
        print("\n".join(format_table(rows)), end="\n\n")
        summaries.append(summarize_rows(rows))
    print(json.dumps({"benchmark": "planted", "seed": arguments.seed, "outputs": len(plants), "results": summaries}))


if __name__ == "__main__":
    main()
