"""Errors that only CLaRa has, and the check of its texts."""

from collections.abc import Sequence

from ..models.errors import ModelError


class UnknownRateError(ModelError):
    """The model has no checkpoint with the requested compression rate; the message names those that it has."""


def reject_single_text(value: Sequence[object], name: str) -> None:
    """Raise `ModelError` if one text was given instead of a list of texts."""
    if isinstance(value, str):
        raise ModelError(f"{name} must be a list of texts, not one text")
