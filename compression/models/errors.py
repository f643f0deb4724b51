"""Errors of local models. Their messages name the problem and the remedy; errors of torch never reach the user."""


class ModelError(Exception):
    """A request cannot be served as asked; the message names the reason."""


class CheckpointError(ModelError):
    """A checkpoint or a base model is missing, broken or of another kind; the message names the file."""


class NotDownloadedError(CheckpointError):
    """A hub repository is not on this machine, and may not be downloaded now."""


class QueueFullError(ModelError):
    """Too many jobs are waiting; try again later."""


class DeadlineError(ModelError):
    """The deadline passed before the job was done."""
