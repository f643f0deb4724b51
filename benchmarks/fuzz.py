"""Searches for texts on which a compressor violates an invariant, by mutating snippets of real data.

    python -m clara_proxy.benchmarks.fuzz [--data ../shared/data] [--seconds 60] [--seed N] [--found FOLDER]
    python -m clara_proxy.benchmarks.fuzz --guided FOLDER ...

The invariants: output is verbatim and in order (for JSON, every string in it), shorter than the text, counted and
deterministic; nothing raises; the time is linear. A seed always generates the same texts, as many as fit the time.
`--guided` runs atheris (install it yourself), which searches for new paths through the code and stores its corpus in
the folder. Violations are written to the folder `--found`, and the search continues. The last line of the output is
JSON.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from random import Random
from time import monotonic, thread_time
from types import FunctionType
from typing import Any, NamedTuple

from ..compression import registry
from ..compression.compressor import CompressedPassage, Compressor, Gap, Task
from ..compression.markers import render
from .retention_cases import read_cases

SNIPPETS_PER_FILE = 40
MAX_TEXT_CHARS = 6_000  # before repetition
RATIOS = (1.1, 2.0, 4.0, 10.0, 1000.0)
REPEAT_COUNT = 20
MAX_SECONDS = 0.05  # for a text of MAX_TEXT_CHARS
MAX_GROWTH = 130  # factor of the time for REPEAT_COUNT times the text; quadratic time has 400
QUESTIONS = ("", "Which error in line 7 failed?", "$[3].name", "src/core read_all", "谁在哪里?", "x" * 300)
RUBBISH_TOKENS = (
    "\n", "\r\n", "\r", "\t", " ", "  ", '"', "'", "`", "\\", "{", "}", "[", "]", "(", ")", "<", ">", "|", "--", "---",
    "+-", "@@ -1,2 +1,2 @@\n", "diff --git a/x b/x\n", "[1]", "[2] ", "Document [1](Title: x) ", "<document>", "</",
    "<!--", "-->", "<script>", "<pre>", "```\n", "error: ", "FAILED x::y\n", "OK\n", "    at x(y:1)\n",
    "Traceback (most recent call last):\n", '  File "x", line 1\n', "2026-01-01 00:00:00 ", "INFO ", "x/y.py:1: ",
    "total 8\n", ",", ";", ":", "=", "= 1 passed =", "...", "。", "\u0301", "\u0130", "\u2028", "\ud800", "\0",
    "\x1b[31m", "é", "日本", "1e999", "-0", '{"a": ', '"a": 1, ', "null", "NaN", "def f():\n", "#", "# x\n", "* ",
    "commit 0123456789abcdef\n", "?? x\n", " M x\n",
)  # fmt: skip


class Trial(NamedTuple):
    """A text and options for one compressor."""

    compressor: Compressor
    text: str
    question: str
    ratio: float


def estimate_tokens(text: str) -> int:
    """Return an estimate of four characters per token; exact sizes do not matter here."""
    return (len(text) + 3) // 4


def find_breach(trial: Trial) -> str:
    """Return a description of the violated invariant, or an empty string."""
    try:
        return _check_trial(trial)
    except Exception as error:  # noqa: BLE001  an exception is a violation
        return f"raised {type(error).__name__}: {error}"


def _check_trial(trial: Trial) -> str:
    start = thread_time()
    recognised = trial.compressor.recognises(trial.text)
    passage = _compress_trial(trial)
    seconds = thread_time() - start
    if recognised != trial.compressor.recognises(trial.text) or passage != _compress_trial(trial):
        return "not deterministic"
    if registry.find_compressor(trial.text).name != registry.find_compressor(trial.text).name:
        return "recognised differently between calls"
    if seconds > MAX_SECONDS and len(trial.text) <= MAX_TEXT_CHARS:
        return f"{seconds:.2f} s for {len(trial.text)} characters"
    return _check_compressed(trial, passage) if passage is not None else ""


def _compress_trial(trial: Trial) -> CompressedPassage | None:
    target = max(1, int(estimate_tokens(trial.text) / trial.ratio))
    return trial.compressor.compress(Task(trial.text, trial.question, target, estimate_tokens))


def _check_compressed(trial: Trial, passage: CompressedPassage) -> str:
    if estimate_tokens(render(passage, None)) >= estimate_tokens(trial.text):
        return "no shorter"
    gaps = [part.left_out for part in passage.parts if isinstance(part, Gap)]
    if not (all(gap > 0 for gap in gaps) and sum(gaps) <= passage.total):
        return f"gaps of {gaps} of {passage.total}"
    end = 0
    for piece in (part for part in passage.parts if isinstance(part, str)):
        if trial.compressor.name == "json":
            if not all(literal in trial.text for literal in re.findall(r'"(?:[^"\\]|\\.)*"', piece)):
                return f"a string that is not in the text: {piece[:80]!r}"
        elif (start := trial.text.find(piece, end)) < 0:
            return f"not verbatim or not in order: {piece[:80]!r}"
        else:
            end = start + len(piece)
    return ""


def check_growth(trial: Trial) -> str:
    """Return a description if the time for REPEAT_COUNT times the text grows too much, or an empty string."""
    short, long = (_measure_fastest(trial._replace(text=trial.text * count)) for count in (1, REPEAT_COUNT))
    return (
        f"{long:.3f} s for {REPEAT_COUNT} times a text that takes {short:.4f} s"
        if long > MAX_GROWTH * max(short, 0.001)
        else ""
    )


def _measure_fastest(trial: Trial) -> float:
    def seconds() -> float:
        start = thread_time()
        trial.compressor.recognises(trial.text)
        _compress_trial(trial)
        return thread_time() - start

    return min(seconds() for _ in range(2))


def decode_trial(data: bytes) -> Trial:
    """Decode a trial: three bytes for the options, then the text; invalid UTF-8 becomes surrogates."""
    options = (*data[:3], 0, 0, 0)
    compressors = registry.list_compressors()
    text = data[3:].decode("utf-8", "surrogateescape")
    return Trial(
        compressors[options[0] % len(compressors)],
        text[:MAX_TEXT_CHARS],
        QUESTIONS[options[1] % len(QUESTIONS)],
        RATIOS[options[2] % len(RATIOS)],
    )


def cut_snippets(folder: Path, rng: Random) -> list[str]:
    """Return pieces of random passages of every kind."""
    texts_by_kind: dict[str, list[str]] = {}
    for case in read_cases(folder, None):
        texts_by_kind.setdefault(f"{case.data} {case.kind}", []).append(case.text)
    snippets: list[str] = []
    for _, texts in sorted(texts_by_kind.items()):
        for text in rng.sample(texts, min(SNIPPETS_PER_FILE, len(texts))):
            start = rng.choice((0, rng.randrange(max(1, len(text)))))
            snippets.append(text[start : start + rng.randint(200, MAX_TEXT_CHARS)])
    return snippets


def mutate_text(rng: Random, snippets: list[str]) -> str:
    """Return a snippet with random insertions, deletions, repetitions and transformations."""
    text = rng.choice(snippets)
    for _ in range(rng.choice((0, 1, 2, 4, 16))):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.choice((0, 1, 10, 100, 1000)))
        other = rng.choice(snippets)
        offset = rng.randint(0, len(other))
        piece = rng.choice(
            (
                "",
                rng.choice(RUBBISH_TOKENS),
                rng.choice(RUBBISH_TOKENS) * rng.choice((2, 30, 500)),
                other[offset : offset + rng.choice((3, 80, 800))],
                text[start:end] * rng.choice((2, 5, 40)),
                text[start:end][::-1],
                text[start:end].swapcase(),
                text[start:end].replace("\n", " "),
            )
        )
        text = (text[:start] + piece + text[end:])[:MAX_TEXT_CHARS]
    return text


def search_breaches(folder: Path, seed: int, seconds: float, judge: Callable[[Trial], None]) -> None:
    """Generate texts from a seed, and pass each with two compressors to the judge, until the time is over."""
    rng = Random(seed)
    snippets = cut_snippets(folder, rng)
    deadline = monotonic() + seconds
    compressors = registry.list_compressors()
    while monotonic() < deadline:
        text = mutate_text(rng, snippets)
        for compressor in (rng.choice(compressors), registry.find_compressor(text)):
            judge(Trial(compressor, text, rng.choice((*QUESTIONS, text[:400])), rng.choice(RATIOS)))


def run_atheris(folder: Path, seconds: float, judge: Callable[[Trial], None], report: Callable[[], None]) -> None:
    """Run atheris. It never returns, so the report is printed before the process exits."""
    deadline = monotonic() + seconds

    def check_data(data: bytes) -> None:
        judge(decode_trial(data))
        if monotonic() > deadline:
            report()
            sys.stdout.flush()
            os._exit(0)

    atheris: Any = import_module("atheris")
    for function in _iter_functions(registry.__name__.rpartition(".")[0]):
        atheris.instrument_func(function)
    atheris.Setup(["fuzz", str(folder), f"-max_len={MAX_TEXT_CHARS}", "-timeout=60"], check_data)
    atheris.Fuzz()


def _iter_functions(package: str) -> Iterator[FunctionType]:
    """Yield the functions and methods of a package's loaded modules; atheris instruments them in place."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith(f"{package}."):
            for value in list(vars(module).values()):
                for member in (value, *vars(value).values()) if isinstance(value, type) else (value,):
                    if isinstance(member, FunctionType) and member.__module__ == name:
                        yield member


def write_seed_corpus(folder: Path, data: Path, rng: Random) -> None:
    """Write snippets as the seed corpus of atheris, each for the compressor that recognises it."""
    folder.mkdir(parents=True, exist_ok=True)
    for text in cut_snippets(data, rng):
        compressor_index = registry.list_compressors().index(registry.find_compressor(text))
        raw = bytes((compressor_index, rng.randrange(256), rng.randrange(256))) + text.encode(
            "utf-8", "surrogateescape"
        )
        (folder / sha256(raw).hexdigest()[:16]).write_bytes(raw)


class BreachRecorder:
    """Checks trials against the invariants, counts them, and writes the violations to a folder."""

    def __init__(self, output_folder: Path | None, growth_sampler: Random) -> None:
        self.output_folder = output_folder
        self.growth_sampler = growth_sampler
        self.trials: Counter[str] = Counter()
        self.breaches: Counter[str] = Counter()

    def __call__(self, trial: Trial) -> None:
        """Check one trial; check the growth of the time for a small sample."""
        self.trials[trial.compressor.name] += 1
        violation = find_breach(trial)
        if not violation and self.growth_sampler.random() < 0.02:
            violation = check_growth(trial)
        if violation:
            self._record_breach(trial, violation)

    def _record_breach(self, trial: Trial, violation: str) -> None:
        key = f"{trial.compressor.name}: {violation[:60]}"
        self.breaches[key] += 1
        if self.breaches[key] == 1:
            print(key, flush=True)
            if self.output_folder is not None:
                self.output_folder.mkdir(parents=True, exist_ok=True)
                name = sha256(repr(trial[1:]).encode()).hexdigest()[:12]
                (self.output_folder / f"{trial.compressor.name}-{name}.json").write_text(
                    json.dumps({**trial._asdict(), "compressor": trial.compressor.name, "said": violation})
                )

    def print_report(self, seed: int) -> None:
        """Print the line of JSON."""
        print(json.dumps({"benchmark": "fuzz", "seed": seed, "trials": self.trials, "breaches": self.breaches}))


def main() -> None:
    """Search, and print the violations and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--found", type=Path, help="write violations to this folder")
    parser.add_argument("--guided", type=Path, help="search with atheris, and keep its corpus in this folder")
    arguments = parser.parse_args()
    judge = BreachRecorder(arguments.found, Random(arguments.seed))
    if arguments.guided is not None:
        write_seed_corpus(arguments.guided, arguments.data, Random(arguments.seed))
        run_atheris(arguments.guided, arguments.seconds, judge, lambda: judge.print_report(arguments.seed))
    search_breaches(arguments.data, arguments.seed, arguments.seconds, judge)
    judge.print_report(arguments.seed)


if __name__ == "__main__":
    main()
