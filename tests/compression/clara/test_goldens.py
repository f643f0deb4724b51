"""Equality with the reference: strings, ids and top-k exactly, numbers within the format's tolerances."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import numpy as np
import torch

from clara_proxy.compression.clara import prompts
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.clara import Clara, PreparedPrompt
from clara_proxy.compression.models.errors import ModelError
from clara_proxy.tests.compression.clara.conftest import GOLDEN, REFERENCE_COMPAT, Load, find_special_tokens
from clara_proxy.tests.compression.clara.golden_cases import FILES, Case, read_cases, unpadded

# For float32. The format's tolerance for latents is 1e-4; here, torch and MLX differ by up to 2.9e-5 on Linux.
LATENTS, LOGITS, SCORES = 4e-5, 1e-3, 1e-5
DEVICES = ("cpu", "mlx")


def assert_close(mine: Any, theirs: Any, tolerance: float) -> None:
    assert tuple(mine.shape) == tuple(theirs.shape)
    values = mine.float().numpy() if isinstance(mine, torch.Tensor) else np.array(mine)
    assert np.abs(values - theirs).max() <= tolerance


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_equals_the_reference(path: Path, golden: Path, load: Load, device: str) -> None:
    for case in read_cases(path)[: None if device == "cpu" else 2]:  # all run for all backends in `test_backends`
        clara = load(case.record["checkpoint"], case.compat, device=device)
        if "reference_raises" in case.record:
            check_reference_error(clara, case)
        else:
            check(clara, case)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_default_options_equal_the_reference_if_it_loses_nothing(path: Path, golden: Path, load: Load) -> None:
    for case in read_cases(path):
        compat = dataclasses.replace(case.compat, long_text="split", special_text="plain")
        clara = load(case.record["checkpoint"], compat)
        if "reference_raises" not in case.record and loses_nothing(clara, case):
            check(clara, case)


def loses_nothing(clara: Clara, case: Case) -> bool:
    texts = [*case.texts, *(case.questions if case.record["op"] == "generate_from_questions" else [])]
    fits = all(len(clara.tokenizer.encode(text)) <= clara.config.max_document_tokens for text in texts)
    plain = not any(find_special_tokens(text) for text in [*case.texts, *case.questions])
    prompts_fit = "dec_input_ids" not in case.arrays or case.arrays["dec_input_ids"].shape[1] < 1024
    return fits and plain and prompts_fit


def check_reference_error(clara: Clara, case: Case) -> None:
    """Where the reference raises, expect our own error, or an answer if k is larger than the number of memories."""
    if case.record["op"] == "generate_from_questions":
        with pytest.raises(ModelError, match="memories to choose from"):
            clara.answers(case.questions, case.groups, clara.config.top_k)
        replies = clara.answers(case.questions, case.groups, max_new_tokens=4)
        assert [len(reply.used) for reply in replies] == [len(group) for group in case.groups]
    else:
        with pytest.raises(ModelError, match="memor"):
            clara.generate(case.questions, case.groups) if case.questions else clara.compress(case.texts)


def check(clara: Clara, case: Case) -> None:
    check_encoding(clara, case)
    if case.record["op"] == "compress_documents":
        return
    prepared = prepare(clara, case)
    check_prompts(clara, case, prepared)
    check_logits(clara, case, prepared)
    if case.record["op"] == "generate_from_questions":
        replies = clara.answers(case.questions, case.groups, max_new_tokens=case.record["max_new_tokens"])
        if not case.record.get("ties"):
            assert [list(reply.used) for reply in replies] == case.record["returned_topk_idx"]
        check_tokens(case, [list(reply.tokens) for reply in replies])
        texts = [reply.text for reply in replies]
    elif case.record["op"] == "generate_from_paraphrase":
        texts = clara.paraphrase(case.groups, case.record["template_indices"], case.record["max_new_tokens"])
    elif case.record["op"] == "generate_from_compressed_documents_and_questions":
        texts = clara.generate(case.questions, clara.compress(case.texts), case.record["max_new_tokens"])
    else:
        replies = clara.replies(case.questions, case.groups, case.record["max_new_tokens"])
        check_tokens(case, [list(reply.tokens) for reply in replies])
        texts = [reply.text for reply in replies]
    assert texts == case.record["outputs"]


def check_encoding(clara: Clara, case: Case) -> None:
    parse, limit = clara.compat.special_text == "parse", clara.config.max_document_tokens + 3
    rows = [
        clara.tokenizer.build_encoder_row(clara.tokenizer.encode(text, parse_special=parse), limit)
        for text in case.texts
    ]
    if "enc_input_ids" in case.arrays:
        assert rows == unpadded(case.arrays["enc_input_ids"], case.arrays["enc_attention_mask"])
    if "latents" in case.arrays:
        assert_close(clara.compress(case.texts).vectors, case.arrays["latents"], LATENTS)
    if "query_input_ids" in case.arrays:
        rows = [
            clara.tokenizer.build_encoder_row(clara.tokenizer.encode(text, parse_special=parse), limit)
            for text in case.questions
        ]
        assert rows == unpadded(case.arrays["query_input_ids"], case.arrays["query_attention_mask"])
        vectors = clara.model.encode(rows, clara.config.memory_tokens, QUERY_ADAPTER).reshape(len(rows), -1)
        assert_close(vectors, case.arrays["query_reps"], LATENTS)
        check_scores(clara, case)


def check_scores(clara: Clara, case: Case) -> None:
    for question, group, scores in zip(case.questions, case.groups, case.arrays["scores"], strict=True):
        result = clara.retrieve(question, clara.compress(group), len(group))
        assert list(result.scores) == sorted(result.scores, reverse=True)
        assert np.abs(np.array(result.scores) - scores[list(result.indices)]).max() <= SCORES


def prepare(clara: Clara, case: Case) -> list[PreparedPrompt]:
    latents = clara.collect_latents(case.groups, len(case.groups))
    if case.record["op"] == "generate_from_paraphrase":
        return [clara.prepare_paraphrase(*item) for item in zip(case.record["template_indices"], latents, strict=True)]
    if case.record["op"] != "generate_from_questions":
        return [clara.prepare_answer(*item) for item in zip(case.questions, latents, strict=True)]
    results = [clara.retrieve(*item) for item in zip(case.questions, latents, strict=True)]
    return [clara.prepare_answer(*item) for item in zip(case.questions, latents, results, strict=True)]


def check_prompts(clara: Clara, case: Case, prepared: list[PreparedPrompt]) -> None:
    counts = [len(request.plan.used) for request in prepared]
    slots = "".join(clara.tokenizer.memory_spec.token_names()) + "<SEP>"
    if case.record["op"] == "generate_from_paraphrase":
        expected = [prompts.paraphrase_prompt(template) for template in case.record["template_indices"]]
    else:
        expected = [prompts.answer_prompt(question) for question in case.questions]
    assert [prompt.render(slots * count) for prompt, count in zip(expected, counts, strict=True)] == case.record[
        "prompts"
    ]
    ids = unpadded(case.arrays["dec_input_ids"], case.arrays["dec_attention_mask"])
    assert [list(request.plan.ids) for request in prepared] == ids
    if "inputs_embeds" in case.arrays and not case.record.get("ties"):
        for request, theirs in zip(prepared, case.arrays["inputs_embeds"], strict=True):
            assert_close(request.input_embeddings, theirs[-len(request.input_embeddings) :], LATENTS)


def check_logits(clara: Clara, case: Case, prepared: list[PreparedPrompt]) -> None:
    logits, _ = clara.model.prefill([request.input_embeddings for request in prepared], DECODER_ADAPTER)
    assert_close(logits, case.arrays["first_logits"], LOGITS)


def check_tokens(case: Case, mine: list[list[int]]) -> None:
    """Compare ids with the reference's."""
    assert mine == case.tokens


BF16 = sorted((GOLDEN / "golden_bf16").glob("*.json")) or [GOLDEN / "golden_bf16" / "absent.json"]


@pytest.mark.parametrize("path", BF16, ids=lambda path: path.stem)
def test_bfloat16_is_as_close_to_float32_as_the_reference(path: Path, golden: Path, load: Load) -> None:
    """Rounding in bfloat16 depends on the order of operations, so exact results judge both."""
    (case,) = read_cases(path)
    (full,) = read_cases(GOLDEN / "golden" / path.name)
    clara = load(case.record["checkpoint"], REFERENCE_COMPAT, "bfloat16")
    exact = full.arrays["latents"]
    mine, theirs = (
        np.linalg.norm(latents - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
        for latents in (clara.compress(full.texts).vectors.float().numpy(), case.arrays["latents"])
    )
    assert mine.mean() < theirs.mean()
    assert mine.max() < 1.5 * theirs.max()
    if "scores" in case.arrays:
        for question, group, scores in zip(full.questions, full.groups, full.arrays["scores"], strict=True):
            result = clara.retrieve(question, clara.compress(group), len(group))
            assert np.abs(np.array(result.scores) - scores[list(result.indices)]).max() < 6e-3
