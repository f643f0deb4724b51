"""The prompts that CLaRa and PISCO were trained on; other prompts do not belong here.

These strings are the interface of the released models and come from Apple's reference (github.com/apple/ml-clara,
`openrlhf/models/modeling_clara.py`, Copyright (C) 2025 Apple Inc.). The answer prompt is PISCO's, too, on which CLaRa
is built (huggingface.co/naver/pisco-mistral, `modelling_pisco.py`, Copyright (c) NAVER Corp.). They are the only text
of this project taken from elsewhere, and must not change: with one other character, a prompt is not the learned one. A
prompt is a head and a tail, with nothing but the memory slots between them.
"""

from typing import NamedTuple

_ANSWER_INSTRUCTION = (
    "You are a helpful assistant. Your task is to extract relevant information from provided documents "
    "and to answer to questions as briefly as possible."
)
_PARAPHRASE_INSTRUCTION = (
    "You are a helpful assistant. Your task is follow the instructions to paraphrase the background information."
)
_QUESTIONS_INSTRUCTION = (
    "You are a helpful assistant. Given a document, your task is to generate some single questions to cover "
    "all key information of the document and answer them sequentially."
)

PARAPHRASE_TEMPLATES = (
    "Background: {docs} means the same as",
    "Background: {docs} Can you put the above sentences in your own terms?",
    "Background: {docs} Please provide a reinterpretation of the preceding background text.",
    "These two expressions are equivalent in essence:\n(1) {docs}\n(2)",
    "Background: {docs} is a paraphrase of what?",
    "Background: {docs} Could you give me a different version of the background sentences above?",
    "In other words, background: {docs} is just another way of saying:",
    "You're getting across the same point whether you say background: {docs} or",
    "Background: {docs} After unpacking the ideas in the background information above, we got:",
    "Background: {docs} Please offer a restatement of the background sentences I've just read.",
    "Background: {docs}, which also means:",
    "Strip away the mystery, and you'll find background: {docs} is simply another rendition of:",
    "The essence of background: {docs} is captured again in the following statement:",
)


class Prompt(NamedTuple):
    """The text before and after the memory slots; the `<s>` before the head is not part of it."""

    head: str
    tail: str

    def render(self, slots: str) -> str:
        """Return the whole prompt as the reference prints it; `slots` are the names of the memory tokens."""
        return f"<s>{self.head}{slots}{self.tail}"


def answer_prompt(question: str) -> Prompt:
    """Return the prompt that answers a question from the memories."""
    return _build_prompt(_ANSWER_INSTRUCTION, "Background:\n{docs}", "\n\nQuestion:" + question)


def paraphrase_prompt(template: int | str = 0) -> Prompt:
    """Return the prompt for a paraphrase: one of the 13 learned, or a text with one `{docs}`."""
    text = PARAPHRASE_TEMPLATES[template] if isinstance(template, int) else template
    if text.count("{docs}") != 1:
        raise ValueError(f"a paraphrase template must contain {{docs}} exactly once, not {text.count('{docs}')} times")
    return _build_prompt(_PARAPHRASE_INSTRUCTION, text, "")


def questions_prompt() -> Prompt:
    """Return the prompt of the first training stage: write questions about the memories and answer them."""
    return _build_prompt(_QUESTIONS_INSTRUCTION, "Background:\n{docs}", "")


def _build_prompt(system: str, user: str, more: str) -> Prompt:
    before, after = user.split("{docs}")
    return Prompt(f" [INST] {system}\n\n{_unescape_colons(before)}", f"{_unescape_colons(after + more)} [/INST]")


def _unescape_colons(user: str) -> str:
    # The reference applies this to every user message, questions included.
    return user.replace(":\\ ", ": ")
