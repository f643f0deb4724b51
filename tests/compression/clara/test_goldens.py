"""Equality with the reference, case by case: strings, ids and top-k exactly, numbers to the format's tolerances."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import numpy as np

from clara_proxy.compression.clara import prompts
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.clara import Clara, PreparedPrompt
from clara_proxy.compression.clara.exceptions import ClaraError
from clara_proxy.compression.clara.prompt_layout import REFERENCE_COMPAT, Compat
from clara_proxy.tests.compression.clara.conftest import GOLDEN, Load

FILES = sorted((GOLDEN / "golden").glob("*.json")) or [GOLDEN / "golden" / "absent.json"]
LATENTS, LOGITS, SCORES = 1e-4, 1e-3, 1e-5

Arrays = dict[str, Any]


class Case(NamedTuple):
    told: dict[str, Any]
    arrays: Arrays

    @property
    def questions(self) -> list[str]:
        return self.told.get("questions") or []

    @property
    def groups(self) -> list[list[str]]:
        """The documents of each question."""
        documents: list[Any] = self.told["documents"]
        if documents and not isinstance(documents[0], str):
            return documents
        count = len(self.questions) or 1
        each = len(documents) // count
        return [documents[start * each : (start + 1) * each] for start in range(count)]

    @property
    def texts(self) -> list[str]:
        return [text for group in self.groups for text in group]

    @property
    def compat(self) -> Compat:
        """What the reference does with this checkpoint when it is loaded with these arguments."""
        bare = "Instruct" in self.told["checkpoint"] and not self.told["load_kwargs"].get("pure_inference")
        return dataclasses.replace(REFERENCE_COMPAT, skip_decoder_adapter=bare)


def cases(path: Path) -> list[Case]:
    told: Any = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if "case" in told:
        return [Case(told, arrays)]
    return [
        Case(each, {name[4:]: array for name, array in arrays.items() if name.startswith(f"t{place:02d}_")})
        for place, each in enumerate(told)
    ]


def unpadded(ids: Any, mask: Any) -> list[list[int]]:
    return [[int(token) for token, seen in zip(*row, strict=True) if seen] for row in zip(ids, mask, strict=True)]


def close(mine: Any, theirs: Any, tolerance: float) -> None:
    assert tuple(mine.shape) == tuple(theirs.shape)
    assert np.abs(mine.float().numpy() - theirs).max() <= tolerance


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_as_the_reference(path: Path, golden: Path, load: Load) -> None:
    for case in cases(path):
        clara = load(case.told["checkpoint"], case.compat)
        if "reference_raises" in case.told:
            check_raising(clara, case)
        else:
            check(clara, case)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_by_default(path: Path, golden: Path, load: Load) -> None:
    """Without a switch: the same, for every case in which the reference loses nothing."""
    for case in cases(path):
        compat = dataclasses.replace(case.compat, long_text="split", special_text="plain")
        clara = load(case.told["checkpoint"], compat)
        if "reference_raises" not in case.told and ordinary(clara, case):
            check(clara, case)


def ordinary(clara: Clara, case: Case) -> bool:
    texts = [*case.texts, *(case.questions if case.told["op"] == "generate_from_questions" else [])]
    fits = all(len(clara.tokenizer.encode(text)) <= clara.config.max_document_tokens for text in texts)
    plain = not any(clara.tokenizer.find_special_tokens(text) for text in [*case.texts, *case.questions])
    prompts_fit = "dec_input_ids" not in case.arrays or case.arrays["dec_input_ids"].shape[1] < 1024
    return fits and plain and prompts_fit


def check_raising(clara: Clara, case: Case) -> None:
    """Where the reference breaks: words of our own, or an answer on purpose when k is above the candidates."""
    if case.told["op"] == "generate_from_questions":
        with pytest.raises(ClaraError, match="memories to choose from"):
            clara.answers(case.questions, case.groups, clara.config.top_k)
        replies = clara.answers(case.questions, case.groups, max_new_tokens=4)
        assert [len(reply.used) for reply in replies] == [len(group) for group in case.groups]
    else:
        with pytest.raises(ClaraError, match="memor"):
            clara.generate(case.questions, case.groups) if case.questions else clara.compress(case.texts)


def check(clara: Clara, case: Case) -> None:
    check_encoding(clara, case)
    if case.told["op"] == "compress_documents":
        return
    prepared = prepare(clara, case)
    check_prompts(clara, case, prepared)
    check_logits(clara, case, prepared)
    if case.told["op"] == "generate_from_questions":
        replies = clara.answers(case.questions, case.groups, max_new_tokens=case.told["max_new_tokens"])
        if not case.told.get("ties"):
            assert [list(reply.used) for reply in replies] == case.told["returned_topk_idx"]
        check_tokens(case, [list(reply.tokens) for reply in replies])
        texts = [reply.text for reply in replies]
    elif case.told["op"] == "generate_from_paraphrase":
        texts = clara.paraphrase(case.groups, case.told["template_indices"], case.told["max_new_tokens"])
    elif case.told["op"] == "generate_from_compressed_documents_and_questions":
        texts = clara.generate(case.questions, clara.compress(case.texts), case.told["max_new_tokens"])
    else:
        replies = clara.replies(case.questions, case.groups, case.told["max_new_tokens"])
        check_tokens(case, [list(reply.tokens) for reply in replies])
        texts = [reply.text for reply in replies]
    assert texts == case.told["outputs"]


def check_encoding(clara: Clara, case: Case) -> None:
    parse, limit = clara.compat.special_text == "parse", clara.config.max_document_tokens + 3
    rows = [
        clara.tokenizer.build_encoder_row(clara.tokenizer.encode(text, parse_special=parse), limit)
        for text in case.texts
    ]
    if "enc_input_ids" in case.arrays:
        assert rows == unpadded(case.arrays["enc_input_ids"], case.arrays["enc_attention_mask"])
    if "latents" in case.arrays:
        close(clara.compress(case.texts).vectors, case.arrays["latents"], LATENTS)
    if "mse_loss" in case.arrays:
        drift = clara.model.encode(rows, clara.config.memory_tokens, ENCODER_ADAPTER).drift
        assert float(drift.mean()) == pytest.approx(float(case.arrays["mse_loss"]), abs=1e-4)
    if "query_input_ids" in case.arrays:
        asked = [
            clara.tokenizer.build_encoder_row(clara.tokenizer.encode(text, parse_special=parse), limit)
            for text in case.questions
        ]
        assert asked == unpadded(case.arrays["query_input_ids"], case.arrays["query_attention_mask"])
        vectors = clara.model.encode(asked, clara.config.memory_tokens, QUERY_ADAPTER).memories.flatten(1)
        close(vectors, case.arrays["query_reps"], LATENTS)
        check_scores(clara, case)


def check_scores(clara: Clara, case: Case) -> None:
    for question, group, scores in zip(case.questions, case.groups, case.arrays["scores"], strict=True):
        found = clara.retrieve(question, clara.compress(group), len(group))
        assert list(found.scores) == sorted(found.scores, reverse=True)
        assert np.abs(np.array(found.scores) - scores[list(found.indices)]).max() <= SCORES


def prepare(clara: Clara, case: Case) -> list[PreparedPrompt]:
    latents = clara.collect_latents(case.groups, len(case.groups))
    if case.told["op"] == "generate_from_paraphrase":
        return [clara.prepare_paraphrase(*each) for each in zip(case.told["template_indices"], latents, strict=True)]
    if case.told["op"] != "generate_from_questions":
        return [clara.prepare_answer(*each) for each in zip(case.questions, latents, strict=True)]
    found = [clara.retrieve(*each) for each in zip(case.questions, latents, strict=True)]
    return [clara.prepare_answer(*each) for each in zip(case.questions, latents, found, strict=True)]


def check_prompts(clara: Clara, case: Case, prepared: list[PreparedPrompt]) -> None:
    counts = [len(each.plan.used) for each in prepared]
    slots = "".join(clara.tokenizer.memory_spec.token_names()) + "<SEP>"
    if case.told["op"] == "generate_from_paraphrase":
        made = [prompts.paraphrase_prompt(template) for template in case.told["template_indices"]]
    else:
        made = [prompts.answer_prompt(question) for question in case.questions]
    assert [each.render(slots * count) for each, count in zip(made, counts, strict=True)] == case.told["prompts"]
    ids = unpadded(case.arrays["dec_input_ids"], case.arrays["dec_attention_mask"])
    assert [list(each.plan.ids) for each in prepared] == ids
    if "inputs_embeds" in case.arrays and not case.told.get("ties"):
        for each, theirs in zip(prepared, case.arrays["inputs_embeds"], strict=True):
            close(each.input_embeddings, theirs[-len(each.input_embeddings) :], LATENTS)


def check_logits(clara: Clara, case: Case, prepared: list[PreparedPrompt]) -> None:
    logits, _ = clara.model.prefill([each.input_embeddings for each in prepared], DECODER_ADAPTER)
    close(logits, case.arrays["first_logits"], LOGITS)


def check_tokens(case: Case, mine: list[list[int]]) -> None:
    """The reference ends a row with 2 and fills up with 1."""
    for tokens, theirs in zip(mine, case.arrays["new_token_ids"].tolist(), strict=True):
        assert tokens == (theirs[: theirs.index(2)] if 2 in theirs else theirs)


BF16 = sorted((GOLDEN / "golden_bf16").glob("*.json")) or [GOLDEN / "golden_bf16" / "absent.json"]


@pytest.mark.parametrize("path", BF16, ids=lambda path: path.stem)
def test_bf16_stays_near(path: Path, golden: Path, load: Load) -> None:
    """bfloat16 rounds differently without padding; the format's own measurements say by how much."""
    (case,) = cases(path)
    (full,) = cases(GOLDEN / "golden" / path.name)
    clara = load(case.told["checkpoint"], REFERENCE_COMPAT, "bfloat16")
    theirs = case.arrays["latents"]
    error = clara.compress(full.texts).vectors.float().numpy() - theirs
    relative = np.linalg.norm(error, axis=-1) / np.linalg.norm(theirs, axis=-1)
    assert relative.mean() < 0.035
    assert relative.max() < 0.1
    if "scores" in case.arrays:
        for question, group, scores in zip(full.questions, full.groups, case.arrays["scores"], strict=True):
            found = clara.retrieve(question, clara.compress(group), len(group))
            assert np.abs(np.array(found.scores) - scores[list(found.indices)]).max() < 6e-3
