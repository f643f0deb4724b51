"""Errors of CLaRa. Their messages say what is wrong and what to do; errors of torch never reach the user."""


class ClaraError(Exception):
    """A request cannot be served as asked; the message says what does not fit."""


class CheckpointError(ClaraError):
    """A checkpoint or a base model is missing, broken or of another kind; the message names the file."""


class QueueFullError(ClaraError):
    """Too many jobs are waiting; try again later."""


class DeadlineError(ClaraError):
    """The deadline passed before the job was done."""
