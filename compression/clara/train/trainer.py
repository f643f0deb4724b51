"""The training loop: seeded, with gradient accumulation and clipping, resumable.

The batch of a step depends only on the step's number, so a resumed run equals an uninterrupted one.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn

Losses = Mapping[str, Tensor]  # "total" is minimised; the others are only logged
_SMOOTHING = 0.98


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Hyperparameters of a run of `steps` optimiser steps.

    `warmup` is a share of the steps; `floor` is the final learning rate as a share of `learning_rate`.
    `cosine_steps` is the length of the cosine schedule if it differs from `steps`. `knots` are pairs (step, share of
    `learning_rate`): from the first knot on the rate is interpolated linearly, and reaches the floor at the end.
    From step `average_from` on, an exponential moving average of the weights with decay `average` (0: none) is kept;
    `apply_average` mixes it with a share `average_start_share` of the weights at that step.
    `precision` is "no" or "bf16" (torch's autocast). `log_every` and `save_every` are in steps.
    """

    steps: int
    learning_rate: float = 1e-4
    warmup: float = 0.03
    floor: float = 0.1
    cosine: bool = True
    cosine_steps: int = 0
    knots: tuple[tuple[int, float], ...] = ()
    max_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    average: float = 0.0
    average_from: int = 0
    average_start_share: float = 0.0
    accumulate: int = 1
    seed: int = 42
    precision: str = "no"
    log_every: int = 50
    save_every: int = 500


@dataclass(slots=True)
class Progress:
    """The state of a run: completed steps, smoothed metrics, and seconds of training."""

    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0


def learning_rate_at(plan: TrainingPlan, step: int) -> float:
    """Return the learning rate of step 0, 1, ...: linear warm-up, then constant or down to the floor."""
    if not plan.knots or step < plan.knots[0][0]:
        return _cosine_rate(plan, step, plan.cosine_steps or plan.steps)
    for (start, share), (end, next_share) in pairwise((*plan.knots, (plan.steps, plan.floor))):
        if step < end:
            return plan.learning_rate * (share + (next_share - share) * (step - start) / (end - start))
    return plan.learning_rate * plan.floor


def _cosine_rate(plan: TrainingPlan, step: int, steps: int) -> float:
    warmup = max(1, round(plan.warmup * steps)) if plan.warmup else 0
    if step < warmup:
        return plan.learning_rate * (step + 1) / warmup
    if not plan.cosine:
        return plan.learning_rate
    phase = min(1.0, (step - warmup) / max(1, steps - warmup))
    return plan.learning_rate * (plan.floor + (1 - plan.floor) * (1 + math.cos(math.pi * phase)) / 2)


def set_thread_count(count: int) -> None:
    """Set the number of processor threads that torch uses."""
    torch.set_num_threads(count)


class Trainer:
    """Trains a module that maps a batch to `Losses`; `make_batch` returns the batch of a number.

    The state, the log and the checkpoints of the run are in `folder`.
    """

    def __init__(self, model: nn.Module, make_batch: Callable[[int], Any], plan: TrainingPlan, folder: Path) -> None:
        # Accumulation is counted here, not by accelerate, so that it also holds at the end of an epoch.
        self._accelerator: Any = Accelerator(mixed_precision=plan.precision)
        self._plan, self._folder, self._make_batch = plan, folder, make_batch
        trainable = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trainable, plan.learning_rate, plan.betas, weight_decay=plan.weight_decay)
        prepared: tuple[Any, Any] = self._accelerator.prepare(model, optimizer)
        self._model, self._optimizer = prepared
        self.progress = Progress()
        self.evaluate: Callable[[], Mapping[str, float]] | None = None  # its metrics are logged without smoothing
        self._average_start: dict[str, Tensor] = {}  # trained weights at step `average_from`, by name
        self._average: dict[str, Tensor] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def model(self) -> nn.Module:
        """The trained module, without accelerate's wrapper."""
        unwrapped: nn.Module = self._accelerator.unwrap_model(self._model)
        return unwrapped

    def resume(self) -> bool:
        """Load the last saved state of the folder; return False if the folder has no state."""
        path = self._folder / "state.pt"
        if not path.exists():
            return False
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(state["step"], dict(state["figures"]), state["seconds"])
        device = self._accelerator.device
        self._average_start, self._average = (
            {name: weight.to(device) for name, weight in state.get(part, {}).items()} for part in ("before", "means")
        )
        return True

    def apply_average(self) -> None:
        """Replace the model's weights by their moving average, if the plan has one. Call it after the last step."""
        weights = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, average in self._average.items():
                mixed = average.lerp(self._average_start[name], self._plan.average_start_share)
                weights[name].copy_(mixed)

    def run(self, until: int | None = None) -> Iterator[Progress]:
        """Train up to step `until` (by default the last one); log, save, and yield the progress after each step."""
        end = self._plan.steps if until is None else min(until, self._plan.steps)
        while self.progress.step < end:
            started = time.monotonic()
            _seed(self._plan.seed * 1_000_003 + self.progress.step)
            self._train_step()
            self.progress.seconds += time.monotonic() - started
            is_checkpoint = self.progress.step % self._plan.save_every == 0 or self.progress.step == end
            if is_checkpoint and self.evaluate is not None:
                self.progress.metrics.update(self.evaluate())
            if is_checkpoint or self.progress.step % self._plan.log_every == 0:
                self._log()
            if is_checkpoint:
                self.save()
            yield self.progress

    def save(self) -> None:
        """Write the state atomically: a run killed while saving keeps its previous state."""
        if not self._accelerator.is_main_process:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.progress.step,
            "figures": self.progress.metrics,
            "seconds": self.progress.seconds,
            "before": self._average_start,
            "means": self._average,
        }
        temporary = self._folder / "state.pt.new"
        torch.save(state, temporary)
        temporary.replace(self._folder / "state.pt")

    def _train_step(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(self._plan, self.progress.step)
        self._optimizer.zero_grad()
        for part in range(self._plan.accumulate):
            number = self.progress.step * self._plan.accumulate + part
            batch = move_to_device(self._make_batch(number), self._accelerator.device)
            with self._accelerator.autocast():
                losses: Losses = self._model(batch)
            self._accelerator.backward(losses["total"] / self._plan.accumulate)
            self._update_metrics(losses)
        self._accelerator.clip_grad_norm_(self._model.parameters(), self._plan.max_norm)
        self._optimizer.step()
        self.progress.step += 1
        if self._plan.average and self.progress.step >= self._plan.average_from:
            self._update_average()

    @torch.no_grad()
    def _update_average(self) -> None:
        for name, weight in self.model.named_parameters():
            if name in self._average:
                self._average[name].lerp_(weight, 1 - self._plan.average)
            elif weight.requires_grad:
                self._average_start[name], self._average[name] = weight.clone(), weight.clone()

    def _update_metrics(self, losses: Losses) -> None:
        metrics = self.progress.metrics
        for name, loss in losses.items():
            value, previous = float(loss.detach()), metrics.get(name)
            metrics[name] = value if previous is None else _SMOOTHING * previous + (1 - _SMOOTHING) * value

    def _log(self) -> None:
        progress = self.progress
        rate = learning_rate_at(self._plan, progress.step - 1)
        metrics = {name: round(value, 5) for name, value in progress.metrics.items()}
        line = {"step": progress.step, "seconds": round(progress.seconds, 1), "rate": rate, **metrics}
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def _seed(seed: int) -> None:
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]


def move_to_device(batch: Any, device: torch.device) -> Any:
    """Move a tensor, or the tensors of nested named tuples, to a device; other values are returned unchanged."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        fields: Any = batch  # pyright: ignore[reportUnknownVariableType]
        return fields._make(move_to_device(part, device) for part in fields)
    return batch
