"""Trains clara-nano from random weights to exported checkpoints of both rates.

    python -m clara_proxy.benchmarks.nano train [--out FOLDER] [--steps 12350] [--seed 42] [--threads 1]

The run takes several hours on one thread. It prints its progress every 50 steps and can be interrupted and resumed.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...compression.clara.train import loss_plot
from ...compression.clara.train.network import Network
from ...compression.clara.train.trainer import Progress, Trainer, set_thread_count
from . import query_adapter, recipe

OnStep = Callable[[Progress], None]
_PRINT_EVERY = 50


def train_nano(folder: Path, steps: int, seed: int, on_step: OnStep) -> Path:
    """Train clara-nano in a folder, resuming a run found there; return the folder with the base and the checkpoints.

    `steps` is the length of the main training; the later parts are shortened in proportion.
    """
    trainer, network, tokenizer_json = recipe.make_main_trainer(folder, steps, seed)
    _run(trainer, folder, on_step)
    further_folder, further_steps = folder / "further", _scale(recipe.FURTHER_STEPS, steps)
    _run(
        recipe.make_further_trainer(network, tokenizer_json, further_folder, further_steps, seed),
        further_folder,
        on_step,
    )
    exported = folder / "clara-nano"
    _finish_rate(network, tokenizer_json, folder, recipe.RATE, (steps, seed), on_step)
    fine_folder, fine_steps = folder / f"rate-{recipe.FINE_RATE}", _scale(recipe.FINE_STEPS, steps)
    trainer, network = recipe.make_fine_trainer(network, tokenizer_json, fine_folder, fine_steps, seed)
    _run(trainer, fine_folder, on_step)
    _finish_rate(network, tokenizer_json, folder, recipe.FINE_RATE, (steps, seed), on_step)
    return exported


def _finish_rate(
    network: Network, tokenizer_json: str, folder: Path, rate: int, run: tuple[int, int], on_step: OnStep
) -> None:
    """Train the query adapter of a rate, export the network, and calibrate the exported checkpoint."""
    steps, seed = run
    query_folder, query_steps = folder / f"query-adapter-{rate}", _scale(query_adapter.STEPS, steps)
    trainer = recipe.make_query_adapter_trainer(network, tokenizer_json, query_folder, rate, query_steps, seed)
    _run(trainer, query_folder, on_step)
    exported = recipe.export_checkpoint(network, tokenizer_json, folder / "clara-nano", rate)
    recipe.calibrate_abstention(exported, rate, seed)


def _scale(full_steps: int, steps: int) -> int:
    """Return the length of a later part if the main course has `steps` steps."""
    return max(1, steps * full_steps // recipe.STEPS)


def _run(trainer: Trainer, folder: Path, on_step: OnStep) -> None:
    trainer.resume()
    for progress in trainer.run():
        on_step(progress)
    trainer.apply_average()
    loss_plot.draw_losses(folder / "log.jsonl", folder / "loss.svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train clara-nano."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("nano-run"), help="output directory; an unfinished run found there is resumed"
    )
    parser.add_argument("--steps", type=int, default=recipe.STEPS, help="optimiser steps of the main course")
    parser.add_argument("--seed", type=int, default=42, help="random seed")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    options = parser.parse_args(arguments)
    set_thread_count(options.threads)
    started = time.perf_counter()

    def print_progress(progress: Progress) -> None:
        if progress.step % _PRINT_EVERY == 0:
            metrics = "  ".join(f"{name} {value:.3f}" for name, value in progress.metrics.items())
            print(f"{time.perf_counter() - started:8.0f} s  step {progress.step:6}  {metrics}", flush=True)

    print(f"Checkpoints: {train_nano(options.out, options.steps, options.seed, print_progress)}")
