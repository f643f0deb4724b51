"""The prompts equal the reference's strings, and those recorded with the real vocabulary."""

from typing import Any

import pytest

from clara_proxy.compression.clara import prompts
from clara_proxy.tests.compression.clara.reference_copy import read_copy

REFERENCE = read_copy()
QUESTION = "Who built it, and when?"


@pytest.mark.parametrize("count", [1, 2])
def test_prompts_equal_the_reference(count: int) -> None:
    expected: dict[str, Any] = REFERENCE["prompts"]["new_template"][f"k{count}"]
    slots = "<MEM0><MEM1><SEP>" * count
    assert prompts.answer_prompt(QUESTION).render(slots) == expected["standard_inference"]
    assert prompts.paraphrase_prompt(5).render(slots) == expected["paraphrase_inference"]
    assert expected["qa_training"][1].startswith(prompts.questions_prompt().render(slots) + " Question: Who?")


def test_paraphrase_templates_equal_the_reference() -> None:
    assert list(prompts.PARAPHRASE_TEMPLATES) == REFERENCE["prompts"]["paraphrase_instructions"]


def test_prompts_equal_those_of_the_real_vocabulary() -> None:
    facts = REFERENCE["real_mistral_token_facts"]
    slots = "".join(f"<MEM{index}>" for index in range(16)) + "<SEP>"
    standard = [fact for fact in facts["prompts"] if fact["kind"] == "standard" and "<MEM15>" in fact["prompt"]]
    assert standard
    for fact in standard:
        assert prompts.answer_prompt(fact["question"]).render(slots * fact["k"]) == fact["prompt"]


def test_colons_are_unescaped_as_in_training() -> None:
    assert prompts.answer_prompt("\\ one:\\ two:\\three").tail == "\n\nQuestion: one: two:\\three [/INST]"


def test_template_must_contain_docs_once() -> None:
    assert prompts.paraphrase_prompt("Say {docs} again").head.endswith("\n\nSay ")
    for template in ("nothing", "{docs} {docs}"):
        with pytest.raises(ValueError, match="exactly once"):
            prompts.paraphrase_prompt(template)
