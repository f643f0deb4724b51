"""Measures pruners with random weights on this CPU, and what the guard of word pruning costs.

    python -m clara_proxy.benchmarks.pruners [--data ../shared/data] [--documents N] [--passes N]

Speed needs no trained weights: tokens per second of one forward pass at the shapes of OpenProvence xsmall (30M) and of
LLMLingua-2 on mBERT (178M), in float32, for one window and for a full pass. One thread computes, and its processor time
counts, so that other work on the machine does not. It implies how many tokens fit a deadline on one core.

The guard's cost needs scores, and no trained pruner is here: two stand-ins score the words of real documents, at random
and by rarity. For each share of words kept, the table has the tokens without and with the guard, and the numbers and
negations of kept sentences that the model alone would have lost.
"""

import argparse
import gzip
import json
import re
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..compression.extract.core.bm25 import Span
from ..compression.extract.core.sentences import find_sentences
from ..compression.markers import render
from ..compression.polarity import is_negation
from ..compression.pruners.guard import add_guarded, split_pieces
from ..compression.pruners.jobs import UnitScores
from ..compression.pruners.networks import OpenProvence, TokenClassifier
from ..compression.pruners.pruner import CPU_PASS_TOKENS
from ..compression.pruners.word_pruning import SentenceLayout, WordPruner
from ..compression.tokens import get_token_counter

WINDOW = 512
KEPT_SHARES = (0.3, 0.5, 0.7)
DEADLINES = (2, 30)  # seconds: of extraction, and of models
_WORD = re.compile(r"\w+")
_DIGIT = re.compile(r"\d")


def build_open_provence_xsmall() -> nn.Module:
    """Return a ModernBERT of 256 x 10 with 102,400 words."""
    base = {
        "model_type": "modernbert",
        "vocab_size": 102_400,
        "hidden_size": 256,
        "num_hidden_layers": 10,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "max_position_embeddings": 8192,
        "local_attention": 128,
        "pad_token_id": 3,
    }
    return OpenProvence({"base_model_config": base, "pruning_config": {"hidden_size": 256}})


def build_llmlingua2_mbert() -> nn.Module:
    """Return an mBERT of 768 x 12 with 119,547 words."""
    transformers: Any = import_module("transformers")
    config = transformers.BertConfig(vocab_size=119_547, num_labels=2)
    return TokenClassifier(transformers.BertForTokenClassification(config), 1)


def measure_speed(network: nn.Module, rows: int, passes: int) -> float:
    """Return the tokens per second of processor time of the fastest of some forward passes of windows."""
    ids = torch.randint(5, 100_000, (rows, WINDOW))
    mask = torch.ones_like(ids)
    best = float("inf")
    with torch.inference_mode():
        network(ids[:1], mask[:1])
        for _ in range(passes):
            started = time.process_time()
            network(ids, mask)
            best = min(best, time.process_time() - started)
    return rows * WINDOW / best


class GuardCost(NamedTuple):
    """Tokens of a document set, pruned without and with the guard, and what was lost without it."""

    kept_share: float
    before: int
    without_guard: int
    with_guard: int
    lost_numbers: int
    lost_negations: int


def measure_guard(texts: Sequence[str], scorer: str) -> list[GuardCost]:
    """Prune texts at several shares of words, by the scores of a stand-in."""
    count = get_token_counter("gpt-4o").count
    costs: list[GuardCost] = []
    for share in KEPT_SHARES:
        totals: Counter[str] = Counter()
        for text in texts:
            spans = find_sentences(text)
            layout = SentenceLayout(text, spans, [-1] * len(spans))
            words = [(piece.start, piece.end) for span in spans for piece in split_pieces(text, span) if piece.is_word]
            scores = _score_words(text, words, scorer)
            threshold = sorted(scores)[min(len(scores) - 1, int((1 - share) * len(scores)))]
            scored = UnitScores(words, scores, [1.0], 0.5)
            bare = WordPruner(layout, scored, lambda _, kept: list(kept)).prune(threshold)
            guarded = WordPruner(layout, scored, add_guarded).prune(threshold)
            totals["before"] += count(text)
            totals["without"] += count(render(bare, None))
            totals["with"] += count(render(guarded, None))
            totals.update(_count_lost(text, spans, dict(zip(words, scores, strict=True)), threshold))
        costs.append(
            GuardCost(
                share,
                totals["before"],
                totals["without"],
                totals["with"],
                totals["number"],
                totals["negation"],
            )
        )
    return costs


def _score_words(text: str, words: Sequence[Span], scorer: str) -> list[float]:
    if scorer == "random":
        return [zlib.crc32(f"{start}:{text[start:end]}".encode()) / 2**32 for start, end in words]
    counts = Counter(word.lower() for word in _WORD.findall(text))
    return [
        1 / (1 + max([counts[word.lower()] for word in _WORD.findall(text[start:end])] or [1]))
        + zlib.crc32(f"{start}".encode()) / 2**40  # tells equal scores apart
        for start, end in words
    ]


def _count_lost(text: str, spans: Sequence[Span], scores: dict[Span, float], threshold: float) -> Iterator[str]:
    """Yield `number` or `negation` for each that a kept sentence loses without the guard."""
    for span in spans:
        words = [(piece.start, piece.end) for piece in split_pieces(text, span) if piece.is_word]
        kept = [scores[word] > threshold for word in words]
        names = [text[start:end] for start, end in words]
        for name, is_kept, is_guarded in zip(names, kept, add_guarded(names, kept), strict=True):
            if is_guarded and not is_kept:
                if _DIGIT.search(name):
                    yield "number"
                elif is_negation(name):
                    yield "negation"


def read_texts(folder: Path, limit: int) -> list[str]:
    """Return prose: the documents of questions over several documents."""
    texts: list[str] = []
    with gzip.open(folder / "qa_multidoc.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append("\n\n".join(document["text"] for document in json.loads(line)["documents"]))
            if len(texts) == limit:
                break
    return texts


def main() -> None:
    """Print both tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--passes", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"speed": {}, "guard": {}}
    builders = {"30M (ModernBERT)": build_open_provence_xsmall, "178M (mBERT)": build_llmlingua2_mbert}
    _print_header("random weights", "parameters", "one window", "a pass", "tokens in 2 s", "tokens in 30 s")
    for name, build in builders.items():
        network = build().eval()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        one = measure_speed(network, 1, arguments.passes)
        full = measure_speed(network, CPU_PASS_TOKENS // WINDOW, arguments.passes)
        limits = " | ".join(f"{full * seconds:,.0f}" for seconds in DEADLINES)
        print(f"| {name} | {parameters / 1e6:.0f}M | {one:,.0f}/s | {full:,.0f}/s | {limits} |", flush=True)
        result["speed"][name] = {"one": round(one), "pass": round(full)}
        del network
    texts = read_texts(arguments.data, arguments.documents)
    _print_header("scores", "words kept", "without guard", "with guard", "numbers kept", "negations kept")
    for scorer in ("random", "rarity"):
        for cost in measure_guard(texts, scorer):
            bare, guarded = cost.without_guard / cost.before, cost.with_guard / cost.before
            kept = f"{cost.lost_numbers:,} | {cost.lost_negations:,}"
            print(f"| {scorer} | {cost.kept_share:.0%} | {bare:.1%} | {guarded:.1%} | {kept} |", flush=True)
            result["guard"][f"{scorer} {cost.kept_share}"] = [round(bare, 4), round(guarded, 4)]
    print(json.dumps(result))


def _print_header(*names: str) -> None:
    print(f"\n| {' | '.join(names)} |\n{'| --- ' * len(names)}|")


if __name__ == "__main__":
    main()
