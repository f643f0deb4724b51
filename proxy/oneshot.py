"""Shortens one text here and now: what `clara-proxy compress` does."""

from ..compression import engine
from ..compression.engine import Job, Outcome
from ..compression.tokens import vocabulary


def shortened(text: str, question: str, ratio: float, model: str) -> tuple[Outcome, int]:
    """Return what became of the text, and how many tokens it had; without a text in the outcome it stays as it is."""
    counted = vocabulary(model)
    before = counted.count(text)
    return engine.run(Job(text, question, max(1, int(before / ratio)), None, counted)), before
