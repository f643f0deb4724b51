"""The training loop: resuming, accumulation, averaging, schedules and logs."""

import json
from pathlib import Path

import pytest

pytest.importorskip("accelerate", reason="training needs the extra [train]")

import torch
from torch import Tensor, nn

from clara_proxy.compression.clara.train import loss_plot
from clara_proxy.compression.clara.train.trainer import Trainer, TrainingPlan, learning_rate_at


class LinearModel(nn.Module):
    """Fits a linear function; dropout makes the result depend on the seed of each step."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        loss = (self.drop(x) @ self.weight - x.sum(dim=-1)).pow(2).mean()
        return {"total": loss}


def make_points(number: int) -> Tensor:
    return torch.sin(torch.arange(12, dtype=torch.float32) * (number + 1)).view(4, 3)


def run_curve(trainer: Trainer, until: int | None = None) -> list[tuple[int, float]]:
    return [(progress.step, progress.metrics["total"]) for progress in trainer.run(until)]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    plan = TrainingPlan(30, learning_rate=0.05, save_every=7, log_every=5)
    whole = run_curve(Trainer(LinearModel(), make_points, plan, tmp_path / "whole"))
    start = run_curve(Trainer(LinearModel(), make_points, plan, tmp_path / "parts"), 13)
    resumed = Trainer(LinearModel(), make_points, plan, tmp_path / "parts")
    assert resumed.resume()
    assert resumed.progress.step == 13
    assert start + run_curve(resumed) == whole
    assert whole[-1][1] < whole[0][1]


def test_a_killed_run_resumes_from_its_last_saved_state(tmp_path: Path) -> None:
    plan = TrainingPlan(20, learning_rate=0.05, save_every=5)
    whole = run_curve(Trainer(LinearModel(), make_points, plan, tmp_path / "whole"))
    killed = Trainer(LinearModel(), make_points, plan, tmp_path / "killed")
    for progress in killed.run():
        if progress.step == 12:
            break
    resumed = Trainer(LinearModel(), make_points, plan, tmp_path / "killed")
    assert resumed.resume()
    assert run_curve(resumed) == whole[10:]


def test_the_moving_average_survives_a_resume(tmp_path: Path) -> None:
    plan = TrainingPlan(12, learning_rate=0.05, save_every=5, average=0.5, average_from=4, average_start_share=0.25)
    whole = Trainer(model := LinearModel(), make_points, plan, tmp_path / "whole")
    weights = [model.weight.detach().clone() for _ in whole.run()]
    average = weights[3]  # after step 4
    for weight in weights[4:]:
        average = (average + weight) / 2
    expected = 0.75 * average + 0.25 * weights[3]
    run_curve(Trainer(LinearModel(), make_points, plan, tmp_path / "parts"), 7)
    resumed = Trainer(resumed_model := LinearModel(), make_points, plan, tmp_path / "parts")
    resumed.resume()
    run_curve(resumed)
    for trainer, averaged in ((whole, model), (resumed, resumed_model)):
        assert not torch.allclose(averaged.weight, expected)
        trainer.apply_average()
        assert torch.allclose(averaged.weight, expected, atol=1e-6)


def test_without_a_moving_average_the_weights_stay(tmp_path: Path) -> None:
    trainer = Trainer(model := LinearModel(), make_points, TrainingPlan(3, learning_rate=0.05), tmp_path)
    run_curve(trainer)
    weight = model.weight.detach().clone()
    trainer.apply_average()
    assert torch.equal(model.weight, weight)


def test_evaluation_metrics_are_logged_when_the_state_is_saved(tmp_path: Path) -> None:
    plan = TrainingPlan(8, learning_rate=0.05, save_every=3, log_every=2)
    trainer = Trainer(LinearModel(), make_points, plan, tmp_path)
    trainer.evaluate = lambda: {"evaluated_step": float(trainer.progress.step)}
    run_curve(trainer)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]
    assert [line.get("evaluated_step") for line in lines] == [None, 3, 3, 6, 8]


def test_an_empty_folder_has_nothing_to_resume(tmp_path: Path) -> None:
    assert not Trainer(LinearModel(), make_points, TrainingPlan(1), tmp_path).resume()


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    def make_large_batch(number: int) -> Tensor:
        return torch.cat((make_points(2 * number), make_points(2 * number + 1)))

    large, accumulated = LinearModel(dropout=0.0), LinearModel(dropout=0.0)
    list(Trainer(large, make_large_batch, TrainingPlan(6, learning_rate=0.05), tmp_path / "large").run())
    plan = TrainingPlan(6, learning_rate=0.05, accumulate=2)
    list(Trainer(accumulated, make_points, plan, tmp_path / "accumulated").run())
    assert torch.allclose(large.weight, accumulated.weight, atol=1e-6)


def test_the_learning_rate_warms_up_and_decays() -> None:
    plan = TrainingPlan(100, learning_rate=1.0, warmup=0.1, floor=0.1)
    rates = [learning_rate_at(plan, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    constant = TrainingPlan(100, learning_rate=2.0, warmup=0.0, cosine=False)
    assert {learning_rate_at(constant, step) for step in range(100)} == {2.0}


def test_the_log_is_drawn(tmp_path: Path) -> None:
    list(Trainer(LinearModel(), make_points, TrainingPlan(20, learning_rate=0.05, log_every=5), tmp_path).run())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    loss_plot.draw_losses(tmp_path / "log.jsonl", tmp_path / "loss.svg")
    picture = (tmp_path / "loss.svg").read_text()
    assert picture.count("<polyline") == 2
    assert "total" in picture
