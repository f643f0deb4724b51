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

from ..compression import registry, sizes
from ..compression.engine import Job, Outcome, run
from ..compression.tokens import vocabulary
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


class Row(NamedTuple):
    """What came of one output: share of tokens kept, whether the asked fact stands, how many others do, the time."""

    plant: Plant
    ratio: float
    tokens: int
    compressor: str
    kept: float
    asked: bool
    unasked: int
    milliseconds: float


def measure(plant: Plant, ratio: float) -> Row:
    """Shorten one output as the proxy would; a ratio of 0 stands for the size that its kind gets by default."""
    vocabulary_ = vocabulary(MODEL)
    before = vocabulary_.count(plant.text)
    default = sizes.target(registry.find(plant.text).name, before) or before
    job = Job(plant.text, plant.question, int(before / ratio) if ratio else default, None, vocabulary_)
    outcomes: list[Outcome] = []
    seconds: list[float] = []
    for _ in range(ROUNDS):
        began = process_time()
        outcomes.append(run(job))
        seconds.append(process_time() - began)
    left = plant.text if outcomes[0].text is None else outcomes[0].text
    return Row(
        plant,
        ratio,
        before,
        outcomes[0].compressor,
        outcomes[0].tokens / before,
        plant.asked in left,
        sum(fact in left for fact in plant.unasked),
        1000 * median(seconds),
    )


def table(rows: list[Row]) -> Iterator[str]:
    """Lay the rows out."""
    yield f"{'output':<24}{'tokens':>8}{'ratio':>7}  {'by':<10}{'kept':>6}{'asked':>7}{'unasked':>9}{'ms':>8}"
    for row in rows:
        yield (
            f"{row.plant.name:<24}{row.tokens:>8,}{row.ratio:>7g}  {row.compressor:<10}{row.kept:>6.3f}"
            f"{'yes' if row.asked else 'NO':>7}{row.unasked:>7}/2{row.milliseconds:>8.1f}"
        )


def summary(rows: list[Row]) -> dict[str, float]:
    """Add up the rows of one ratio."""
    return {
        "ratio": rows[0].ratio,
        "median_kept": round(median(row.kept for row in rows), 4),
        "asked": sum(row.asked for row in rows) / len(rows),
        "unasked": round(sum(row.unasked for row in rows) / (2 * len(rows)), 4),
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
        rows = [measure(plant, ratio) for plant in plants]
        print("\n".join(table(rows)), end="\n\n")
        summaries.append(summary(rows))
    print(json.dumps({"benchmark": "planted", "seed": asked.seed, "outputs": len(plants), "results": summaries}))


if __name__ == "__main__":
    main()
