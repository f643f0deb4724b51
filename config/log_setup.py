"""Logging set-up: records on standard error, as text or as JSON, without any content of requests.

Values beyond the message are fields of a record (`log_fields`). A JSON record is always one line. Of an exception,
only its type and traceback are logged, since its message may repeat content.
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
_FIELDS_ATTRIBUTE = "clara_fields"
# At level debug these log content: statements with their values, bodies, keys.
_VERBOSE_LOGGERS = ("aiosqlite", "botocore", "httpcore", "httpcore2", "openai")


def configure_logging(level: str, style: LogFormat = "text") -> None:
    """Log this package's records to standard error, from `level` up; keep libraries that log content above debug."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    for name in (LOGGER_NAME, "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
    logging.getLogger(LOGGER_NAME).setLevel(level.upper())
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger(name).level))


def log_fields(fields: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """Return the `extra` argument of a logging call that adds these fields to its record."""
    return {_FIELDS_ATTRIBUTE: fields}


class TextFormatter(logging.Formatter):
    """Formats a record as one line: time, level, logger, message, then `name=value` for each field."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line, followed by the lines of its traceback, if any."""
        time = datetime.fromtimestamp(record.created).astimezone()
        parts = [f"{time:%Y-%m-%d %H:%M:%S},{time.microsecond // 1000:03d} {record.levelname} {record.name}"]
        parts.append(record.getMessage())
        parts += [f"{name}={_format_value(value)}" for name, value in _get_fields(record).items()]
        return " ".join(parts) + _format_traceback(record)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: `time` (UTC), `level`, `logger`, `message`, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if traceback := _format_traceback(record):
            event["traceback"] = traceback
        return _dump_json({**event, **_get_fields(record)})


def _get_fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, _FIELDS_ATTRIBUTE, {})
    return fields


def _format_value(value: object) -> str:
    """Format a value without blanks or line ends, quoted if necessary."""
    plain = value if isinstance(value, str) else _dump_json(value)
    # In ASCII, since Unicode has more line ends than \n.
    return plain if plain and plain.isprintable() and not set(plain) & set(' "=') else json.dumps(plain)


def _dump_json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # most likely a lone surrogate
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
