"""The words CLaRa was trained to read; not a place for prompts of our own.

These strings are the interface of the released models and come from Apple's reference (github.com/apple/ml-clara,
`openrlhf/models/modeling_clara.py`, Copyright (C) 2025 Apple Inc.). They are the only text of this project that was
taken from elsewhere, and must stay as they are: one changed character is another prompt than the one learned.
A prompt is a head and a tail; the memory slots stand between them, nothing else does.
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
    """What stands before and after the memory slots; `<s>` goes before the head and is not part of it."""

    head: str
    tail: str

    def render(self, slots: str) -> str:
        """Write the whole prompt down as the reference prints it, `slots` being the memory tokens' names."""
        return f"<s>{self.head}{slots}{self.tail}"


def answer_prompt(question: str) -> Prompt:
    """Return the prompt that answers a question from the memories."""
    return _build_prompt(_ANSWER_INSTRUCTION, "Background:\n{docs}", "\n\nQuestion:" + question)


def paraphrase_prompt(template: int | str = 0) -> Prompt:
    """Return the prompt that says the memories in other words: one of the 13 learned, or a text with one `{docs}`."""
    text = PARAPHRASE_TEMPLATES[template] if isinstance(template, int) else template
    if text.count("{docs}") != 1:
        raise ValueError("a paraphrase template holds {docs} exactly once")
    return _build_prompt(_PARAPHRASE_INSTRUCTION, text, "")


def questions_prompt() -> Prompt:
    """Return the prompt of the first training stage: questions about the memories, with their answers."""
    return _build_prompt(_QUESTIONS_INSTRUCTION, "Background:\n{docs}", "")


def _build_prompt(system: str, user: str, more: str) -> Prompt:
    before, after = user.split("{docs}")
    return Prompt(f" [INST] {system}\n\n{_unescape_colons(before)}", f"{_unescape_colons(after + more)} [/INST]")


def _unescape_colons(user: str) -> str:
    # The reference does this to every user message, questions included.
    return user.replace(":\\ ", ": ")
