"""The command `clara-proxy train`: one training stage of a CLaRa checkpoint on JSON lines."""

import asyncio
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...config.extras import describe_install
from . import options
from .options import Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ...compression.clara.train.run_stage import StageJob
    from ...compression.clara.train.train_abstention import AbstentionJob
    from ...compression.clara.train.trainer import Progress, TrainingPlan
    from ...config.settings import Settings

Nano = Annotated[bool, typer.Option("--nano", hidden=True)]
Out = Annotated[Path, typer.Option(help="Output directory. An unfinished run found there is resumed.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps. Default: 1000.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Threads = Annotated[int, typer.Option(help="Processor threads.")]
Stage_ = Annotated[
    str, typer.Option("--stage", help="stage1, stage1_2, stage2, stage2_pretrain_retrieval or abstention.")
]
Checkpoint = Annotated[Path | None, typer.Option(help="Checkpoint folder to start from.", show_default=False)]
Base = Annotated[Path | None, typer.Option(help="Folder of the checkpoint's base model.", show_default=False)]
Data = Annotated[Path | None, typer.Option(help="Training data: a file of JSON lines.", show_default=False)]
Runs = Annotated[
    Path | None,
    typer.Option(
        "--from-trajectories",
        help="Make the training data from recorded agent runs: a file or folder of JSON lines.",
        show_default=False,
    ),
]
Recorded = Annotated[
    bool,
    typer.Option("--from-ledger", help="Make the training data from passages kept by CLARA_KEEP_CONTENT=passages."),
]
Since = Annotated[
    str,
    typer.Option(help="Start for --from-ledger: 30m, 24h, 7d or 2w ago, or a date such as 2026-01-31."),
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only print the number of training lines.")]
HeldBack = Annotated[Path | None, typer.Option(help="Evaluation data: a file of JSON lines.", show_default=False)]
Batch = Annotated[int, typer.Option(help="Lines in one forward pass.")]
Accumulate = Annotated[int, typer.Option(help="Forward passes in one step.")]
Rate = Annotated[
    float | None,
    typer.Option(help="Learning rate. Default: 1e-4 in stage 1, 5e-6 in stage 2.", show_default=False),
]
Half = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")]

_NANO_MOVED = (
    "--nano is no longer an option: clara-nano is trained from a checkout of the repository, "
    "with python -m clara_proxy.benchmarks.nano train"
)
_MISSING_INPUT = (
    "give training data (--data, --from-trajectories or --from-ledger) and a checkpoint (--checkpoint; "
    "for stage1 a base model, --base)"
)


def train(
    nano: Nano = False,
    out: Out = Path("clara-training"),
    steps: Steps = None,
    seed: Seed = 42,
    threads: Threads = 1,
    stage: Stage_ = "stage1_2",
    checkpoint: Checkpoint = None,
    base: Base = None,
    data: Data = None,
    from_trajectories: Runs = None,
    from_ledger: Recorded = False,
    since: Since = "30d",
    data_dir: DataDir = None,
    config: Config = None,
    dry_run: Dry = False,
    held_back: HeldBack = None,
    batch: Batch = 2,
    accumulate: Accumulate = 1,
    rate: Rate = None,
    bf16: Half = False,
) -> None:
    """Train one stage of a CLaRa checkpoint on your own data: JSON lines, recorded agent runs or kept requests."""
    if nano:
        exit_with_error(_NANO_MOVED, 2)
    try:
        from ...compression.clara.train import run_stage, train_abstention  # noqa: PLC0415 - torch
        from ...compression.clara.train.trainer import TrainingPlan, set_thread_count  # noqa: PLC0415
    except ImportError as error:
        exit_with_error(f"training needs an extra: {describe_install('train')} ({error})", 1)
    set_thread_count(threads)
    if from_trajectories is not None:
        data = _data_from_trajectories(from_trajectories, None if dry_run else out)
    if from_ledger:
        data = _data_from_ledger(
            options.load_settings(config, data_dir=data_dir), since, stage, None if dry_run else out
        )
    if dry_run:
        return
    if (checkpoint or base) is None or data is None:
        exit_with_error(_MISSING_INPUT, 2)
    if stage == train_abstention.STAGE:
        _train_abstention(checkpoint, train_abstention.AbstentionJob(checkpoint or Path(), base, data, held_back, seed))
        return
    if stage not in run_stage.STAGES:
        stages = ", ".join((*run_stage.STAGES, train_abstention.STAGE))
        exit_with_error(f"unknown stage {stage!r} (--stage): use {stages}", 2)
    is_stage2 = stage.startswith("stage2")
    plan = TrainingPlan(
        steps or 1000,
        rate or (5e-6 if is_stage2 else 1e-4),
        warmup=0.0 if is_stage2 else 0.03,
        cosine=not is_stage2,
        accumulate=accumulate,
        seed=seed,
        precision="bf16" if bf16 else "no",
    )
    job = run_stage.StageJob(stage, checkpoint, base, data, held_back, batch, prompt=1024 if is_stage2 else 2048)
    _run(job, plan, out)


def _run(job: "StageJob", plan: "TrainingPlan", out: Path) -> None:
    from ...compression.clara.train.run_stage import train_stage  # noqa: PLC0415
    from ...compression.models.errors import ModelError  # noqa: PLC0415

    try:
        with _ProgressBar(plan.steps) as bar:
            folder = train_stage(job, plan, out, bar)
    except (ModelError, OSError) as error:
        exit_with_error(str(error), 1)
    typer.echo(f"Checkpoint: {folder}")


def _train_abstention(checkpoint: Path | None, job: "AbstentionJob") -> None:
    from ...compression.clara.train.train_abstention import train_abstention  # noqa: PLC0415
    from ...compression.models.errors import ModelError  # noqa: PLC0415

    if checkpoint is None:
        exit_with_error("the stage abstention needs a checkpoint (--checkpoint)", 2)
    try:
        with _ProgressBar(0) as bar:
            path, figures = train_abstention(job, bar.show_count)
    except (ModelError, OSError) as error:
        exit_with_error(str(error), 1)
    typer.echo("  ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    typer.echo(f"Abstention head: {path}")


def _data_from_trajectories(runs: Path, out: Path | None) -> Path | None:
    """Make training lines from recorded runs, print their number, and write them if `out` is set."""
    from ...compression.clara.train import from_trajectories  # noqa: PLC0415
    from ...compression.models.errors import ModelError  # noqa: PLC0415

    try:
        records = list(from_trajectories.read_records(runs))
    except (ModelError, OSError) as error:
        exit_with_error(str(error), 1)
    typer.echo(f"{runs}: {len(records)} training lines")
    return None if out is None else _write_data(records, out)


def _data_from_ledger(settings: "Settings", since: str, stage: str, out: Path | None) -> Path | None:
    """Make a stage's training lines from kept passages, print their number, and write them if `out` is set."""
    from ...compression.clara.train import from_ledger  # noqa: PLC0415
    from ..reports.render import parse_since  # noqa: PLC0415
    from ..stores.originals import OriginalsError  # noqa: PLC0415
    from . import recorded_passages  # noqa: PLC0415 - the stores

    try:
        passages = asyncio.run(recorded_passages.read_recorded_passages(settings, parse_since(since, time.time())))
    except (ValueError, OriginalsError) as error:
        exit_with_error(str(error), 1)
    requests = [
        [from_ledger.KeptPassage(texts.before, texts.question) for texts in request] for request in passages.requests
    ]
    usage = list(from_ledger.usage_records(requests))
    restatements = list(from_ledger.restatement_records(requests))
    typer.echo(
        f"{passages.total:,} requests, {len(requests):,} with kept content ({sum(map(len, requests)):,} passages): "
        f"{len(usage):,} lines from later use, {len(restatements):,} restatement lines (stage1)"
    )
    if passages.unreadable:
        typer.echo(f"{passages.unreadable:,} requests could not be read: {passages.error}", err=True)
    if out is None:
        return None
    if not (records := restatements if stage == "stage1" else usage):
        exit_with_error("no training lines: set CLARA_KEEP_CONTENT=passages to keep the passages of future requests", 1)
    return _write_data(records, out)


def _write_data(records: Iterable[dict[str, Any]], out: Path) -> Path:
    """Write training lines to a file that only its owner can read: they may hold private text."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "data.jsonl"
    path.touch(mode=0o600)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


class _ProgressBar:
    """A progress bar with the step and the metrics; prints nothing without a terminal."""

    def __init__(self, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns)
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> "_ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show_count(self, done: int, total: int) -> None:
        """Show the number of questions answered."""
        self._bar.update(self._task, completed=done, total=total, description="questions")

    def __call__(self, progress: "Progress") -> None:
        metrics = "  ".join(f"{name} {value:.3f}" for name, value in progress.metrics.items())
        self._bar.update(self._task, completed=progress.step, description=metrics)
