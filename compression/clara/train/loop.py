"""The training loop: seeded, accumulating, clipped, resumable; it knows neither data nor model.

What a step learns from depends on its number alone, so a run that was stopped and resumed is the run that was not.
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

Losses = Mapping[str, Tensor]  # "total" is what is minimised; the others are written down
_SMOOTH = 0.98


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train for `steps` optimiser steps; `warmup` is a share of them, `floor` the last rate by `rate`.

    `course` is how many steps the cosine is made for, where that is not `steps`. `knots` are (step, share of `rate`):
    from the first of them on the rate goes straight from one to the next, and from the last to the floor at the end.
    From step `average_from` on, `average` (a share below 1; 0: none) of the mean weights stays when a step's are added;
    what `settle` makes of them holds a share `before` of the weights as they were at that step.
    `precision` is "no" or "bf16" (torch's autocast); `every` is how often a line is logged, `keep` how often a
    checkpoint is written.
    """

    steps: int
    rate: float = 1e-4
    warmup: float = 0.03
    floor: float = 0.1
    cosine: bool = True
    course: int = 0
    knots: tuple[tuple[int, float], ...] = ()
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.0
    average: float = 0.0
    average_from: int = 0
    before: float = 0.0
    accumulate: int = 1
    seed: int = 42
    precision: str = "no"
    every: int = 50
    keep: int = 500


@dataclass(slots=True)
class Record:
    """Where a run stands: the step it has done, smoothed figures, seconds of training so far."""

    step: int = 0
    figures: dict[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0


def rate_at(plan: Plan, step: int) -> float:
    """Return the learning rate of step 0, 1, ...: linear warm-up, then constant or down to the floor."""
    if not plan.knots or step < plan.knots[0][0]:
        return _cosine(plan, step, plan.course or plan.steps)
    for (begin, share), (end, later) in pairwise((*plan.knots, (plan.steps, plan.floor))):
        if step < end:
            return plan.rate * (share + (later - share) * (step - begin) / (end - begin))
    return plan.rate * plan.floor


def _cosine(plan: Plan, step: int, course: int) -> float:
    warm = max(1, round(plan.warmup * course)) if plan.warmup else 0
    if step < warm:
        return plan.rate * (step + 1) / warm
    if not plan.cosine:
        return plan.rate
    done = min(1.0, (step - warm) / max(1, course - warm))
    return plan.rate * (plan.floor + (1 - plan.floor) * (1 + math.cos(math.pi * done)) / 2)


def limit_threads(count: int) -> None:
    """Use so many processor threads from now on."""
    torch.set_num_threads(count)


class Trainer:
    """Trains `model`, whose call turns a batch into `Losses`, on `batches(number)`; keeps its state in `folder`."""

    def __init__(self, model: nn.Module, batches: Callable[[int], Any], plan: Plan, folder: Path) -> None:
        # One micro batch a call, so that accumulation is what the plan says also at the end of an epoch.
        self._accelerator: Any = Accelerator(mixed_precision=plan.precision)
        self._plan, self._folder, self._batches = plan, folder, batches
        wanted = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(wanted, plan.rate, plan.betas, weight_decay=plan.decay)
        prepared: tuple[Any, Any] = self._accelerator.prepare(model, optimizer)
        self._model, self._optimizer = prepared
        self.record = Record()
        self.judge: Callable[[], Mapping[str, float]] | None = None  # its figures are written down unsmoothed
        self._before: dict[str, Tensor] = {}  # by name, all weights that are trained, where the mean begins
        self._means: dict[str, Tensor] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def model(self) -> nn.Module:
        """The model as it was given."""
        unwrapped: nn.Module = self._accelerator.unwrap_model(self._model)
        return unwrapped

    def resume(self) -> bool:
        """Go on from the last checkpoint in the folder; false when there is none."""
        path = self._folder / "state.pt"
        if not path.exists():
            return False
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.record = Record(state["step"], dict(state["figures"]), state["seconds"])
        device = self._accelerator.device
        self._before, self._means = (
            {name: weight.to(device) for name, weight in state.get(part, {}).items()} for part in ("before", "means")
        )
        return True

    def settle(self) -> None:
        """Put the averaged weights in the model's place, where there are any: the run is over."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, mean in self._means.items():
                own[name].copy_(mean.lerp(self._before[name], self._plan.before))

    def run(self, until: int | None = None) -> Iterator[Record]:
        """Train up to a step (all of them unless given), yielding after each; checkpoints and log lines on the way."""
        end = self._plan.steps if until is None else min(until, self._plan.steps)
        while self.record.step < end:
            started = time.monotonic()
            _seed(self._plan.seed * 1_000_003 + self.record.step)
            self._step()
            self.record.seconds += time.monotonic() - started
            keep = self.record.step % self._plan.keep == 0 or self.record.step == end
            if keep and self.judge is not None:
                self.record.figures.update(self.judge())
            if keep or self.record.step % self._plan.every == 0:
                self._log()
            if keep:
                self.save()
            yield self.record

    def save(self) -> None:
        """Write the state; a run that is killed while writing keeps the one before."""
        if not self._accelerator.is_main_process:
            return
        record = self.record
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": record.step,
            "figures": record.figures,
            "seconds": record.seconds,
            "before": self._before,
            "means": self._means,
        }
        fresh = self._folder / "state.pt.new"
        torch.save(state, fresh)
        fresh.replace(self._folder / "state.pt")

    def _step(self) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(self._plan, self.record.step)
        self._optimizer.zero_grad()
        for part in range(self._plan.accumulate):
            batch = placed(self._batches(self.record.step * self._plan.accumulate + part), self._accelerator.device)
            with self._accelerator.autocast():
                losses: Losses = self._model(batch)
            self._accelerator.backward(losses["total"] / self._plan.accumulate)
            self._note(losses)
        self._accelerator.clip_grad_norm_(self._model.parameters(), self._plan.clip)
        self._optimizer.step()
        self.record.step += 1
        if self._plan.average and self.record.step >= self._plan.average_from:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        for name, weight in self.model.named_parameters():
            if name in self._means:
                self._means[name].lerp_(weight, 1 - self._plan.average)
            elif weight.requires_grad:
                self._before[name], self._means[name] = weight.clone(), weight.clone()

    def _note(self, losses: Losses) -> None:
        for name, loss in losses.items():
            now, before = float(loss.detach()), self.record.figures.get(name)
            self.record.figures[name] = now if before is None else _SMOOTH * before + (1 - _SMOOTH) * now

    def _log(self) -> None:
        record = self.record
        line = {"step": record.step, "seconds": round(record.seconds, 1), "rate": rate_at(self._plan, record.step - 1)}
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({**line, **{name: round(value, 5) for name, value in record.figures.items()}}) + "\n")


def _seed(seed: int) -> None:
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]


def placed(batch: Any, device: torch.device) -> Any:
    """Return a batch, a tensor or a named tuple of such, on a device; what is neither stays as it is."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        named: Any = batch  # pyright: ignore[reportUnknownVariableType]
        return named._make(placed(part, device) for part in named)
    return batch
