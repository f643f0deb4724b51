"""The prompts, against the reference's own strings and the real vocabulary's facts."""

import json
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.compression.clara import prompts

QUESTION = "Who built it, and when?"


@pytest.mark.parametrize("count", [1, 2])
def test_the_references_strings(golden: Path, count: int) -> None:
    told: dict[str, Any] = json.loads((golden / "prompts.json").read_text())["new_template"][f"k{count}"]
    slots = "<MEM0><MEM1><SEP>" * count
    assert prompts.answer_prompt(QUESTION).render(slots) == told["standard_inference"]
    assert prompts.paraphrase_prompt(5).render(slots) == told["paraphrase_inference"]
    assert told["qa_training"][1].startswith(prompts.questions_prompt().render(slots) + " Question: Who?")


def test_the_paraphrases(golden: Path) -> None:
    assert (
        list(prompts.PARAPHRASE_TEMPLATES)
        == json.loads((golden / "prompts.json").read_text())["paraphrase_instructions"]
    )


def test_the_real_vocabularys_prompts(golden: Path) -> None:
    facts = json.loads((golden / "real_mistral_token_facts.json").read_text())
    slots = "".join(f"<MEM{place}>" for place in range(16)) + "<SEP>"
    standard = [fact for fact in facts["prompts"] if fact["kind"] == "standard" and "<MEM15>" in fact["prompt"]]
    assert standard
    for fact in standard:
        assert prompts.answer_prompt(fact["question"]).render(slots * fact["k"]) == fact["prompt"]


def test_a_colon_and_a_backslash_as_trained() -> None:
    assert prompts.answer_prompt("\\ one:\\ two:\\three").tail == "\n\nQuestion: one: two:\\three [/INST]"


def test_a_template_has_one_place_for_the_memories() -> None:
    assert prompts.paraphrase_prompt("Say {docs} again").head.endswith("\n\nSay ")
    for wrong in ("nothing", "{docs} {docs}"):
        with pytest.raises(ValueError, match="exactly once"):
            prompts.paraphrase_prompt(wrong)
