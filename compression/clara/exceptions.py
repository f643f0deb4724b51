"""Errors of CLaRa. Their messages name the problem and the remedy; errors of torch never reach the user."""

from collections.abc import Sequence


class ClaraError(Exception):
    """A request cannot be served as asked; the message says what does not fit."""


class CheckpointError(ClaraError):
    """A checkpoint or a base model is missing, broken or of another kind; the message names the file."""


class NotDownloadedError(CheckpointError):
    """A hub repository is not on this machine, and may not be downloaded now."""


class UnknownRateError(ClaraError):
    """The model has no checkpoint with the requested compression rate; the message names those that it has."""


class QueueFullError(ClaraError):
    """Too many jobs are waiting; try again later."""


class DeadlineError(ClaraError):
    """The deadline passed before the job was done."""


def reject_single_text(value: Sequence[object], name: str) -> None:
    """Raise `ClaraError` if one text was given instead of a list of texts."""
    if isinstance(value, str):
        raise ClaraError(f"{name} must be a list of texts, not one text")
