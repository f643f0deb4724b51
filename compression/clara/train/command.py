"""What `clara-proxy train` does: nano from nothing, or one stage of CLaRa's training on a file of one's own."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import ClaraError
from ..prompts import PARAPHRASE_TEMPLATES
from . import data, held_back, nano, plot, seeking, stages, start
from .batch import STAGES, Limits, Lines, Stage, collate
from .data import Item
from .loop import Plan, Record, Trainer
from .network import Network
from .save import Describe, save_checkpoint

__all__ = ["STAGES", "Job", "train_nano", "train_stage"]

Say = Callable[[Record], None]
_SMALL = 1024  # hidden size up to which adapters are merged for a step instead of kept beside the base


@dataclass(frozen=True, slots=True)
class Job:
    """One stage: `data` trains, `held_back` judges; `prompt` is the longest decoder row.

    Without a checkpoint it is the first stage on a bare base, with documents of 256 tokens in 16 memories.
    """

    stage: Stage
    checkpoint: Path | None
    base: Path | None
    data: Path
    held_back: Path | None = None
    batch: int = 2
    top_k: int | None = None
    prompt: int = 2048
    dropout: float = 0.1


def train_nano(folder: Path, steps: int, seed: int, say: Say) -> Path:
    """Train clara-nano into a folder, going on with what is there; returns the folder with its base and checkpoints.

    `steps` are those of the first rate; the second one's, and those of what follows each, are in proportion.
    """
    trainer, network, tokenizer = nano.trainer(folder, steps, seed)
    _run(trainer, folder, say)
    further = folder / "further"
    _run(nano.further_trainer(network, tokenizer, further, _part(steps, nano.FURTHER_STEPS), seed), further, say)
    written = folder / "clara-nano"
    _finish(network, tokenizer, folder, nano.RATE, (steps, seed), say)
    fine = folder / f"rate-{nano.FINE_RATE}"
    trainer, network = nano.fine_trainer(network, tokenizer, fine, _part(steps, nano.FINE_STEPS), seed)
    _run(trainer, fine, say)
    _finish(network, tokenizer, folder, nano.FINE_RATE, (steps, seed), say)
    return written


def _finish(network: Network, tokenizer: str, folder: Path, rate: int, run: tuple[int, int], say: Say) -> None:
    """Teach a trained network when nothing is to be found, export it, and calibrate what was exported."""
    steps, seed = run
    place, seek_steps = folder / f"seeking-{rate}", _part(steps, seeking.STEPS)
    _run(nano.seeker(network, tokenizer, place, rate, seek_steps, seed), place, say)
    nano.calibrate(nano.export(network, tokenizer, folder / "clara-nano", rate), rate, seed)


def _part(steps: int, whole: int) -> int:
    """Return how many steps a later part of the course has, where the first one has so many."""
    return max(1, steps * whole // nano.STEPS)


def _run(trainer: Trainer, folder: Path, say: Say) -> None:
    trainer.resume()
    for record in trainer.run():
        say(record)
    trainer.settle()
    plot.draw(folder / "log.jsonl", folder / "loss.svg")


def train_stage(job: Job, plan: Plan, folder: Path, say: Say) -> Path:
    """Train one stage; returns the new checkpoint's folder. Raises `ClaraError` for data that does not fit."""
    network, vocabulary, describe = _beginning(job)
    network.merge, network.dropout = network.shape.hidden <= _SMALL and not job.dropout, job.dropout
    network.compute = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    stages.prepare(network, job.stage, vocabulary.memory)
    k = job.top_k or describe.top_k
    objective = stages.Objective(network, job.stage, k)
    items = data.read(job.data)
    if len(items) < job.batch:
        raise ClaraError(f"{job.data}: {len(items)} lines, a micro batch has {job.batch}")
    limits = Limits(describe.limit, job.prompt)

    def lines(number: int) -> Lines:
        part, rng = chosen(items, job.batch, plan.seed, number), random.Random(f"{plan.seed}:{number}")  # noqa: S311
        templates = [rng.randrange(len(PARAPHRASE_TEMPLATES)) for _ in part]
        return collate(vocabulary, part, job.stage, limits, k, templates)

    def judged(part: Sequence[Item]) -> Lines:
        return collate(vocabulary, part, job.stage, limits, k, [0] * len(part))

    trainer = Trainer(objective, lines, plan, folder)
    trainer.resume()
    judges = data.read(job.held_back) if job.held_back is not None else []
    if judges:
        trainer.judge = lambda: held_back.figures(objective, vocabulary, judges, judged, job.batch)
    for record in trainer.run():
        say(record)
    plot.draw(folder / "log.jsonl", folder / "loss.svg")
    return _written(network, job.checkpoint or job.base, describe._replace(top_k=k), folder)


def chosen(items: Sequence[Item], size: int, seed: int, number: int) -> list[Item]:
    """Return micro batch `number`: every epoch goes through all items in an order of its own, the last few dropped."""
    epoch, place = divmod(number, len(items) // size)
    order = list(range(len(items)))
    random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311 - an order, not a secret
    return [items[index] for index in order[place * size : (place + 1) * size]]


def _beginning(job: Job) -> start.Beginning:
    if job.checkpoint is not None:
        return start.resumed(job.checkpoint, job.base, job.stage)
    if job.stage != "stage1" or job.base is None:
        raise ClaraError(f"{job.stage} needs a checkpoint; only stage1 starts from a bare base")
    return start.fresh(job.base, 256, 16, 16)


def _written(network: Network, source: Path | None, describe: Describe, folder: Path) -> Path:
    written = folder / f"compression-{describe.rate}"
    save_checkpoint(network, describe, written, torch.bfloat16)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if source is not None and (source / name).is_file():
            shutil.copy(source / name, written / name)
    return written
