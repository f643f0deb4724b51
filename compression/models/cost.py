"""The cost of a model's jobs."""

from dataclasses import dataclass


@dataclass(slots=True)
class ModelCost:
    """The cost of jobs: tokens read and written, and their share of an accelerator's busy seconds."""

    tokens: int = 0
    gpu_seconds: float = 0.0
