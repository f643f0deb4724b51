"""Trains an abstention head for clara-nano and shows what it does to answers that nobody trained on.

    python -m clara_proxy.benchmarks.nano abstention [--data ../shared/data] [--questions 1200] [--held-out 600]

Synthetic part: facts of seeds of their own, all tasks of the accuracy table in turn. The head learns from the first
part and is measured on the second, on questions that the checkpoint's own threshold lets pass; "given" are the answers
of all held-out questions, with extracts of 48 tokens of the documents where the head refuses. Real part
(with --data): every second question of `qa_short.jsonl.gz` trains, the others measure; clara-nano was not made for such
text. "kept" is the share of passages whose compressed text holds the answer in mode `answer` at a quarter of the
tokens, without the head and with it. The weights in the package are copied, not changed. Ends with one line of JSON.
"""

import argparse
import gzip
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...compression import registry
from ...compression.clara.clara import Clara
from ...compression.clara.compressors import AnswerCompressor
from ...compression.clara.extracted_answers import extract
from ...compression.clara.locate import BUNDLED_MODELS, HEAD_FILE, NANO_NAME
from ...compression.clara.train.train_abstention import AbstentionJob, Figures, holds_answer, train_abstention
from ...compression.clara.worker import Worker
from ...compression.engine import CompressionJob, run_job
from ...compression.grounding import is_abstention
from ...compression.models.errors import ModelError
from ...compression.tokens import get_token_counter
from .evaluate_nano import TASKS
from .synthetic.episodes import NOT_STATED, make_episode

SUBFOLDER = "compression-16"
RATIO, MIN_TOKENS, EXTRACT_TOKENS = 4, 60, 48
Record = dict[str, Any]


def make_synthetic(seed: str, count: int) -> Iterator[Record]:
    """Yield training lines from all tasks in turn; the answer is empty where the documents do not state it."""
    rng, tasks, made = random.Random(f"abstention:{seed}"), list(TASKS.values()), 0
    while made < count:
        documents, spec = tasks[made % len(tasks)]
        episode = make_episode(rng, replace(spec, documents=documents[made // len(tasks) % len(documents)]))
        for question in episode.questions:
            answer = "" if question.answer == NOT_STATED else question.answer
            yield {"docs": list(episode.documents), "question": question.text, "answer": answer}
        made += 1


def read_real(path: Path) -> list[Record]:
    """Return the questions of `qa_short.jsonl.gz` as training lines; those of one context are on one side."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [
        {"docs": [record["context"]], "question": record["question"], "answer": record["answers"][0]}
        for record in sorted(records, key=lambda record: record["context"])
    ]


def measure_kept(folder: Path, records: Sequence[Record], threshold: float | None) -> Figures:
    """Return shares of passages in mode `answer`: kept answers, replies of the model, and replies with the answer."""
    counter = get_token_counter("gpt-4o")
    worker = Worker(lambda: load(folder, threshold))
    compressor = AnswerCompressor(worker, registry.find_compressor_cached)
    kept = by_model = right = total = tokens = 0
    try:
        for record in records:
            text = record["docs"][0]
            size = counter.count(text)
            if size < MIN_TOKENS or not record["answer"]:
                continue
            job = CompressionJob(text, record["question"], size // RATIO, None, counter)
            outcome = run_job(job, lambda _: compressor)
            output = text if outcome.text is None else outcome.text
            total, tokens = total + 1, tokens + outcome.tokens
            kept += record["answer"].lower() in output.lower()
            if outcome.compressor == compressor.name and outcome.text is not None:
                by_model += 1
                right += record["answer"].lower() in output.partition("\n")[0].lower()
    finally:
        worker.close()
    count = max(1, total)
    figures = {"kept": kept / count, "by_model": by_model / count, "model_right": right / count}
    return {"passages": total, "tokens": tokens / count, **figures}


def measure_given(folder: Path, records: Sequence[Record], threshold: float | None) -> Figures:
    """Return shares of questions: those given the answer (by the model or in an extract), and wrong model answers."""
    clara, counter = load(folder, threshold), get_token_counter("gpt-4o")
    given = wrong = extracts = tokens = 0
    for record in records:
        (reply,) = clara.answers([record["question"]], [record["docs"]], 1, 40)
        text = reply.text
        if reply.not_in_memory:
            text, _ = extract("\n\n".join(record["docs"]), record["question"], EXTRACT_TOKENS, counter)
            extracts += 1
        tokens += counter.count(text)
        given += holds_answer(text, record["answer"])
        wrong += not (holds_answer(text, record["answer"]) or reply.not_in_memory or is_abstention(text))
    count = max(1, len(records))
    figures = {"given": given / count, "wrong_given": wrong / count, "extracts": extracts / count}
    return {"asked": len(records), "answerable": sum(bool(r["answer"]) for r in records) / count, **figures} | {
        "tokens": tokens / count
    }


def load(folder: Path, threshold: float | None = None) -> Clara:
    """Return a copy of clara-nano; a threshold of 1 turns its head off."""
    return Clara.from_pretrained(folder / SUBFOLDER, base=folder / "base", device="cpu", abstention_threshold=threshold)


def run_part(name: str, folder: Path, trained: Sequence[Record], held_out: Sequence[Record]) -> Figures | None:
    """Train a head and print its figures; return them, None if it cannot be trained."""
    files = folder / f"{name}-train.jsonl", folder / f"{name}-held-out.jsonl"
    for file, records in zip(files, (trained, held_out), strict=True):
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    started = time.process_time()
    job = AbstentionJob(folder / SUBFOLDER, folder / "base", *files)
    try:
        _, figures = train_abstention(job, lambda _done, _total: None)
    except ModelError as error:
        print(f"{name}: no head: {error}")
        return None
    figures["cpu_seconds"] = time.process_time() - started
    print(f"{name}: {len(trained)} lines to train, {len(held_out)} held out")
    print("\n".join(f"  {key:14} {value:8.3f}" for key, value in figures.items()))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of qa_short.jsonl.gz")
    parser.add_argument("--questions", type=int, default=1200, help="synthetic questions to train on")
    parser.add_argument("--held-out", type=int, default=600, help="synthetic questions to measure on")
    parser.add_argument("--passages", type=int, default=300, help="real passages to measure in mode answer")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    result: dict[str, Figures | None] = {}
    with tempfile.TemporaryDirectory(prefix="nano-abstention-") as name:
        folder = Path(name)
        for part in ("base", SUBFOLDER):
            shutil.copytree(BUNDLED_MODELS[NANO_NAME] / part, folder / part)
        trained = list(make_synthetic("train", options.questions // 3))
        held_out = list(make_synthetic("held-out", options.held_out // 3))
        result["synthetic"] = run_part("synthetic", folder, trained, held_out)
        for label, threshold in (("given without the head", 1.0), ("given with the head", None)):
            result[label] = figures = measure_given(folder, held_out, threshold)
            print(f"synthetic, {label}: " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
        if options.data is not None:
            real = read_real(options.data / "qa_short.jsonl.gz")
            measured = real[len(real) // 2 :][: options.passages]
            for label, threshold in (("without the head", 1.0), ("with the synthetic head", None)):
                result[label] = figures = measure_kept(folder, measured, threshold)
                print(f"real, {label}: " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items()))
            (folder / SUBFOLDER / HEAD_FILE).unlink(missing_ok=True)
            result["real"] = run_part("real", folder, real[: len(real) // 2], real[len(real) // 2 :])
    print(json.dumps({"benchmark": "nano abstention", **result}))
