"""Prompts and token ids equal those of the reference, in a fresh clone, too."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json

from clara_proxy.compression.clara import prompts
from clara_proxy.compression.clara.prompt_layout import plan_prompt
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec
from clara_proxy.tests.compression.clara.conftest import REFERENCE_COMPAT
from clara_proxy.tests.compression.clara.reference_copy import COPY, build_copy, read_copy

REFERENCE = read_copy()
CASES: list[dict[str, Any]] = REFERENCE["cases"]
MAX_BYTES = 200_000


def test_copy_is_small_and_equals_the_golden_folder(golden: Path) -> None:
    assert COPY.stat().st_size < MAX_BYTES
    assert build_copy() == REFERENCE


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tokenizer.json"
    path.write_text(json.dumps(REFERENCE["tokenizer"]), encoding="utf-8")
    return path


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_rows_and_prompts_have_the_ids_of_the_reference(case: dict[str, Any], tokenizer_file: Path) -> None:
    tokenizer = ClaraTokenizer.from_file(tokenizer_file, MemoryTokenSpec(case["memory_tokens"]))
    limit = case["max_document_tokens"] + 3

    def encode(texts: list[str]) -> list[list[int]]:
        return [tokenizer.build_encoder_row(tokenizer.encode(text, parse_special=True), limit) for text in texts]

    if "encoder_ids" in case:
        assert encode([text for group in case["groups"] for text in group]) == case["encoder_ids"]
    if "query_ids" in case:
        assert encode(case["questions"]) == case["query_ids"]
    if "decoder_ids" not in case:
        return
    templates: list[int] = case["template_indices"] or []
    texts = [prompts.paraphrase_prompt(number) for number in templates] or [
        prompts.answer_prompt(question) for question in case["questions"]
    ]
    counts = [case["k"] or len(group) for group in case["groups"]]
    slots = "".join(tokenizer.memory_spec.token_names()) + "<SEP>"
    rendered = [text.render(slots * count) for text, count in zip(texts, counts, strict=True)]
    plans = [
        plan_prompt(text, range(count), range, tokenizer, REFERENCE_COMPAT)
        for text, count in zip(texts, counts, strict=True)
    ]
    assert rendered == case["prompts"]
    assert [list(plan.ids) for plan in plans] == case["decoder_ids"]
