"""The command line of training: `clara-proxy train --nano`, or one stage on a file of JSON lines."""

import asyncio
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .options import Config, DataDir, exit_with_error

if TYPE_CHECKING:
    from ...compression.clara.train.loop import Record
    from ...config.settings import Settings

Nano = Annotated[bool, typer.Option("--nano", help="Make clara-nano from nothing.")]
Out = Annotated[Path, typer.Option(help="Folder of the run; a run that is there is gone on with.")]
Steps = Annotated[int | None, typer.Option(help="Optimiser steps.", show_default=False)]
Seed = Annotated[int, typer.Option(help="Where all randomness comes from.")]
Threads = Annotated[int, typer.Option(help="Processor threads.")]
Stage_ = Annotated[str, typer.Option("--stage", help="stage1, stage1_2, stage2 or stage2_pretrain_retrieval.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Checkpoint folder to start from.", show_default=False)]
Base = Annotated[Path | None, typer.Option(help="Folder of its base model.", show_default=False)]
Data = Annotated[Path | None, typer.Option(help="JSON lines to learn from.", show_default=False)]
Runs = Annotated[
    Path | None,
    typer.Option("--from-trajectories", help="Recorded agent runs to make JSON lines of.", show_default=False),
]
Recorded = Annotated[
    bool, typer.Option("--from-ledger", help="Make JSON lines of recorded requests whose content was kept.")
]
Since = Annotated[str, typer.Option(help="Of the ledger: 7d, 24h, 30m or a date.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say how many lines that gives.")]
HeldBack = Annotated[Path | None, typer.Option(help="JSON lines to judge by.", show_default=False)]
Batch = Annotated[int, typer.Option(help="Lines of one forward pass.")]
Accumulate = Annotated[int, typer.Option(help="Forward passes of one step.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate; the stage's own unless given.", show_default=False)]
Half = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")]


def train(  # noqa: PLR0913, PLR0917 - one parameter an option
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
    """Train clara-nano from nothing, or one stage of a CLaRa on JSON lines of your own."""
    try:
        from ...compression.clara.train import command  # noqa: PLC0415 - torch
        from ...compression.clara.train.loop import Plan, limit_threads  # noqa: PLC0415
        from ...compression.clara.train.nano import STEPS  # noqa: PLC0415
    except ImportError as error:
        exit_with_error(f"training needs the extra: pip install 'clara-proxy[clara]' ({error})", 1)
    limit_threads(threads)
    if nano:
        with _Progress(steps or STEPS) as say:
            written = command.train_nano(out, steps or STEPS, seed, say)
        typer.echo(f"written: {written}")
        return
    if from_trajectories is not None:
        data = _collected(from_trajectories, None if dry_run else out)
    if from_ledger:
        data = _recorded(options.load_settings(config, data_dir=data_dir), since, stage, None if dry_run else out)
    if dry_run:
        return
    if (checkpoint or base) is None or data is None:
        exit_with_error("give --nano, or --data and a --checkpoint (stage1: a --base is enough)", 2)
    if stage not in command.STAGES:
        exit_with_error(f"--stage {stage}: choose {', '.join(command.STAGES)}", 2)
    late = stage.startswith("stage2")
    plan = Plan(
        steps or 1000,
        rate or (5e-6 if late else 1e-4),
        warmup=0.0 if late else 0.03,
        cosine=not late,
        accumulate=accumulate,
        seed=seed,
        precision="bf16" if bf16 else "no",
    )
    job = command.Job(stage, checkpoint, base, data, held_back, batch, prompt=1024 if late else 2048)
    from ...compression.clara.errors import ClaraError  # noqa: PLC0415

    try:
        with _Progress(plan.steps) as say:
            written = command.train_stage(job, plan, out, say)
    except (ClaraError, OSError) as error:
        exit_with_error(str(error), 1)
    typer.echo(f"written: {written}")


def _collected(runs: Path, out: Path | None) -> Path | None:
    """Make training lines of recorded runs and say how many; written to the folder unless it is None."""
    from ...compression.clara.errors import ClaraError  # noqa: PLC0415
    from ...compression.clara.train import trajectories  # noqa: PLC0415

    try:
        records = list(trajectories.read(runs))
    except (ClaraError, OSError) as error:
        exit_with_error(str(error), 1)
    typer.echo(f"{runs}: {len(records)} lines to train on")
    if out is None:
        return None
    return _written(records, out)


def _recorded(chosen: "Settings", since: str, stage: str, out: Path | None) -> Path | None:
    """Make a stage's training lines of what the proxy kept and say how many; written unless there is no folder."""
    from ...compression.clara.train import kept  # noqa: PLC0415
    from ..stores.originals import OriginalsError  # noqa: PLC0415
    from ..stores.report import since as read  # noqa: PLC0415
    from . import recorded  # noqa: PLC0415 - the stores

    try:
        found = asyncio.run(recorded.read(chosen, read(since, time.time())))
    except (ValueError, OriginalsError) as error:
        exit_with_error(str(error), 1)
    passages = [[kept.Kept(texts.before, texts.question) for texts in request] for request in found.requests]
    used, restated = list(kept.records(passages)), list(kept.restatements(passages))
    typer.echo(
        f"{found.looked_at:,} requests, {sum(map(len, passages)):,} kept passages of {len(passages):,}: "
        f"{len(used):,} lines of what was used later, {len(restated):,} windows to restate (stage1)"
    )
    if found.unreadable:
        typer.echo(f"{found.unreadable:,} requests cannot be read: {found.why}", err=True)
    if out is None:
        return None
    if not (records := restated if stage == "stage1" else used):
        exit_with_error("there is nothing to train on: CLARA_KEEP_CONTENT=passages keeps passages from then on", 1)
    return _written(records, out)


def _written(records: Iterable[dict[str, Any]], out: Path) -> Path:
    """Write training lines for their owner's eyes only: they are other people's texts."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "data.jsonl"
    path.touch(mode=0o600)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


class _Progress:
    """A bar with the step and the loss; quiet where there is no terminal."""

    def __init__(self, steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns)
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, record: "Record") -> None:
        shown = "  ".join(f"{name} {value:.3f}" for name, value in record.figures.items())
        self._bar.update(self._task, completed=record.step, description=shown)
