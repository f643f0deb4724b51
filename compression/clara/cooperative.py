"""Splits long work into steps of one forward pass, so that its caller can do other work in between, or stop.

A `Steps` is a generator that yields None after each step and returns its result. Callers delegate with `yield from`.
"""

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]


def run_steps(steps: Steps[Result]) -> Result:
    """Run all steps and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
