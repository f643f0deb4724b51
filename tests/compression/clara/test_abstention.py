"""A checkpoint with a minimum score gives its abstention below it, and never above; others never abstain."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER
from clara_proxy.compression.clara.checkpoint_config import Abstention, read_checkpoint_config
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.decoding import DecodingBatch
from clara_proxy.compression.clara.jobs import ModelJob
from clara_proxy.compression.clara.loading import load_model
from clara_proxy.compression.clara.model_source import ModelSource, Placement
from clara_proxy.compression.clara.worker import Worker
from clara_proxy.compression.models.cost import ModelCost
from clara_proxy.compression.models.errors import CheckpointError

DOCUMENTS = ["the fox", "a river", "the stone bridge"]
QUESTIONS = ["fox", "river", "bridge"]
ABSTENTION = "not known"
LoadWithMinimum = Callable[[float], Clara]


@pytest.fixture
def with_minimum(tiny: Path) -> LoadWithMinimum:
    """Return a loader of the tiny checkpoint with a minimum score."""
    loaded = load_model(ModelSource(tiny / "clara", base=tiny / "base"), Placement("cpu", "float32", "no"))

    def load(min_score: float) -> Clara:
        clara = Clara(loaded)
        clara.config = clara.config._replace(abstention=Abstention(min_score, ABSTENTION))
        return clara

    return load


def answers(clara: Clara) -> list[str]:
    return clara.generate(QUESTIONS, [DOCUMENTS] * 3, 16)


def test_answer_is_the_abstention_below_the_minimum_score_only(clara: Clara, with_minimum: LoadWithMinimum) -> None:
    plain, latents = answers(clara), clara.compress(DOCUMENTS)
    assert answers(with_minimum(1.1)) == [ABSTENTION] * 3
    assert answers(with_minimum(-1.1)) == plain
    scores = [clara.retrieve(question, latents, 1).scores[0] for question in QUESTIONS]
    middle = sorted(scores)[1] - 1e-5  # scores differ by some 1e-7 with the batch
    expected = [ABSTENTION if score < middle else text for score, text in zip(scores, plain, strict=True)]
    assert ABSTENTION in expected
    assert expected != [ABSTENTION] * 3
    assert answers(with_minimum(middle)) == expected
    replies = with_minimum(middle).answers(QUESTIONS, [latents] * 3, 2, 16)
    assert [reply.text == ABSTENTION for reply in replies] == [text == ABSTENTION for text in expected]


def test_abstention_is_cut_at_max_new_tokens(with_minimum: LoadWithMinimum) -> None:
    clara = with_minimum(1.1)
    whole = len(clara.tokenizer.encode(f" {ABSTENTION}"))
    (short,) = clara.replies(QUESTIONS[:1], [DOCUMENTS], whole - 1)
    (exact,) = clara.replies(QUESTIONS[:1], [DOCUMENTS], whole)
    assert (len(short.tokens), short.finish) == (whole - 1, "length")
    assert (len(exact.tokens), exact.finish) == (whole, "stop")


def test_streamed_abstention_adds_up(with_minimum: LoadWithMinimum) -> None:
    assert "".join(with_minimum(1.1).stream("fox", DOCUMENTS, 20)) == ABSTENTION


def test_no_abstention_without_memories_or_in_a_paraphrase(clara: Clara, with_minimum: LoadWithMinimum) -> None:
    assert with_minimum(1.1).generate(["fox"], [[]], 6) == clara.generate(["fox"], [[]], 6)
    assert with_minimum(1.1).paraphrase([DOCUMENTS], 0, 6) == clara.paraphrase([DOCUMENTS], 0, 6)


@pytest.mark.parametrize("kind", ["generate", "answer", "ask"])
def test_worker_abstains_at_no_cost(kind: Any, with_minimum: LoadWithMinimum) -> None:
    worker = Worker(lambda: with_minimum(1.1))
    try:
        latents = worker.submit(ModelJob("compress", DOCUMENTS)).result(60)
        cost, pieces = ModelCost(), list[str]()
        job = ModelJob(kind, latents, question="fox", max_new_tokens=20)
        reply = worker.submit(job, cost=cost, on_text=pieces.append).result(60)
        assert (reply.text, reply.finish, "".join(pieces)) == (ABSTENTION, "stop", ABSTENTION)
        assert cost.tokens == 0
    finally:
        worker.close()


def first_two(clara: Clara) -> tuple[torch.Tensor, list[int]]:
    prompt = clara.prepare_answer("fox", clara.compress(DOCUMENTS)).input_embeddings
    decoding = clara.create_batch()
    (row,) = decoding.add_rows([prompt], [2])
    decoding.step()
    return prompt, row.tokens


def test_banned_answer_is_avoided_but_not_others_that_begin_alike(clara: Clara) -> None:
    prompt, tokens = first_two(clara)
    assert len(tokens) == 2

    def first_token(*banned: int) -> int:
        (row,) = DecodingBatch(clara.model, DECODER_ADAPTER).add_rows([prompt], [1], [banned])
        return row.tokens[0]

    logits, _ = clara.model.prefill([prompt], DECODER_ADAPTER)
    runner_up = int(logits[0].topk(2).indices[1])
    assert first_token(*tokens) == first_token(tokens[0]) == runner_up
    assert first_token(tokens[0], tokens[1] + 1) == first_token() == tokens[0]


def test_rows_of_a_batch_have_their_own_banned_answers(clara: Clara) -> None:
    prompt, tokens = first_two(clara)
    rows = DecodingBatch(clara.model, DECODER_ADAPTER).add_rows(
        [prompt, prompt, prompt], [1] * 3, [(), tokens, tokens[:1]]
    )
    assert rows[0].tokens == tokens[:1]
    assert rows[1].tokens == rows[2].tokens != tokens[:1]


def test_minimum_score_is_read_from_the_config_and_validated(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "compression-4"
    shutil.copytree(tiny / "clara" / "compression-4", folder)
    assert read_checkpoint_config(folder).abstention is None
    raw = json.loads((folder / "config.json").read_text())
    for broken in (0.4, {"below": 0.4}, {"below": "high", "says": ABSTENTION}):
        (folder / "config.json").write_text(json.dumps(raw | {"abstention": broken}))
        with pytest.raises(CheckpointError, match="config"):
            read_checkpoint_config(folder)
    (folder / "config.json").write_text(json.dumps(raw | {"abstention": {"below": 1.1, "says": ABSTENTION}}))
    assert answers(Clara.from_pretrained(folder, base=tiny / "base", device="cpu")) == [ABSTENTION] * 3
