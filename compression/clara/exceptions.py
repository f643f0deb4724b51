"""What can go wrong with CLaRa, said in words a user can act on; never a traceback out of torch."""


class ClaraError(Exception):
    """A request that cannot be served as asked: the message says what does not fit, and what would."""


class CheckpointError(ClaraError):
    """A checkpoint or a base model that is missing, broken or of another kind; the message names the file."""


class QueueFullError(ClaraError):
    """Too many jobs are waiting; try again later."""


class DeadlineError(ClaraError):
    """The job's time was up before it was done."""
