"""The command: a stage on a tiny checkpoint and a file, from the command line to a checkpoint that answers."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json
from dataclasses import replace
from pathlib import Path

import torch
import typer
from typer.testing import CliRunner

from clara_proxy.compression.clara.checkpoint import DECODER, ENCODER, QUERY
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.errors import ClaraError
from clara_proxy.compression.clara.train import command, data, start
from clara_proxy.compression.clara.train.batch import STAGES, Stage
from clara_proxy.compression.clara.train.command import Job
from clara_proxy.compression.clara.train.loop import Plan
from clara_proxy.proxy.commands import train

ITEMS = [
    {"docs": ["the fox", "a river", "stone bridge"], "question": "fox", "answer": "the fox", "pos_index": [0]},
    {"docs": ["a lamp", "the bridge", "the fox"], "question": "lamp", "answer": "lamp", "pos_index": [0]},
    {"docs": ["a stone", "the river", "the lamp"], "question": "river", "answer": "river", "pos_index": [1]},
    {"docs": ["the river", "a fox", "the stone"], "question": "stone", "answer": "stone", "pos_index": [2]},
]
TRAINED: dict[str, set[str]] = {
    "stage1": {ENCODER, DECODER},
    "stage1_2": {ENCODER, DECODER},
    "stage2": {DECODER, QUERY},
    "stage2_pretrain_retrieval": {QUERY},
}


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    return path


def job(stage: Stage, tiny: Path, lines: Path) -> Job:
    if stage == "stage1":
        lines.write_text(
            "".join(json.dumps({**item, "docs": item["docs"][:1], "pos_index": []}) + "\n" for item in ITEMS)
        )
    return Job(stage, tiny / "clara" / "compression-4", tiny / "base", lines, lines, batch=2, top_k=2, dropout=0.0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_what_it_says_and_learns(stage: Stage, tiny: Path, lines: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    plan = Plan(16, rate=3e-3, warmup=0.0, keep=8)
    written = command.train_stage(
        job(stage, tiny, lines), plan, tmp_path / "run", lambda record: losses.append(record.figures["loss"])
    )
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "log.jsonl").read_text().count("held_back") == 2
    before = torch.load(tiny / "clara" / "compression-4" / "adapters.pth", weights_only=True)
    after = torch.load(written / "adapters.pth", weights_only=True)
    for name in set(before) & set(after):
        key = "model.layers.0.self_attn.q_proj.lora_B.weight"
        moved = not torch.equal(before[name][key].bfloat16(), after[name][key])
        assert moved == (name in TRAINED[stage]), name
    clara = Clara.from_pretrained(written, base=tiny / "base")
    assert len(clara.generate(["fox"], [["the fox", "a river"]], 4)) == 1


def test_the_first_stage_starts_from_a_bare_base(golden: Path, lines: Path, tmp_path: Path) -> None:
    base = golden / "base" / "tiny-mistral"
    first = replace(job("stage1", tmp_path, lines), checkpoint=None, base=base)
    written = command.train_stage(first, Plan(2, rate=1e-3), tmp_path / "run", lambda _: None)
    clara = Clara.from_pretrained(written, base=base)
    assert clara.config.stage == "stage1"
    assert clara.compress(["The fox crossed the river."]).vectors.shape == (1, 16, 64)
    with pytest.raises(ClaraError, match="checkpoint"):
        command.train_stage(replace(first, stage="stage2"), Plan(2), tmp_path / "other", lambda _: None)


def test_new_vocabulary_rows_look_like_the_old_ones(golden: Path) -> None:
    base = golden / "base" / "tiny-mistral"
    made = start.fresh(base, 256, 2, 4)
    old, new = made.network.embed[: made.vocabulary.base_size], made.network.embed[made.vocabulary.base_size :]
    assert len(new) == 128 + 3
    # 131 draws: their mean lies within a few standard errors of the old one, their spread within a fifth.
    assert ((new.mean(0) - old.mean(0)).abs() < 5 * old.std(0) / len(new) ** 0.5).all()
    assert 0.8 < float(new.detach().std() / old.detach().std()) < 1.2


def test_micro_batches_go_through_everything_once_an_epoch() -> None:
    items = [data.item({**item, "question": str(place)}) for place, item in enumerate(ITEMS)]
    for epoch in range(3):
        seen = [item for part in range(2) for item in command.chosen(items, 2, 7, 2 * epoch + part)]
        assert sorted(item.questions for item in seen) == [("0",), ("1",), ("2",), ("3",)]
    assert command.chosen(items, 2, 7, 5) == command.chosen(items, 2, 7, 5)


def cli(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(train.train)
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output


def test_the_command_line_trains_and_says_where(tiny: Path, lines: Path, tmp_path: Path) -> None:
    checkpoint = str(tiny / "clara" / "compression-4")
    arguments = ["--stage", "stage2", "--checkpoint", checkpoint, "--base", str(tiny / "base"), "--data", str(lines)]
    code, said = cli(*arguments, "--steps", "2", "--out", str(tmp_path / "run"))
    assert code == 0, said
    assert (tmp_path / "run" / "compression-4" / "adapters.pth").is_file()
    assert "written" in said


def test_the_command_line_counts_what_recorded_runs_give(tmp_path: Path) -> None:
    call = {"function": {"name": "ls", "arguments": "{}"}}
    rows = "".join(f"{number}: a row of little interest\n" for number in range(200))
    messages = [
        {"role": "user", "content": "Which file?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": rows + "set_up.py\n"},
        {"role": "assistant", "content": "It is set_up.py."},
    ]
    runs = tmp_path / "runs.jsonl"
    runs.write_text(json.dumps({"messages": messages}) + "\n")
    code, said = cli("--from-trajectories", str(runs), "--dry-run", "--out", str(tmp_path / "out"))
    assert code == 0, said
    assert "1 lines" in said
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_what_is_missing(tiny: Path, tmp_path: Path) -> None:
    assert cli("--out", str(tmp_path))[0] == 2
    code, said = cli("--stage", "third", "--checkpoint", str(tiny), "--data", str(tmp_path))
    assert code == 2
    assert "stage1_2" in said
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    checkpoint = str(tiny / "clara" / "compression-4")
    code, said = cli("--checkpoint", checkpoint, "--base", str(tiny / "base"), "--data", str(broken))
    assert code == 1
    assert "line 1" in said
