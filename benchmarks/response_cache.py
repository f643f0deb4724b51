"""Measures the response cache on the question pairs and conversations of the package `fow-cache`.

    python -m clara_proxy.benchmarks.response_cache FOLDER

FOLDER is the package's `data` directory. In each pair the answer to `a` is stored and `b` is asked; `same_answer` says
whether that answer serves `b`, too. The conversations are sent as chat requests.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ..proxy.cache import questions
from ..proxy.cache.cache_key import build_key
from ..proxy.protocols import chat

OWNER, MODEL, CANDIDATES = "owner", "gpt-4o-mini", 8


class Verdict(NamedTuple):
    """Whether a request is answered from the cache, by the exact and by the semantic kind."""

    exact: bool
    semantic: bool


def judge(first: list[dict[str, str]], second: list[dict[str, str]]) -> Verdict:
    """Return how the cache answers the second conversation after the first one was answered."""
    keys = [
        build_key(chat.ADAPTER.name, {"model": MODEL, "messages": list(messages)}, ()) for messages in (first, second)
    ]
    a, b = keys
    assert a is not None
    assert b is not None
    texts = str(a.question), str(b.question)
    is_comparable = bool(a.bucket) and a.bucket == b.bucket and all(map(questions.is_comparable, texts))
    is_semantic = is_comparable and questions.is_same_question(*texts)
    return Verdict(a.name == b.name, a.name == b.name or is_semantic)


def read_items(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the pairs of some files, each with two conversations."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            item = orjson.loads(line)
            for side in ("a", "b"):
                if isinstance(item[side], str):
                    item[side] = [{"role": "user", "content": item[side]}]
            yield item


def report(title: str, items: list[dict[str, Any]], *, show: bool) -> dict[str, float]:
    """Print the hit rate and the rate of wrong answers by group, and return the total ones."""
    totals, exact, semantic = Counter[tuple[bool, str]](), Counter[tuple[bool, str]](), Counter[tuple[bool, str]]()
    for item in items:
        verdict = judge(item["a"], item["b"])
        for group in ("all", str(item.get("category") or item["subtype"])):
            key = bool(item["same_answer"]), group
            totals[key] += 1
            exact[key] += verdict.exact
            semantic[key] += verdict.semantic
        is_shown = verdict.semantic or item.get("category") == "near_repeat"
        if show and is_shown and verdict.semantic != item["same_answer"]:
            print("wrong" if verdict.semantic else "missed", item["a"][-1]["content"], "|", item["b"][-1]["content"])
    print(f"{title}: {len(items)}")
    for key, total in sorted(totals.items()):
        name = f"{'same answer' if key[0] else 'trap'}, {key[1]}"
        print(f"  {name:40} {total:4}  exact {exact[key] / total:6.1%}  semantic {semantic[key] / total:6.1%}")
    hit, trap = (True, "all"), (False, "all")
    return {
        "exact_hits": exact[hit] / totals[hit],
        "semantic_hits": semantic[hit] / totals[hit],
        "semantic_wrong": semantic[trap] / totals[trap],
    }


def measure_lookup(texts: list[str]) -> float:
    """Print and return the time of one semantic lookup among these texts, once they are known."""
    for text in texts:
        questions.parse_question(text)
    started, count = time.process_time(), 50
    for text in texts[:count]:
        ranked = questions.rank_candidates(text, texts, CANDIDATES)
        any(questions.is_same_question(text, texts[index]) for index in ranked)
    milliseconds = (time.process_time() - started) / count * 1000
    print(f"lookup among {len(texts)} questions: {milliseconds:.2f} ms of processor time")
    return milliseconds


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", action="store_true", help="print wrong answers, and near repeats that are missed")
    arguments = parser.parse_args()
    pairs = list(read_items([arguments.folder / "pairs.jsonl"]))
    results: dict[str, object] = {"pairs": report("question pairs", pairs, show=arguments.show)}
    conversations = list(read_items(sorted(arguments.folder.glob("conv-*/*.jsonl"))))
    results["conversations"] = report("conversations", conversations, show=arguments.show)
    results["lookup_ms"] = measure_lookup([item["a"][0]["content"] for item in pairs][:256])
    print(orjson.dumps({"benchmark": "response_cache", **results}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
