"""A training stage from the command line to a checkpoint that answers."""

import pytest

pytest.importorskip("accelerate", reason="training needs the extra [train]")

import json
from dataclasses import replace
from pathlib import Path

import torch
import typer
from typer.testing import CliRunner

from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.train.collate import STAGES, Stage
from clara_proxy.compression.clara.train.initial_network import start_from_base
from clara_proxy.compression.clara.train.run_stage import StageJob, select_batch, train_stage
from clara_proxy.compression.clara.train.trainer import TrainingPlan
from clara_proxy.compression.clara.train.training_data import parse_example
from clara_proxy.compression.models.errors import ModelError
from clara_proxy.proxy.commands import train

RECORDS = [
    {"docs": ["the fox", "a river", "stone bridge"], "question": "fox", "answer": "the fox", "pos_index": [0]},
    {"docs": ["a lamp", "the bridge", "the fox"], "question": "lamp", "answer": "lamp", "pos_index": [0]},
    {"docs": ["a stone", "the river", "the lamp"], "question": "river", "answer": "river", "pos_index": [1]},
    {"docs": ["the river", "a fox", "the stone"], "question": "stone", "answer": "stone", "pos_index": [2]},
]
TRAINED_ADAPTERS: dict[str, set[str]] = {
    "stage1": {ENCODER_ADAPTER, DECODER_ADAPTER},
    "stage1_2": {ENCODER_ADAPTER, DECODER_ADAPTER},
    "stage2": {DECODER_ADAPTER, QUERY_ADAPTER},
    "stage2_pretrain_retrieval": {QUERY_ADAPTER},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


def make_job(stage: Stage, tiny: Path, data: Path) -> StageJob:
    if stage == "stage1":
        records = [{**record, "docs": record["docs"][:1], "pos_index": []} for record in RECORDS]
        data.write_text("".join(json.dumps(record) + "\n" for record in records))
    checkpoint = tiny / "clara" / "compression-4"
    return StageJob(stage, checkpoint, tiny / "base", data, data, batch=2, top_k=2, dropout=0.0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_its_own_adapters(stage: Stage, tiny: Path, data: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    plan = TrainingPlan(16, learning_rate=3e-3, warmup=0.0, save_every=8)
    checkpoint = train_stage(
        make_job(stage, tiny, data), plan, tmp_path / "run", lambda progress: losses.append(progress.metrics["loss"])
    )
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "log.jsonl").read_text().count("held_back") == 2
    before = torch.load(tiny / "clara" / "compression-4" / "adapters.pth", weights_only=True)
    after = torch.load(checkpoint / "adapters.pth", weights_only=True)
    for name in set(before) & set(after):
        key = "model.layers.0.self_attn.q_proj.lora_B.weight"
        changed = not torch.equal(before[name][key].bfloat16(), after[name][key])
        assert changed == (name in TRAINED_ADAPTERS[stage]), name
    clara = Clara.from_pretrained(checkpoint, base=tiny / "base")
    assert len(clara.generate(["fox"], [["the fox", "a river"]], 4)) == 1


def test_stage_1_starts_from_a_base_model(golden: Path, data: Path, tmp_path: Path) -> None:
    base = golden / "base" / "tiny-mistral"
    job = replace(make_job("stage1", tmp_path, data), checkpoint=None, base=base)
    checkpoint = train_stage(job, TrainingPlan(2, learning_rate=1e-3), tmp_path / "run", lambda _: None)
    clara = Clara.from_pretrained(checkpoint, base=base)
    assert clara.config.training_stage == "stage1"
    assert clara.compress(["The fox crossed the river."]).vectors.shape == (1, 16, 64)
    with pytest.raises(ModelError, match="checkpoint"):
        train_stage(replace(job, stage="stage2"), TrainingPlan(2), tmp_path / "other", lambda _: None)


def test_new_vocabulary_rows_are_distributed_like_the_old_ones(golden: Path) -> None:
    start = start_from_base(golden / "base" / "tiny-mistral", 256, 2, 4)
    embed, size = start.network.embed, start.tokenizer.base_vocabulary_size
    old, new = embed[:size], embed[size:]
    assert len(new) == 128 + 3
    # 131 draws: their mean is within a few standard errors of the old one, their deviation within a fifth.
    assert ((new.mean(0) - old.mean(0)).abs() < 5 * old.std(0) / len(new) ** 0.5).all()
    assert 0.8 < float(new.detach().std() / old.detach().std()) < 1.2


def test_every_epoch_uses_every_example_once() -> None:
    examples = [parse_example({**record, "question": str(index)}) for index, record in enumerate(RECORDS)]
    for epoch in range(3):
        batches = [select_batch(examples, 2, 7, 2 * epoch + part) for part in range(2)]
        questions = sorted(example.questions for batch in batches for example in batch)
        assert questions == [("0",), ("1",), ("2",), ("3",)]
    assert select_batch(examples, 2, 7, 5) == select_batch(examples, 2, 7, 5)


def run_cli(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(train.train)
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


def test_the_command_trains_and_prints_the_checkpoint(tiny: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = str(tiny / "clara" / "compression-4")
    arguments = ["--stage", "stage2", "--checkpoint", checkpoint, "--base", str(tiny / "base"), "--data", str(data)]
    code, output = run_cli(*arguments, "--steps", "2", "--out", str(tmp_path / "run"))
    assert code == 0, output
    assert (tmp_path / "run" / "compression-4" / "adapters.pth").is_file()
    assert "Checkpoint: " in output


def test_a_dry_run_counts_the_lines_of_recorded_runs(tmp_path: Path) -> None:
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
    code, output = run_cli("--from-trajectories", str(runs), "--dry-run", "--out", str(tmp_path / "out"))
    assert code == 0, output
    assert "1 training lines" in output
    assert not (tmp_path / "out").exists()


def test_errors_name_the_missing_or_invalid_value(tiny: Path, tmp_path: Path) -> None:
    code, output = run_cli("--out", str(tmp_path))
    assert code == 2
    assert "--data" in output
    code, output = run_cli("--stage", "third", "--checkpoint", str(tiny), "--data", str(tmp_path))
    assert code == 2
    assert "stage1_2" in output
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    checkpoint = str(tiny / "clara" / "compression-4")
    code, output = run_cli("--checkpoint", checkpoint, "--base", str(tiny / "base"), "--data", str(broken))
    assert code == 1
    assert "line 1" in output


def test_the_nano_option_names_the_benchmark_command() -> None:
    code, output = run_cli("--nano")
    assert code == 2
    assert "clara_proxy.benchmarks.nano train" in " ".join(output.split())
    assert "--nano" not in run_cli("--help")[1]
