"""Prints how well clara-nano answers synthetic questions that training never used, by task.

    python -m clara_proxy.benchmarks.nano [--checkpoint FOLDER] [--rate 16] [--questions 600] [--wrong 3]

Answers are decoded greedily by the engine that serves requests, and must match exactly. "Unseen values" do not occur in
training, "unseen phrasings" are held-out statements and questions, "composed phrasings" are the held-out tenth of the
grammar, and "near misses" mostly ask about another subject. "Nearest" tasks read only the memory that the query adapter
ranks first. Ends with one line of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from ...compression.clara.clara import Clara
from ...compression.clara.locate import BUNDLED_MODELS, NANO_NAME
from . import evaluate_nano
from .evaluate_nano import TaskResult

NANO_FOLDER = BUNDLED_MODELS[NANO_NAME]
MEMORIES = [
    "User likes hiking in national parks.",
    "User works as a software engineer.",
    "User has a dog named Max.",
]
QUESTION = "What outdoor activities does the user enjoy?"
NEAREST = ", nearest"
AIMS = {
    "seen values": 0.98,
    "unseen values": 0.90,
    "unseen phrasings": 0.95,
    "20 memories": 0.90,
    "retrieval among 100": 0.95,
    "abstains when it should": 0.90,
    "answers when it can": 0.90,
    "paraphrase keeps the fact": 0.90,
}


def make_tasks(clara: Clara, count: int) -> dict[str, Callable[[], TaskResult]]:
    """Return the tasks in the order of the table."""
    tasks: dict[str, Callable[[], TaskResult]] = {}
    for name in evaluate_nano.TASKS:
        tasks[name] = partial(evaluate_nano.evaluate_answers, clara, name, count)
        tasks[f"{name}{NEAREST}"] = partial(evaluate_nano.evaluate_answers, clara, name, count, 1)
    tasks["retrieval among 100"] = partial(evaluate_nano.evaluate_retrieval, clara, count)
    tasks["answers when it can"] = partial(evaluate_nano.evaluate_answer_rate, clara, count)
    tasks["paraphrase keeps the fact"] = partial(evaluate_nano.evaluate_paraphrases, clara, count)
    return tasks


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all tasks and print the table."""
    options = _parse_options(arguments)
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    folder, subfolder = options.checkpoint, f"compression-{options.rate}"
    clara = Clara.from_pretrained(folder, subfolder=subfolder, base=folder / "base", device="cpu")
    load_seconds = time.perf_counter() - started
    started = time.perf_counter()
    example = clara.generate([QUESTION], [MEMORIES], 40)[0]
    seconds = time.perf_counter() - started
    print(f"loaded in {load_seconds:.2f} s; answered the example in {seconds:.2f} s: {example!r}\n")
    print(f"{'task':40} {'correct':>7} {'asked':>6} {'share':>7} {'aim':>6}")
    results: dict[str, TaskResult] = {}
    for name, run in make_tasks(clara, options.questions).items():
        results[name] = run()
        score, aim = results[name].score, AIMS.get(name.removesuffix(NEAREST))
        aim_text = "" if aim is None else format(aim, "6.0%")
        print(f"{name:40} {score.correct:7} {score.total:6} {score.share:7.1%} {aim_text}")
        for question, expected, answer in results[name].errors[: options.wrong]:
            print(f"    {question} | {expected} | {answer}")
    kinds = results["unseen values"].kinds.items()
    print("\nunseen values by kind:", ", ".join(f"{kind} {score.correct}/{score.total}" for kind, score in kinds))
    shares = {name: round(result.score.share, 4) for name, result in results.items()}
    print(json.dumps({"benchmark": "nano", "questions": options.questions, "example": example, "shares": shares}))


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=NANO_FOLDER, help="folder with base/ and compression-N/")
    parser.add_argument("--rate", type=int, default=16, help="compression rate: the N of compression-N/")
    parser.add_argument("--questions", type=int, default=600, help="approximate number of questions a task")
    parser.add_argument("--wrong", type=int, default=0, help="number of wrong answers to print for each task")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    return parser.parse_args(arguments)
