"""Runs one stage of CLaRa's training on a file of JSON lines, from initial network to checkpoint."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...models.errors import ModelError
from ..prompts import PARAPHRASE_TEMPLATES
from . import evaluation, initial_network, loss_plot, stages
from .checkpoint_writer import CheckpointInfo, save_checkpoint
from .collate import STAGES, Stage, StageBatch, TokenLimits, collate_examples
from .network import Network
from .trainer import Progress, Trainer, TrainingPlan
from .training_data import Example, read_examples

__all__ = ["STAGES", "StageJob", "train_stage"]

OnStep = Callable[[Progress], None]
_MAX_MERGED_HIDDEN_SIZE = 1024  # larger models keep their adapters separate to save memory
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class StageJob:
    """One training stage on one data file. `held_back`: evaluation lines. `prompt`: most tokens in one decoder row.

    Without a checkpoint the job is stage 1 on a base model, with documents of 256 tokens in 16 memories.
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


def train_stage(job: StageJob, plan: TrainingPlan, folder: Path, on_step: OnStep) -> Path:
    """Train one stage and return the folder of the new checkpoint. Raises `ModelError` for unsuitable data."""
    network, tokenizer, info = _starting_point(job)
    network.merge = network.config.hidden_size <= _MAX_MERGED_HIDDEN_SIZE and not job.dropout
    network.dropout = job.dropout
    network.compute = torch.bfloat16 if plan.precision == "bf16" else torch.float32
    stages.set_trainable(network, job.stage, tokenizer.memory_ids)
    k = job.top_k or info.top_k
    objective = stages.StageObjective(network, job.stage, k)
    examples = read_examples(job.data)
    if len(examples) < job.batch:
        raise ModelError(f"{job.data} has {len(examples)} lines, but a micro batch needs {job.batch}")
    limits = TokenLimits(info.limit, job.prompt)

    def make_batch(number: int) -> StageBatch:
        selection = select_batch(examples, job.batch, plan.seed, number)
        rng = random.Random(f"{plan.seed}:{number}")  # noqa: S311 - not a secret
        templates = [rng.randrange(len(PARAPHRASE_TEMPLATES)) for _ in selection]
        return collate_examples(tokenizer, selection, job.stage, limits, k, templates)

    def collate(selection: Sequence[Example]) -> StageBatch:
        return collate_examples(tokenizer, selection, job.stage, limits, k, [0] * len(selection))

    trainer = Trainer(objective, make_batch, plan, folder)
    trainer.resume()
    held_back = read_examples(job.held_back) if job.held_back is not None else []
    if held_back:
        trainer.evaluate = lambda: evaluation.evaluate(objective, tokenizer, held_back, collate, job.batch)
    for progress in trainer.run():
        on_step(progress)
    loss_plot.draw_losses(folder / "log.jsonl", folder / "loss.svg")
    return _write_checkpoint(network, job.checkpoint or job.base, info._replace(top_k=k), folder)


def select_batch(examples: Sequence[Example], size: int, seed: int, number: int) -> list[Example]:
    """Return micro batch `number`. Each epoch has its own order; the last incomplete batch is dropped."""
    epoch, index = divmod(number, len(examples) // size)
    order = list(range(len(examples)))
    random.Random(f"{seed}:{epoch}").shuffle(order)  # noqa: S311 - not a secret
    return [examples[position] for position in order[index * size : (index + 1) * size]]


def _starting_point(job: StageJob) -> initial_network.StartingPoint:
    if job.checkpoint is not None:
        return initial_network.start_from_checkpoint(job.checkpoint, job.base, job.stage)
    if job.stage != "stage1" or job.base is None:
        raise ModelError(f"{job.stage} needs a checkpoint (--checkpoint); only stage1 can start from a base model")
    return initial_network.start_from_base(job.base, 256, 16, 16)


def _write_checkpoint(network: Network, source: Path | None, info: CheckpointInfo, folder: Path) -> Path:
    target = folder / f"compression-{info.rate}"
    save_checkpoint(network, info, target, torch.bfloat16)
    for name in _TOKENIZER_FILES:
        if source is not None and (source / name).is_file():
            shutil.copy(source / name, target / name)
    return target
