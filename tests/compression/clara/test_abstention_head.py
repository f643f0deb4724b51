"""A head beside a checkpoint refuses questions before anything is decoded; without a head nothing changes."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

from clara_proxy.compression import registry
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.compressors import AnswerCompressor
from clara_proxy.compression.clara.jobs import JobKind, ModelJob
from clara_proxy.compression.clara.locate import HEAD_FILE
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.compression.clara.worker import Worker
from clara_proxy.compression.engine import CompressionJob, run_job
from clara_proxy.compression.models.cost import ModelCost
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.http.vllm_generation import Generation
from clara_proxy.tests.compression.clara.heads import write_constant_head

DOCUMENTS = ["the fox", "a river", "the stone bridge"]
PROSE = " ".join(
    f"In {1900 + year} the {kind} of the old town was mended by {1000 + 7 * year} people with patience and stone."
    for year, kind in enumerate(["bridge", "mill", "lamp", "gate", "tower", "well", "wall", "quay"] * 4)
)
REFUSES, ANSWERS = 0.9, 0.1
NAME = "compression-4"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny checkpoint."""
    shutil.copytree(tiny, tmp_path / "tiny")
    return tmp_path / "tiny"


def load(folder: Path, device: str = "cpu", **options: Any) -> Clara:
    return Clara.from_pretrained(folder / "clara", base=folder / "base", device=device, **options)


@pytest.mark.parametrize("device", ["cpu", "mlx"])
def test_head_that_refuses_leaves_the_text_empty(folder: Path, device: str) -> None:
    if device == "mlx":
        pytest.importorskip("mlx.core", reason="MLX needs the extra [mlx]")
    expected = load(folder, device).replies(["fox"], [DOCUMENTS], 6)
    write_constant_head(folder / "clara" / NAME, ANSWERS)
    assert load(folder, device).replies(["fox"], [DOCUMENTS], 6) == expected
    write_constant_head(folder / "clara" / NAME, REFUSES)
    clara = load(folder, device)
    (reply,) = clara.replies(["fox"], [DOCUMENTS], 6)
    assert reply == replace(expected[0], text="", tokens=(), finish="stop", not_in_memory=True)
    assert clara.answer("fox", DOCUMENTS, max_new_tokens=6).not_in_memory
    assert "".join(clara.stream("fox", DOCUMENTS, 6)) == ""
    # A paraphrase and a prompt without memories have nothing to refuse.
    plain = load(folder, device, abstention_threshold=1.0)
    assert clara.paraphrase([DOCUMENTS], 0, 6) == plain.paraphrase([DOCUMENTS], 0, 6) != [""]
    assert clara.replies(["fox"], [[]], 6) == plain.replies(["fox"], [[]], 6)
    assert plain.replies(["fox"], [DOCUMENTS], 6) == expected


def test_head_with_a_broken_or_foreign_file_is_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = load(folder).replies(["fox"], [DOCUMENTS], 6)
    path = write_constant_head(folder / "clara" / NAME, REFUSES)
    open_file: Any = safe_open
    with open_file(path, framework="numpy") as file:
        metadata: dict[str, str] = file.metadata()
    tensors = load_file(path)

    def problem(**changes: str) -> str:
        caplog.clear()
        save_file(tensors, path, metadata | changes)
        assert load(folder).replies(["fox"], [DOCUMENTS], 6) == expected
        (record,) = caplog.records
        return record.getMessage().partition("not used: ")[2]

    assert "version 2" in problem(version="2")
    assert "another checkpoint" in problem(fingerprint="0" * 32)
    assert "layer 3" in problem(depth="3")
    assert "could not convert" in problem(threshold="high")
    tensors["mean"] = tensors["mean"][:3]
    assert "hidden size 32" in problem()
    del tensors["mean"]
    assert "mean" in problem()
    caplog.clear()
    path.write_bytes(b"no tensors")
    assert load(folder).replies(["fox"], [DOCUMENTS], 6) == expected
    assert len(caplog.records) == 1


def test_head_of_another_decoder_is_not_used(folder: Path) -> None:
    write_constant_head(folder / "clara" / NAME, REFUSES)
    bare = load(folder, compat=Compat(skip_decoder_adapter=True))
    assert bare.memory_check is None
    assert load(folder).memory_check is not None


@pytest.mark.parametrize("kind", ["generate", "answer", "ask"])
def test_worker_refuses_at_the_cost_of_the_prompt(kind: JobKind, folder: Path) -> None:
    write_constant_head(folder / "clara" / NAME, REFUSES)
    worker = Worker(lambda: load(folder))
    try:
        cost, pieces = ModelCost(), list[str]()
        latents = worker.submit(ModelJob("compress", DOCUMENTS)).result(60)
        job = ModelJob(kind, latents, "fox", max_new_tokens=6)
        reply = worker.submit(job, cost=cost, on_text=pieces.append).result(60)
        assert (reply.text, reply.not_in_memory, pieces) == ("", True, [])
        assert cost.tokens == reply.prompt_tokens > 0
        # A prompt that another server would decode is finished, too.
        prompt = worker.submit(replace(job, prompt_only=True)).result(60)
        generation = Generation(prompt, 6)
        assert (generation.is_decoded, generation.finish, generation.build_reply()) == (False, "stop", reply)
    finally:
        worker.close()


def test_mode_answer_extracts_what_is_not_in_memory(folder: Path) -> None:
    write_constant_head(folder / "clara" / NAME, REFUSES)
    counter = get_token_counter("gpt-4o")
    job = CompressionJob(PROSE, "When was the mill mended?", 150, None, counter)
    extracted = run_job(job)
    worker = Worker(lambda: load(folder))
    try:
        outcome = run_job(job, lambda _: AnswerCompressor(worker, registry.find_compressor_cached))
    finally:
        worker.close()
    assert (outcome.text, outcome.compressor) == (extracted.text, extracted.compressor)
    assert outcome.text is not None
    assert outcome.fallback == "not-in-memory"
    assert outcome.usage.tokens > counter.count(PROSE)


def test_head_file_is_found_beside_the_checkpoint_only(folder: Path) -> None:
    path = write_constant_head(folder / "clara" / NAME, REFUSES)
    assert path.name == HEAD_FILE
    path.rename(folder / "clara" / HEAD_FILE)
    assert load(folder).memory_check is None
