"""Long work cut at its forward passes: whoever runs it may do something else between two of them, or stop.

A `Steps` is a generator that yields nothing and returns its result. Other code delegates with `yield from`.
"""

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]


def run_steps(steps: Steps[Result]) -> Result:
    """Run to the end and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
