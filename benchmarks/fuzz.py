"""Looks for texts on which a compressor breaks a law: mutated snippets of real data through every one of them.

    python -m clara_proxy.benchmarks.fuzz [--data ../shared/data] [--seconds 60] [--seed N] [--found FOLDER]
    python -m clara_proxy.benchmarks.fuzz --guided FOLDER ...

The laws are the judge: what stays is verbatim and in order (of JSON, every string in it), shorter than the text,
counted and the same each time; nothing raises; twenty times the text takes no more than so many times the work. A seed
makes always the same texts, as many as the clock allows. `--guided` hands the search to atheris, which looks for new
paths through the code and keeps what it learns in the folder; it is no dependency: have it installed. Whatever breaks a
law is written into the folder `--found`, and the search goes on. Ends with one line of JSON.
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

SNIPPETS_PER_FILE = 40  # of each file of the data
MAX_TEXT_CHARS = 6_000  # characters of a text before it is repeated
RATIOS = (1.1, 2.0, 4.0, 10.0, 1000.0)
REPEAT_COUNT = 20
MAX_SECONDS = 0.05  # seconds of a text that is too slow by itself, before it is looked at how it grows
MAX_GROWTH = 130  # times the work that REPEATED times the text may take: 400 would be a trap
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
    """One text for one compressor."""

    compressor: Compressor
    text: str
    question: str
    ratio: float


def estimate_tokens(text: str) -> int:
    """Count tokens roughly, four characters each: the search is for breaches, not for sizes."""
    return (len(text) + 3) // 4


def find_breach(trial: Trial) -> str:
    """Say which law a compressor breaks on a text; nothing when it breaks none."""
    try:
        return _check_trial(trial)
    except Exception as error:  # noqa: BLE001  what is raised is what is looked for
        return f"raised {type(error).__name__}: {error}"


def _check_trial(trial: Trial) -> str:
    began = thread_time()
    recognised = trial.compressor.recognises(trial.text)
    condensed = _compress_trial(trial)
    seconds = thread_time() - began
    if recognised != trial.compressor.recognises(trial.text) or condensed != _compress_trial(trial):
        return "not the same twice"
    if registry.find_compressor(trial.text) is not registry.find_compressor(trial.text):
        return "not the same compressor twice"
    if seconds > MAX_SECONDS and len(trial.text) <= MAX_TEXT_CHARS:
        return f"{seconds:.2f} s for {len(trial.text)} characters"
    return _check_condensed(trial, condensed) if condensed is not None else ""


def _compress_trial(trial: Trial) -> CompressedPassage | None:
    target = max(1, int(estimate_tokens(trial.text) / trial.ratio))
    return trial.compressor.compress(Task(trial.text, trial.question, target, estimate_tokens))


def _check_condensed(trial: Trial, condensed: CompressedPassage) -> str:
    if estimate_tokens(render(condensed, None)) >= estimate_tokens(trial.text):
        return "no shorter"
    gaps = [part.left_out for part in condensed.parts if isinstance(part, Gap)]
    if not (all(gap > 0 for gap in gaps) and sum(gaps) <= condensed.total):
        return f"gaps of {gaps} of {condensed.total}"
    at = 0
    for piece in (part for part in condensed.parts if isinstance(part, str)):
        if trial.compressor.name == "json":
            if not all(said in trial.text for said in re.findall(r'"(?:[^"\\]|\\.)*"', piece)):
                return f"a string that does not stand there: {piece[:80]!r}"
        elif (found := trial.text.find(piece, at)) < 0:
            return f"not verbatim or not in order: {piece[:80]!r}"
        else:
            at = found + len(piece)
    return ""


def check_growth(trial: Trial) -> str:
    """Say whether REPEATED times the text takes much more than REPEATED times the work."""
    few, many = (_measure_fastest(trial._replace(text=trial.text * times)) for times in (1, REPEAT_COUNT))
    return (
        f"{many:.3f} s for {REPEAT_COUNT} times what takes {few:.4f} s" if many > MAX_GROWTH * max(few, 0.001) else ""
    )


def _measure_fastest(trial: Trial) -> float:
    def seconds() -> float:
        began = thread_time()
        trial.compressor.recognises(trial.text)
        _compress_trial(trial)
        return thread_time() - began

    return min(seconds() for _ in range(2))


def decode_trial(data: bytes) -> Trial:
    """Read a trial out of bytes: three that choose, and the text; bytes that are no UTF-8 become surrogates."""
    chosen = (*data[:3], 0, 0, 0)
    kinds = registry.list_compressors()
    text = data[3:].decode("utf-8", "surrogateescape")
    return Trial(
        kinds[chosen[0] % len(kinds)],
        text[:MAX_TEXT_CHARS],
        QUESTIONS[chosen[1] % len(QUESTIONS)],
        RATIOS[chosen[2] % len(RATIOS)],
    )


def cut_snippets(folder: Path, chance: Random) -> list[str]:
    """Cut a piece out of passages of every kind."""
    found: dict[str, list[str]] = {}
    for case in read_cases(folder, None):
        found.setdefault(f"{case.data} {case.kind}", []).append(case.text)
    some: list[str] = []
    for _, texts in sorted(found.items()):
        for text in chance.sample(texts, min(SNIPPETS_PER_FILE, len(texts))):
            start = chance.choice((0, chance.randrange(max(1, len(text)))))
            some.append(text[start : start + chance.randint(200, MAX_TEXT_CHARS)])
    return some


def mutate_text(chance: Random, some: list[str]) -> str:
    """Take a snippet apart, put others and rubbish between, and repeat what tools would not."""
    text = chance.choice(some)
    for _ in range(chance.choice((0, 1, 2, 4, 16))):
        start = chance.randint(0, len(text))
        end = min(len(text), start + chance.choice((0, 1, 10, 100, 1000)))
        other = chance.choice(some)
        at = chance.randint(0, len(other))
        piece = chance.choice(
            (
                "",
                chance.choice(RUBBISH_TOKENS),
                chance.choice(RUBBISH_TOKENS) * chance.choice((2, 30, 500)),
                other[at : at + chance.choice((3, 80, 800))],
                text[start:end] * chance.choice((2, 5, 40)),
                text[start:end][::-1],
                text[start:end].swapcase(),
                text[start:end].replace("\n", " "),
            )
        )
        text = (text[:start] + piece + text[end:])[:MAX_TEXT_CHARS]
    return text


def search_breaches(folder: Path, seed: int, seconds: float, judge: Callable[[Trial], None]) -> None:
    """Make texts from a seed and hand each, with a compressor in turn, to the judge, until the time is over."""
    chance = Random(seed)
    some = cut_snippets(folder, chance)
    until = monotonic() + seconds
    kinds = registry.list_compressors()
    while monotonic() < until:
        text = mutate_text(chance, some)
        for compressor in (chance.choice(kinds), registry.find_compressor(text)):
            judge(Trial(compressor, text, chance.choice((*QUESTIONS, text[:400])), chance.choice(RATIOS)))


def run_atheris(folder: Path, seconds: float, judge: Callable[[Trial], None], report: Callable[[], None]) -> None:
    """Let atheris look for texts. It never comes back, so what is to be said at the end is said in its midst."""
    until = monotonic() + seconds

    def judged(data: bytes) -> None:
        judge(decode_trial(data))
        if monotonic() > until:
            report()
            sys.stdout.flush()
            os._exit(0)

    atheris: Any = import_module("atheris")
    for function in _iter_functions(registry.__name__.rpartition(".")[0]):
        atheris.instrument_func(function)
    atheris.Setup(["fuzz", str(folder), f"-max_len={MAX_TEXT_CHARS}", "-timeout=60"], judged)
    atheris.Fuzz()


def _iter_functions(package: str) -> Iterator[FunctionType]:
    """List the functions and methods of a package's loaded modules; atheris changes them where they are."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith(f"{package}."):
            for value in list(vars(module).values()):
                for one in (value, *vars(value).values()) if isinstance(value, type) else (value,):
                    if isinstance(one, FunctionType) and one.__module__ == name:
                        yield one


def write_seed_corpus(folder: Path, data: Path, chance: Random) -> None:
    """Write snippets down as trials for atheris to begin with, each for the compressor that would get it."""
    folder.mkdir(parents=True, exist_ok=True)
    for text in cut_snippets(data, chance):
        chosen = registry.list_compressors().index(registry.find_compressor(text))
        raw = bytes((chosen, chance.randrange(256), chance.randrange(256))) + text.encode("utf-8", "surrogateescape")
        (folder / sha256(raw).hexdigest()[:16]).write_bytes(raw)


class BreachRecorder:
    """Holds trials against the laws, counts them, and writes down those that break one."""

    def __init__(self, found: Path | None, slowly: Random) -> None:
        self.output_folder = found
        self.growth_sampler = slowly
        self.trials: Counter[str] = Counter()
        self.breaches: Counter[str] = Counter()

    def __call__(self, one: Trial) -> None:
        """Judge one; how its work grows is looked at in one of some dozens."""
        self.trials[one.compressor.name] += 1
        said = find_breach(one)
        if not said and self.growth_sampler.random() < 0.02:
            said = check_growth(one)
        if said:
            self._record_breach(one, said)

    def _record_breach(self, one: Trial, said: str) -> None:
        key = f"{one.compressor.name}: {said[:60]}"
        self.breaches[key] += 1
        if self.breaches[key] == 1:
            print(key, flush=True)
            if self.output_folder is not None:
                self.output_folder.mkdir(parents=True, exist_ok=True)
                name = sha256(repr(one[1:]).encode()).hexdigest()[:12]
                (self.output_folder / f"{one.compressor.name}-{name}.json").write_text(
                    json.dumps({**one._asdict(), "compressor": one.compressor.name, "said": said})
                )

    def print_report(self, seed: int) -> None:
        """Print the line of JSON."""
        print(json.dumps({"benchmark": "fuzz", "seed": seed, "trials": self.trials, "breaches": self.breaches}))


def main() -> None:
    """Search, print what was found, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--found", type=Path, help="write what breaks a law into this folder")
    parser.add_argument("--guided", type=Path, help="let atheris search, and keep its corpus in this folder")
    asked = parser.parse_args()
    judge = BreachRecorder(asked.found, Random(asked.seed))
    if asked.guided is not None:
        write_seed_corpus(asked.guided, asked.data, Random(asked.seed))
        run_atheris(asked.guided, asked.seconds, judge, lambda: judge.print_report(asked.seed))
    search_breaches(asked.data, asked.seed, asked.seconds, judge)
    judge.print_report(asked.seed)


if __name__ == "__main__":
    main()
