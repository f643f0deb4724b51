"""How much of what matters survives extraction: literal answers in what is left, at 2x, 4x and 10x.

    python -m clara_proxy.benchmarks.retention [--data ../shared/data] [--limit N] [--only NAME ...]
    python -m clara_proxy.benchmarks.retention --peers headroom,kompact,litellm [--sample 60] [--seed 2026]

Asks no model. For every passage the target is its tokens divided by the ratio; an answer survives when it stands
verbatim in the rendered output, markers included in its size. Two baselines see the same passages and targets: the
first and last lines, and the lines ranked by plain BM25 over lower-case words. A third, only when it is named, knows
the answers, and says what any choice of whole lines could reach. With peers a sample goes through them as well
(`retention_peers`). Ends with one line of JSON.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from time import perf_counter

from ..compression import registry
from ..compression.compressor import CompressedPassage, Gap, Task
from ..compression.markers import render
from ..compression.tokens import get_token_counter
from . import retention_peers
from .retention_cases import READERS, Case, count_survivors, read_cases

RATIOS = (2, 4, 10)
MODEL = "gpt-4"  # counts in cl100k_base, like the data's own figures


@dataclass(slots=True)
class RetentionTotals:
    """Running sums over the passages of one data file, one method and one ratio."""

    survived_literals: int = 0
    wanted_literals: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    seconds: float = 0.0
    compressor_names: Counter[str] = field(default_factory=Counter[str])


Method = Callable[[Task, Sequence[str]], tuple[str, str]]  # the literals are for the method that knows them


def run_extract(task: Task, _: Sequence[str]) -> tuple[str, str]:
    """Shorten with the compressor that the registry finds."""
    compressor = registry.find_compressor(task.text)
    condensed = compressor.compress(task)
    return (task.text if condensed is None else render(condensed, None)), compressor.name


def keep_head_and_tail(task: Task, _: Sequence[str]) -> tuple[str, str]:
    """Keep the first and the last lines, half of the target each."""
    lines = task.text.split("\n")
    order = [index // 2 if index % 2 == 0 else len(lines) - 1 - index // 2 for index in range(len(lines))]
    return _keep_lines(task, lines, order), "head+tail"


def rank_by_bm25(task: Task, _: Sequence[str]) -> tuple[str, str]:
    """Keep the lines ranked highest by BM25 over lower-case words; ties go to the earlier line."""
    lines = task.text.split("\n") if "\n" in task.text else re.split(r"(?<=[.!?]) ", task.text)
    asked = set(re.findall(r"\w+", task.question.lower()))
    words = [Counter(word for word in re.findall(r"\w+", line.lower()) if word in asked) for line in lines]
    having = Counter(word for counts in words for word in counts)
    average = sum(map(len, lines)) / len(lines) or 1.0
    idf = {word: log(1 + (len(lines) - df + 0.5) / (df + 0.5)) for word, df in having.items()}
    scores = [
        sum(
            idf[word] * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(line) / average))
            for word, times in counts.items()
        )
        for line, counts in zip(lines, words, strict=True)
    ]
    return _keep_lines(task, lines, sorted(range(len(lines)), key=lambda index: -scores[index])), "bm25"


def keep_known_lines(task: Task, literals: Sequence[str]) -> tuple[str, str]:
    """Keep the shortest line that holds each literal, the cheapest first: what a choice that knows them can reach."""
    lines = task.text.split("\n")
    holding = [[at for at, line in enumerate(lines) if literal in line] for literal in literals]
    chosen = {min(places, key=lambda at: len(lines[at])) for places in holding if places}
    return _keep_lines(task, lines, sorted(chosen, key=lambda at: len(lines[at]))), "knowing"


def _keep_lines(task: Task, lines: list[str], order: list[int]) -> str:
    """Take lines in this order as long as they fit; where the markers make it too much, try again with less room."""
    costs = [task.count(line) + 1 for line in lines]
    room = task.target
    output = ""
    for _ in range(4):
        output = _select_within(room, lines, costs, order)
        if task.count(output) <= task.target:
            break
        room = int(room * 0.95 * task.target / task.count(output))
    return output


def _select_within(room: int, lines: list[str], costs: list[int], order: list[int]) -> str:
    kept: set[int] = set()
    for index in order:
        if costs[index] <= room or not kept:
            room -= costs[index]
            kept.add(index)
    parts: list[str | Gap] = []
    for index, line in enumerate(lines):
        if index in kept:
            parts.append(line)
        elif parts and isinstance(parts[-1], Gap):
            parts[-1] = Gap(parts[-1].left_out + 1, "lines")
        else:
            parts.append(Gap(1, "lines"))
    return render(CompressedPassage(tuple(parts), len(lines), "lines"), None)


METHODS: dict[str, Method] = {
    "extract": run_extract,
    "head+tail": keep_head_and_tail,
    "bm25": rank_by_bm25,
    "knowing": keep_known_lines,
}


def measure_case(case: Case, method: str, ratio: int, tallies: dict[tuple[str, str, int], RetentionTotals]) -> None:
    """Run one method on one passage and add up what came of it."""
    count = get_token_counter(MODEL).count
    before = count(case.text)
    task = Task(case.text, case.question, max(1, before // ratio), count)
    began = perf_counter()
    output, name = METHODS[method](task, [literal for literals in case.answers.values() for literal in literals])
    seconds = perf_counter() - began
    for what, literals in case.answers.items():
        survived, wanted = count_survivors(literals, what, output)
        for row in case.list_row_names(what) if literals else ():
            tally = tallies[row, method, ratio]
            tally.survived_literals += survived
            tally.wanted_literals += wanted
            tally.tokens_before += before
            tally.tokens_after += count(output)
            tally.seconds += seconds
            tally.compressor_names[name] += 1


def format_table(tallies: dict[tuple[str, str, int], RetentionTotals]) -> Iterator[str]:
    """Lay the sums out: at each ratio the share of literals that survived, of tokens kept, and the time it took."""
    heads = "".join(f"{f'{ratio}x alive':>10}{'kept':>6}{'ms/10k':>8}" for ratio in RATIOS)
    yield f"{'data':<32}{'method':<11}{heads}  by"
    for row, method in sorted(
        {(row, method) for row, method, _ in tallies}, key=lambda pair: (pair[0], list(METHODS).index(pair[1]))
    ):
        cells = [tallies[row, method, ratio] for ratio in RATIOS]
        figures = "".join(
            f"{one.survived_literals / max(1, one.wanted_literals):>10.3f}{one.tokens_after / max(1, one.tokens_before):>6.2f}"
            f"{one.seconds * 1e7 / max(1, one.tokens_before):>8.1f}"
            for one in cells
        )
        names = (
            ", ".join(f"{name} {times}" for name, times in cells[0].compressor_names.most_common(6))
            if method == "extract"
            else ""
        )
        yield f"{row:<32}{method:<11}{figures}  {names}"


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--limit", type=int, help="items of each file at most")
    parser.add_argument("--only", nargs="*", choices=list(READERS), help="these files only")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS)[:3])
    parser.add_argument("--peers", default="", help="compare with these, separated by commas: headroom,kompact,litellm")
    parser.add_argument("--sample", type=int, default=60, help="with peers: passages of each file and kind at most")
    parser.add_argument("--seed", type=int, default=2026, help="with peers: which passages")
    asked = parser.parse_args()
    if asked.peers:
        found = (case for case in read_cases(asked.data, asked.limit) if not asked.only or case.data in asked.only)
        print(json.dumps(retention_peers.run_comparison(found, asked.peers.split(","), asked.sample, asked.seed)))
        return
    tallies: dict[tuple[str, str, int], RetentionTotals] = defaultdict(RetentionTotals)
    for case in read_cases(asked.data, asked.limit):
        if not asked.only or case.data in asked.only:
            for method in asked.methods:
                for ratio in RATIOS:
                    measure_case(case, method, ratio, tallies)
    print("\n".join(format_table(tallies)))
    print(
        json.dumps(
            {
                "benchmark": "retention",
                "results": [
                    {
                        "data": row,
                        "method": method,
                        "ratio": ratio,
                        "survived": round(one.survived_literals / max(1, one.wanted_literals), 4),
                        "tokens_kept": round(one.tokens_after / max(1, one.tokens_before), 4),
                        "ms_per_10k_tokens": round(one.seconds * 1e7 / max(1, one.tokens_before), 2),
                        "literals": one.wanted_literals,
                    }
                    for (row, method, ratio), one in tallies.items()
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
