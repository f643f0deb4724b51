"""Abstention by score: a checkpoint with a mark says its words below it and never above it; others are as they were."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, Abstention, read_checkpoint_config
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.decoding import DecodingBatch
from clara_proxy.compression.clara.exceptions import CheckpointError
from clara_proxy.compression.clara.jobs import ModelCost, ModelJob
from clara_proxy.compression.clara.loading import ModelSource, Placement, load_model
from clara_proxy.compression.clara.worker import Worker

DOCUMENTS = ["the fox", "a river", "the stone bridge"]
QUESTIONS = ["fox", "river", "bridge"]
SAYS = "not known"
Marked = Callable[[float], Clara]


@pytest.fixture
def marked(tiny: Path) -> Marked:
    """The tiny checkpoint with a mark."""
    loaded = load_model(ModelSource(tiny / "clara", base=tiny / "base"), Placement("cpu", "float32", "no"))

    def made(below: float) -> Clara:
        clara = Clara(loaded)
        clara.config = clara.config._replace(abstention=Abstention(below, SAYS))
        return clara

    return made


def said(clara: Clara) -> list[str]:
    return clara.generate(QUESTIONS, [DOCUMENTS] * 3, 16)


def test_below_the_mark_its_words_are_the_answer_and_above_it_the_decoder_speaks(clara: Clara, marked: Marked) -> None:
    plain, latents = said(clara), clara.compress(DOCUMENTS)
    assert said(marked(1.1)) == [SAYS] * 3
    assert said(marked(-1.1)) == plain
    scores = [clara.retrieve(question, latents, 1).scores[0] for question in QUESTIONS]
    middle = sorted(scores)[1]
    expected = [SAYS if score < middle else text for score, text in zip(scores, plain, strict=True)]
    assert SAYS in expected
    assert expected != [SAYS] * 3
    assert said(marked(middle)) == expected
    answered = marked(middle).answers(QUESTIONS, [latents] * 3, 2, 16)
    assert [reply.text == SAYS for reply in answered] == [text == SAYS for text in expected]


def test_a_refusal_is_cut_where_the_answer_would_be(marked: Marked) -> None:
    clara = marked(1.1)
    whole = len(clara.tokenizer.encode(f" {SAYS}"))
    (short,) = clara.replies(QUESTIONS[:1], [DOCUMENTS], whole - 1)
    (exact,) = clara.replies(QUESTIONS[:1], [DOCUMENTS], whole)
    assert (len(short.tokens), short.finish) == (whole - 1, "length")
    assert (len(exact.tokens), exact.finish) == (whole, "stop")


def test_pieces_of_a_refusal_add_up_to_it(marked: Marked) -> None:
    assert "".join(marked(1.1).stream("fox", DOCUMENTS, 20)) == SAYS


def test_without_memories_and_in_a_paraphrase_the_decoder_speaks(clara: Clara, marked: Marked) -> None:
    assert marked(1.1).generate(["fox"], [[]], 6) == clara.generate(["fox"], [[]], 6)
    assert marked(1.1).paraphrase([DOCUMENTS], 0, 6) == clara.paraphrase([DOCUMENTS], 0, 6)


@pytest.mark.parametrize("kind", ["generate", "answer", "ask"])
def test_the_worker_refuses_too_and_charges_nothing_for_words_that_were_not_decoded(kind: Any, marked: Marked) -> None:
    worker = Worker(lambda: marked(1.1))
    try:
        latents = worker.submit(ModelJob("compress", DOCUMENTS)).result(60)
        cost, pieces = ModelCost(), list[str]()
        job = ModelJob(kind, latents, question="fox", max_new_tokens=20)
        reply = worker.submit(job, cost=cost, on_text=pieces.append).result(60)
        assert (reply.text, reply.finish, "".join(pieces)) == (SAYS, "stop", SAYS)
        assert cost.tokens == 0
    finally:
        worker.close()


def first_two(clara: Clara) -> tuple[torch.Tensor, list[int]]:
    prompt = clara.prepare_answer("fox", clara.compress(DOCUMENTS)).input_embeddings
    decoding = clara.create_batch()
    (row,) = decoding.add_rows([prompt], [2])
    decoding.step()
    return prompt, row.tokens


def test_barred_words_are_not_begun_and_words_that_begin_alike_are(clara: Clara) -> None:
    prompt, tokens = first_two(clara)
    assert len(tokens) == 2

    def begun(*barred: int) -> int:
        (row,) = DecodingBatch(clara.model, DECODER_ADAPTER).add_rows([prompt], [1], [barred])
        return row.tokens[0]

    logits, _ = clara.model.prefill([prompt], DECODER_ADAPTER)
    runner_up = int(logits[0].topk(2).indices[1])
    assert begun(*tokens) == begun(tokens[0]) == runner_up
    assert begun(tokens[0], tokens[1] + 1) == begun() == tokens[0]


def test_of_rows_that_begin_together_each_has_its_own_barred_words(clara: Clara) -> None:
    prompt, tokens = first_two(clara)
    rows = DecodingBatch(clara.model, DECODER_ADAPTER).add_rows(
        [prompt, prompt, prompt], [1] * 3, [(), tokens, tokens[:1]]
    )
    assert rows[0].tokens == tokens[:1]
    assert rows[1].tokens == rows[2].tokens != tokens[:1]


def test_the_mark_is_read_from_the_configuration_and_must_make_sense(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "compression-4"
    shutil.copytree(tiny / "clara" / "compression-4", folder)
    assert read_checkpoint_config(folder).abstention is None
    raw = json.loads((folder / "config.json").read_text())
    for broken in (0.4, {"below": 0.4}, {"below": "high", "says": SAYS}):
        (folder / "config.json").write_text(json.dumps(raw | {"abstention": broken}))
        with pytest.raises(CheckpointError, match="config"):
            read_checkpoint_config(folder)
    (folder / "config.json").write_text(json.dumps(raw | {"abstention": {"below": 1.1, "says": SAYS}}))
    assert said(Clara.from_pretrained(folder, base=tiny / "base", device="cpu")) == [SAYS] * 3
