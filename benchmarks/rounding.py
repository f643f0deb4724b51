"""What rounding costs: the same questions to the same checkpoint with weights and latents in fewer bits.

    python -m clara_proxy.benchmarks.rounding [--checkpoint FOLDER] [--questions 300]

For each way: how far its memories are from the exact ones, how many answers are the same and how many are right,
whether the same memory is found first, and the bytes that a latent takes. Needs bitsandbytes for int4. Ends with one
line of JSON.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..compression.clara import latent_quantization
from ..compression.clara.clara import Clara
from ..compression.clara.latent_quantization import Precision
from ..compression.clara.latent_store import LatentStore
from ..compression.clara.loading import Quantization
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
    """A question, what it is asked of, and its answer."""

    question: str
    documents: tuple[str, ...]
    answer: str


class PrecisionResult(NamedTuple):
    """What one way made of the questions: memories [all, M, H], answers, and the memory found first for each."""

    memories: torch.Tensor
    answers: list[str]
    first_memories: list[int]
    latent_bytes: int


def make_questions(count: int) -> list[QuestionCase]:
    """Make questions about four short memories each, with values of training; always the same."""
    chance, mix = random.Random(11), EpisodeSpec(documents=4, facts_per_document=1, questions=1)
    made = [make_episode(chance, mix) for _ in range(count)]
    return [QuestionCase(one.questions[0].text, one.documents, one.questions[0].answer) for one in made]


def run_precision(
    folder: Path, way: tuple[Quantization, Precision, str], asked: Sequence[QuestionCase]
) -> PrecisionResult:
    """Ask everything in one way."""
    weights, latents, dtype = way
    store = LatentStore(None, precision=latents)
    clara = Clara.from_pretrained(
        folder, base=folder / "base", device="cpu", dtype=dtype, quantization=weights, store=store
    )
    own = [clara.compress(one.documents) for one in asked]
    answers = clara.generate([one.question for one in asked], own, 32)
    found = [clara.retrieve(one.question, each, 1).indices[0] for one, each in zip(asked, own, strict=True)]
    size = latent_quantization.packed_bytes(latent_quantization.pack_latent(own[0].vectors[0], latents))
    return PrecisionResult(torch.cat([each.vectors.float() for each in own]), answers, found, size)


def compare_results(exact: PrecisionResult, other: PrecisionResult, asked: Sequence[QuestionCase]) -> dict[str, float]:
    """Hold one way against the exact one, all as shares but the bytes."""
    apart = (other.memories - exact.memories).pow(2).sum() / exact.memories.pow(2).sum()
    count = len(asked)
    return {
        "memories_apart": float(apart) ** 0.5,
        "answers_alike": sum(one == two for one, two in zip(exact.answers, other.answers, strict=True)) / count,
        "answers_right": sum(one == two.answer for one, two in zip(other.answers, asked, strict=True)) / count,
        "found_alike": sum(one == two for one, two in zip(exact.first_memories, other.first_memories, strict=True))
        / count,
        "bytes": other.latent_bytes,
    }


def main() -> None:
    """Compare all ways with the exact one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=NANO_FOLDER, help="a checkpoint with its base in `base/`")
    parser.add_argument("--questions", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = make_questions(options.questions)
    exact = run_precision(options.checkpoint, PRECISION_SETTINGS[0], asked)
    figures: dict[str, Any] = {}
    heads = f"{'apart':>8}{'same answer':>13}{'right':>8}{'same found':>12}{'bytes':>8}"
    print(f"{'weights':8}{'latents':9}{'dtype':10}{heads}")
    for way in PRECISION_SETTINGS:
        row = compare_results(exact, run_precision(options.checkpoint, way, asked), asked)
        figures["/".join(way)] = row
        shares = f"{row['memories_apart']:8.4f}{row['answers_alike']:13.3f}{row['answers_right']:8.3f}"
        print(f"{way[0]:8}{way[1]:9}{way[2]:10}{shares}{row['found_alike']:12.3f}{row['bytes']:8.0f}")
    print(json.dumps({"benchmark": "rounding", "questions": len(asked), "ways": figures}))


if __name__ == "__main__":
    main()
