"""Logging set-up: one line an event on standard error, never a word of anybody's content (law 8)."""

import logging

LOGGER = "clara_proxy"


def configure(level: str) -> None:
    """Send this package's log records at `level` and above to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
