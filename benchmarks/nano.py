"""How well clara-nano answers, by kind of task, on questions it never saw: exact answers, greedy.

    python -m clara_proxy.benchmarks.nano [--checkpoint FOLDER] [--rate 16] [--questions 600] [--wrong 3]

Everything is asked through the engine that serves requests. Seeds differ from those of training; "unseen values" have
answers that no training fact had, "unseen phrasings" statements and questions that no training text had, and "composed
phrasings" are the tenth of the grammar's that was never learned. "Near misses" mostly ask the same of somebody else.
All memories of a request are read, or ("nearest") the one that the query adapter chooses. Abstention is counted both
ways. Ends with one line of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ..compression.clara.clara import Clara
from ..compression.clara.train import judge
from ..compression.clara.train.judge import Judged

SHIPPED = Path(__file__).parents[1] / "compression" / "clara" / "nano"
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


def tasks(clara: Clara, count: int) -> dict[str, Callable[[], Judged]]:
    """Return what is judged, in the order shown."""
    found: dict[str, Callable[[], Judged]] = {}
    for task in judge.TASKS:
        found[task] = partial(judge.answers, clara, task, count)
        found[f"{task}{NEAREST}"] = partial(judge.answers, clara, task, count, 1)
    found["retrieval among 100"] = partial(judge.retrieval, clara, count)
    found["answers when it can"] = partial(judge.answers_when_stated, clara, count)
    found["paraphrase keeps the fact"] = partial(judge.paraphrases, clara, count)
    return found


def main() -> None:
    """Run all tasks and print them."""
    options = _options()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    chosen, subfolder = options.checkpoint, f"compression-{options.rate}"
    clara = Clara.from_pretrained(chosen, subfolder=subfolder, base=chosen / "base", device="cpu")
    loading = time.perf_counter() - started
    started = time.perf_counter()
    said = clara.generate([QUESTION], [MEMORIES], 40)[0]
    print(f"loaded in {loading:.2f} s; the example is answered in {time.perf_counter() - started:.2f} s: {said!r}\n")
    print(f"{'task':40} {'right':>7} {'asked':>6} {'share':>7} {'aim':>6}")
    results: dict[str, Judged] = {}
    for name, run in tasks(clara, options.questions).items():
        results[name] = run()
        share, aim = results[name].share, AIMS.get(name.removesuffix(NEAREST))
        print(
            f"{name:40} {share.right:7} {share.asked:6} {share.value:7.1%} {'' if aim is None else format(aim, '6.0%')}"
        )
        for question, wanted, answer in results[name].wrong[: options.wrong]:
            print(f"    {question} | {wanted} | {answer}")
    print("\nby kind, unseen values: ", end="")
    kinds = results["unseen values"].kinds
    print(", ".join(f"{kind} {share.right}/{share.asked}" for kind, share in kinds.items()))
    shares = {name: round(result.share.value, 4) for name, result in results.items()}
    print(json.dumps({"benchmark": "nano", "questions": options.questions, "example": said, "shares": shares}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="folder with base/ and compression-N/")
    parser.add_argument("--rate", type=int, default=16, help="compression rate: the N of compression-N/")
    parser.add_argument("--questions", type=int, default=600, help="of each task, about")
    parser.add_argument("--wrong", type=int, default=0, help="wrong answers to show of each task")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
