"""Evaluation on held-back lines: the engine's own answers, correct scores, and unchanged weights."""

import pytest

pytest.importorskip("accelerate", reason="training needs the extra [train]")

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.loading import load_model
from clara_proxy.compression.clara.model_source import ModelSource, Placement
from clara_proxy.compression.clara.train import evaluation, initial_network, run_stage, stages
from clara_proxy.compression.clara.train.collate import Stage, StageBatch, TokenLimits, collate_examples
from clara_proxy.compression.clara.train.trainer import TrainingPlan
from clara_proxy.compression.clara.train.training_data import Example, read_examples

DOCUMENTS = ["the fox", "a river", "stone bridge"]
QUESTIONS = ["fox", "the river", "lamp"]


class TinyObjective:
    """The objective of a tiny checkpoint, with its collation."""

    def __init__(self, tiny: Path, stage: Stage) -> None:
        loaded = load_model(
            ModelSource(tiny / "clara" / "compression-4", base=tiny / "base"), Placement("cpu", "float32", "no")
        )
        self.stage: Stage = stage
        self.tokenizer = loaded.tokenizer
        self.limits = TokenLimits(loaded.config.max_document_tokens, 256)
        self.objective = stages.StageObjective(initial_network.network_for_stage(loaded, stage), stage, 2)

    def collate(self, examples: Sequence[Example]) -> StageBatch:
        return collate_examples(self.tokenizer, examples, self.stage, self.limits, 2, [0] * len(examples))

    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        return evaluation.evaluate(self.objective, self.tokenizer, examples, self.collate, 1)


def make_examples(answers: Sequence[str], positives: tuple[int, ...] = ()) -> list[Example]:
    return [
        Example(tuple(DOCUMENTS), (question,), (answer,), positives=positives)
        for question, answer in zip(QUESTIONS, answers, strict=True)
    ]


def engine_answers(tiny: Path, k: int) -> list[str]:
    clara = Clara.from_pretrained(tiny / "clara" / "compression-4", base=tiny / "base", device="cpu")
    latents = [clara.compress(DOCUMENTS)] * len(QUESTIONS)
    return [reply.text.strip() for reply in clara.answers(QUESTIONS, latents, k, evaluation.MAX_ANSWER_TOKENS)]


def test_answers_equal_those_of_the_engine(tiny: Path) -> None:
    answers = engine_answers(tiny, 2)
    assert any(answers)
    model = TinyObjective(tiny, "stage2")
    assert [
        evaluation.generate_answer(model.objective, model.tokenizer, model.collate([example]))
        for example in make_examples(["unknown"] * 3)
    ] == answers


def test_correct_answers_score_and_weights_stay(tiny: Path) -> None:
    right = engine_answers(tiny, 2)
    model = TinyObjective(tiny, "stage2")
    before = {name: weight.clone() for name, weight in model.objective.named_parameters()}
    metrics = model.evaluate(make_examples(right))
    assert metrics["exact"] == metrics["f1"] == 1
    metrics = model.evaluate(make_examples([right[0], "wrong answer", "wrong answer"]))
    assert metrics["exact"] == metrics["f1"] == pytest.approx(1 / 3)
    assert metrics["held_back"] > 0
    assert model.objective.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.objective.named_parameters())


def test_recall_is_the_share_of_relevant_documents_retrieved(tiny: Path) -> None:
    model = TinyObjective(tiny, "stage2_pretrain_retrieval")
    shares = [model.evaluate(make_examples([""] * 3, (index,)))["recall"] for index in range(3)]
    assert sum(shares) == pytest.approx(2)  # two of three documents are retrieved for each question
    assert model.evaluate(make_examples([""] * 3, (0, 1, 2)))["recall"] == pytest.approx(2 / 3)
    assert "exact" not in model.evaluate(make_examples([""] * 3, (0,)))


def test_a_stage_logs_its_evaluation(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    records = [
        {"docs": DOCUMENTS, "question": question, "answer": "the fox", "pos_index": [0]} for question in QUESTIONS
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(read_examples(path)) == 3
    job = run_stage.StageJob("stage2", tiny / "clara" / "compression-4", tiny / "base", path, path, top_k=2)
    plan = TrainingPlan(5, learning_rate=1e-3, save_every=4)
    metric_names: list[set[str]] = []
    run_stage.train_stage(job, plan, tmp_path / "run", lambda progress: metric_names.append(set(progress.metrics)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 5]
    assert all({"held_back", "exact", "f1", "recall"} <= set(line) for line in lines)
    assert [("f1" in names) for names in metric_names] == [False, False, False, True, True]
