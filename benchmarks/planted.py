"""Whether extraction keeps what was asked for, and also what nobody asked for but anybody would want to know.

    python -m clara_proxy.benchmarks.planted [--seed N] [--ratio R ...]

Long outputs of eighteen kinds are made from a seed (`plants_data`, `plants_text`, `plants_traces`), with one fact that
the question asks for and two errors or outliers in each. They go through the engine at the size that a tool's output
gets by default (ratio 0) and at 4x. Asks no model. Milliseconds are the processor's. Ends with one line of JSON.
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
ROUNDS = 3  # of which the middle time counts


class PlantResult(NamedTuple):
    """What came of one output: share of tokens kept, whether the asked fact stands, how many others do, the time."""

    plant: Plant
    ratio: float
    tokens: int
    compressor: str
    kept_share: float
    has_answer: bool
    unasked_kept: int
    milliseconds: float


def measure_plant(plant: Plant, ratio: float) -> PlantResult:
    """Shorten one output as the proxy would; a ratio of 0 stands for the size that its kind gets by default."""
    vocabulary_ = get_token_counter(MODEL)
    before = vocabulary_.count(plant.text)
    default = policy.compute_kind_target(registry.find_compressor(plant.text).name, before) or before
    job = CompressionJob(plant.text, plant.question, int(before / ratio) if ratio else default, None, vocabulary_)
    outcomes: list[Outcome] = []
    seconds: list[float] = []
    for _ in range(ROUNDS):
        began = process_time()
        outcomes.append(run_job(job))
        seconds.append(process_time() - began)
    left = plant.text if outcomes[0].text is None else outcomes[0].text
    return PlantResult(
        plant,
        ratio,
        before,
        outcomes[0].compressor,
        outcomes[0].tokens / before,
        plant.answer in left,
        sum(fact in left for fact in plant.unasked_facts),
        1000 * median(seconds),
    )


def format_table(rows: list[PlantResult]) -> Iterator[str]:
    """Lay the rows out."""
    yield f"{'output':<24}{'tokens':>8}{'ratio':>7}  {'by':<10}{'kept':>6}{'asked':>7}{'unasked':>9}{'ms':>8}"
    for row in rows:
        yield (
            f"{row.plant.name:<24}{row.tokens:>8,}{row.ratio:>7g}  {row.compressor:<10}{row.kept_share:>6.3f}"
            f"{'yes' if row.has_answer else 'NO':>7}{row.unasked_kept:>7}/2{row.milliseconds:>8.1f}"
        )


def summarize_rows(rows: list[PlantResult]) -> dict[str, float]:
    """Add up the rows of one ratio."""
    return {
        "ratio": rows[0].ratio,
        "median_kept": round(median(row.kept_share for row in rows), 4),
        "asked": sum(row.has_answer for row in rows) / len(rows),
        "unasked": round(sum(row.unasked_kept for row in rows) / (2 * len(rows)), 4),
        "median_ms": round(median(row.milliseconds for row in rows), 2),
        "worst_ms": round(max(row.milliseconds for row in rows), 2),
    }


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--ratio", type=float, nargs="*", default=[0.0, 4.0])
    asked = parser.parse_args()
    plants = [make(Random(f"{asked.seed} {make.__name__}")) for make in PLANTS]
    summaries: list[dict[str, float]] = []
    for ratio in asked.ratio:
        rows = [measure_plant(plant, ratio) for plant in plants]
        print("\n".join(format_table(rows)), end="\n\n")
        summaries.append(summarize_rows(rows))
    print(json.dumps({"benchmark": "planted", "seed": asked.seed, "outputs": len(plants), "results": summaries}))


if __name__ == "__main__":
    main()
