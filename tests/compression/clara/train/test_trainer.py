"""The loop: resuming is not stopping, accumulating is a larger batch, the rate follows its schedule."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from torch import Tensor, nn

from clara_proxy.compression.clara.train import plot
from clara_proxy.compression.clara.train.loop import Plan, Trainer, rate_at


class Line(nn.Module):
    """Learns a line from points, with dropout, so that the seed of a step counts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        loss = (self.drop(x) @ self.weight - x.sum(dim=-1)).pow(2).mean()
        return {"total": loss}


def points(number: int) -> Tensor:
    return torch.sin(torch.arange(12, dtype=torch.float32) * (number + 1)).view(4, 3)


def curve(trainer: Trainer, until: int | None = None) -> list[tuple[int, float]]:
    return [(record.step, record.figures["total"]) for record in trainer.run(until)]


def test_resuming_gives_the_curve_of_not_stopping(tmp_path: Path) -> None:
    plan = Plan(30, rate=0.05, keep=7, every=5)
    whole = curve(Trainer(Line(), points, plan, tmp_path / "whole"))
    parts = curve(Trainer(Line(), points, plan, tmp_path / "parts"), 13)
    again = Trainer(Line(), points, plan, tmp_path / "parts")
    assert again.resume()
    assert again.record.step == 13
    assert parts + curve(again) == whole
    assert whole[-1][1] < whole[0][1]


def test_a_checkpoint_in_the_middle_is_enough(tmp_path: Path) -> None:
    plan = Plan(20, rate=0.05, keep=5)
    whole = curve(Trainer(Line(), points, plan, tmp_path / "whole"))
    killed = Trainer(Line(), points, plan, tmp_path / "killed")
    for record in killed.run():
        if record.step == 12:
            break
    again = Trainer(Line(), points, plan, tmp_path / "killed")
    assert again.resume()
    assert curve(again) == whole[10:]


def test_the_average_goes_on_where_it_stopped(tmp_path: Path) -> None:
    plan = Plan(12, rate=0.05, keep=5, average=0.5, average_from=4, before=0.25)
    whole = Trainer(model := Line(), points, plan, tmp_path / "whole")
    path = [model.weight.detach().clone() for _ in whole.run()]
    mean = path[3]  # the weights after step 4
    for weight in path[4:]:
        mean = (mean + weight) / 2
    mean = 0.75 * mean + 0.25 * path[3]
    curve(Trainer(Line(), points, plan, tmp_path / "parts"), 7)
    again = Trainer(other := Line(), points, plan, tmp_path / "parts")
    again.resume()
    curve(again)
    for trainer, settled in ((whole, model), (again, other)):
        assert not torch.allclose(settled.weight, mean)
        trainer.settle()
        assert torch.allclose(settled.weight, mean, atol=1e-6)


def test_without_an_average_settling_changes_nothing(tmp_path: Path) -> None:
    trainer = Trainer(model := Line(), points, Plan(3, rate=0.05), tmp_path)
    curve(trainer)
    weight = model.weight.detach().clone()
    trainer.settle()
    assert torch.equal(model.weight, weight)


def test_what_a_judge_says_is_logged_where_a_checkpoint_is_kept(tmp_path: Path) -> None:
    trainer = Trainer(Line(), points, Plan(8, rate=0.05, keep=3, every=2), tmp_path)
    trainer.judge = lambda: {"step_judged": float(trainer.record.step)}
    curve(trainer)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8]
    assert [line.get("step_judged") for line in lines] == [None, 3, 3, 6, 8]


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    assert not Trainer(Line(), points, Plan(1), tmp_path).resume()


def test_accumulating_is_a_larger_batch(tmp_path: Path) -> None:
    class Sure(Line):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.0)

    def both(number: int) -> Tensor:
        return torch.cat((points(2 * number), points(2 * number + 1)))

    one, two = Sure(), Sure()
    list(Trainer(one, both, Plan(6, rate=0.05), tmp_path / "one").run())
    list(Trainer(two, points, Plan(6, rate=0.05, accumulate=2), tmp_path / "two").run())
    assert torch.allclose(one.weight, two.weight, atol=1e-6)


def test_the_rate_warms_up_and_comes_down() -> None:
    plan = Plan(100, rate=1.0, warmup=0.1, floor=0.1)
    rates = [rate_at(plan, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    assert {rate_at(Plan(100, rate=2.0, warmup=0.0, cosine=False), step) for step in range(100)} == {2.0}


def test_the_log_can_be_drawn(tmp_path: Path) -> None:
    list(Trainer(Line(), points, Plan(20, rate=0.05, every=5), tmp_path).run())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    plot.draw(tmp_path / "log.jsonl", tmp_path / "loss.svg")
    picture = (tmp_path / "loss.svg").read_text()
    assert picture.count("<polyline") == 2
    assert "total" in picture
