"""Logging set-up: events on standard error, for people or as JSON, never a word of anybody's content (law 8).

What a record says beyond its words stands in its figures (see `figures`). The invariant: in JSON a record is one line
whatever is in it, and of an exception only kind and place are told, for its words may be somebody's text.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from traceback import format_tb
from typing import Literal, cast

import orjson

LOGGER_NAME = "clara_proxy"
LogFormat = Literal["text", "json"]
_FIELDS_ATTRIBUTE = "clara_figures"
# At level debug these write what goes through them: statements with their values, bodies, keys.
_VERBOSE_LOGGERS = ("aiosqlite", "botocore", "httpcore", "httpcore2", "openai")


def configure_logging(level: str, style: LogFormat = "text") -> None:
    """Send this package's log records at `level` and above to standard error; quieten libraries that tell content."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    for name in (LOGGER_NAME, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
    logging.getLogger(LOGGER_NAME).setLevel(level.upper())
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger(name).level))


def log_fields(known: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return what to give a logging call as `extra`, so that these names and values stand in its line."""
    return {_FIELDS_ATTRIBUTE: known}


class TextFormatter(logging.Formatter):
    """Time, level, logger, words, then `name=value` for each figure, which is one word of that line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record down as one line; a traceback's places follow it."""
        at = datetime.fromtimestamp(record.created).astimezone()
        said = [f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03d} {record.levelname} {record.name}"]
        said += [
            record.getMessage(),
            *(f"{name}={_format_value(value)}" for name, value in _get_fields(record).items()),
        ]
        return " ".join(said) + _format_traceback(record)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: `time` (UTC), `level`, `logger`, `message`, then the figures."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record down as one line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if place := _format_traceback(record):
            said["traceback"] = place
        return _dump_json({**said, **_get_fields(record)})


def _get_fields(record: logging.LogRecord) -> Mapping[str, object]:
    known: Mapping[str, object] = getattr(record, _FIELDS_ATTRIBUTE, {})
    return known


def _format_value(value: object) -> str:
    """Write a value so that it is one word of one line."""
    plain = value if isinstance(value, str) else _dump_json(value)
    # In ASCII, as there are more line ends than \n.
    return plain if plain and plain.isprintable() and not set(plain) & set(' "=') else json.dumps(plain)


def _dump_json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, most likely
        return orjson.dumps(_replace_surrogates(value)).decode()


def _replace_surrogates(value: object) -> object:
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {str(_replace_surrogates(name)): _replace_surrogates(item) for name, item in items.items()}
    return value if isinstance(value, bool | int | float | None) else str(value).encode("utf-8", "replace").decode()


def _format_traceback(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return f"\n{record.exc_info[0].__name__}\n{''.join(format_tb(record.exc_info[2]))}".rstrip()
