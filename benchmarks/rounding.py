"""Measure the loss by rounded weights and latents of a checkpoint.

    python -m clara_proxy.benchmarks.rounding [--checkpoint FOLDER] [--questions 300]

Each precision answers the same questions. The columns are the relative error of the memories, the share of answers
equal to the exact checkpoint's, the share of correct answers, the share of questions with the same memory retrieved
first, and the bytes of a latent. int4 needs bitsandbytes. The last line is JSON.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..compression.clara import latent_quantization
from ..compression.clara.checkpoint_config import Quantization
from ..compression.clara.clara import Clara
from ..compression.clara.latent_quantization import Precision
from ..compression.clara.latent_store import LatentStore
from .nano.accuracy_table import NANO_FOLDER
from .nano.synthetic.episodes import make_episode
from .nano.synthetic.facts import EpisodeSpec

PRECISION_SETTINGS: tuple[tuple[Quantization, Precision, str], ...] = (
    ("no", "exact", "float32"),
    ("no", "exact", "bfloat16"),
    ("no", "int8", "float32"),
    ("int8", "exact", "float32"),
    ("int4", "exact", "float32"),
    ("int8", "int8", "float32"),
)


class QuestionCase(NamedTuple):
    """A question, its documents and its answer."""

    question: str
    documents: tuple[str, ...]
    answer: str


class PrecisionResult(NamedTuple):
    """One precision's memories [all, M, H], answers, memories retrieved first, and bytes of a latent."""

    memories: torch.Tensor
    answers: list[str]
    first_memories: list[int]
    latent_bytes: int


def make_questions(count: int) -> list[QuestionCase]:
    """Return questions about four short memories each, with values seen in training. Equal counts give equal cases."""
    rng, spec = random.Random(11), EpisodeSpec(documents=4, facts_per_document=1, questions=1)
    episodes = [make_episode(rng, spec) for _ in range(count)]
    return [
        QuestionCase(episode.questions[0].text, episode.documents, episode.questions[0].answer) for episode in episodes
    ]


def run_precision(
    folder: Path, precision: tuple[Quantization, Precision, str], cases: Sequence[QuestionCase]
) -> PrecisionResult:
    """Answer all questions with one precision of weights, latents and arithmetic."""
    weights, latents, dtype = precision
    store = LatentStore(None, precision=latents)
    clara = Clara.from_pretrained(
        folder, base=folder / "base", device="cpu", dtype=dtype, quantization=weights, store=store
    )
    memories = [clara.compress(case.documents) for case in cases]
    answers = clara.generate([case.question for case in cases], memories, 32)
    first_memories = [
        clara.retrieve(case.question, latent, 1).indices[0] for case, latent in zip(cases, memories, strict=True)
    ]
    size = latent_quantization.packed_bytes(latent_quantization.pack_latent(memories[0].vectors[0], latents))
    vectors = torch.cat([latent.vectors.float() for latent in memories])
    return PrecisionResult(vectors, answers, first_memories, size)


def compare_results(exact: PrecisionResult, other: PrecisionResult, cases: Sequence[QuestionCase]) -> dict[str, float]:
    """Return a precision's figures relative to the exact result; all but the bytes are shares."""
    squared_error = (other.memories - exact.memories).pow(2).sum() / exact.memories.pow(2).sum()
    correct_answers = [case.answer for case in cases]
    return {
        "memories_apart": float(squared_error) ** 0.5,
        "answers_alike": _compute_equal_share(exact.answers, other.answers),
        "answers_right": _compute_equal_share(correct_answers, other.answers),
        "found_alike": _compute_equal_share(exact.first_memories, other.first_memories),
        "bytes": other.latent_bytes,
    }


def _compute_equal_share(expected: Sequence[object], actual: Sequence[object]) -> float:
    return sum(first == second for first, second in zip(expected, actual, strict=True)) / len(expected)


def main() -> None:
    """Compare all precisions with the exact one, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, default=NANO_FOLDER, help="checkpoint with its base model in `base/`"
    )
    parser.add_argument("--questions", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = make_questions(options.questions)
    exact = run_precision(options.checkpoint, PRECISION_SETTINGS[0], cases)
    rows: dict[str, Any] = {}
    headings = f"{'error':>8}{'same answer':>13}{'correct':>9}{'same memory':>13}{'bytes':>8}"
    print(f"{'weights':8}{'latents':9}{'dtype':10}{headings}")
    for precision in PRECISION_SETTINGS:
        row = compare_results(exact, run_precision(options.checkpoint, precision, cases), cases)
        rows["/".join(precision)] = row
        shares = f"{row['memories_apart']:8.4f}{row['answers_alike']:13.3f}{row['answers_right']:9.3f}"
        settings = "{:8}{:9}{:10}".format(*precision)
        print(f"{settings}{shares}{row['found_alike']:13.3f}{row['bytes']:8.0f}", flush=True)
    print(json.dumps({"benchmark": "rounding", "questions": len(cases), "ways": rows}))


if __name__ == "__main__":
    main()
