"""Log records: one line each, machine-readable, without the messages of exceptions."""

import json
import logging
from collections.abc import Generator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.config import log_setup
from clara_proxy.config.log_setup import JsonFormatter, TextFormatter

LOG = logging.getLogger(f"{log_setup.LOGGER_NAME}.tests")
SECRET = "content-of-a-user"
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters())
)


@pytest.fixture(autouse=True)
def restore_loggers() -> Generator[None]:
    loggers = [logging.getLogger(name) for name in (log_setup.LOGGER_NAME, "uvicorn")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagates) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagates
        logger.setLevel(level)


def make_record(message: str, *args: object, **fields: object) -> logging.LogRecord:
    log_record = logging.LogRecord(LOG.name, logging.INFO, __file__, 1, message, args, None)
    log_record.__dict__.update(log_setup.log_fields(fields))
    return log_record


def make_failed_record() -> logging.LogRecord:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        return logging.LogRecord(LOG.name, 40, __file__, 1, "it failed", (), (type(error), error, error.__traceback__))


def test_a_json_record_has_time_message_and_fields() -> None:
    event = orjson.loads(JsonFormatter().format(make_record("%s rows", 3, model="gpt-4o", tokens=12, cost=None)))
    assert event.pop("time").endswith("+00:00")
    assert event == {
        "level": "info",
        "logger": LOG.name,
        "message": "3 rows",
        "model": "gpt-4o",
        "tokens": 12,
        "cost": None,
    }


def test_a_text_record_has_message_and_fields() -> None:
    line = TextFormatter().format(make_record("%s rows", 3, model="gpt-4o", path="a b", streamed=True, note=""))
    assert line.endswith(f'INFO {LOG.name} 3 rows model=gpt-4o path="a b" streamed=true note=""')


@given(message=st.text(st.characters()), value=VALUES)
def test_a_json_record_is_always_one_line(message: str, value: object) -> None:
    line = JsonFormatter().format(make_record("%s", message, value=value))
    assert "\n" not in line
    assert line.encode()
    event = json.loads(line)
    assert event["message"] == message.encode("utf-8", "replace").decode()
    assert event["value"] == (value.encode("utf-8", "replace").decode() if isinstance(value, str) else value)


@given(value=VALUES)
def test_a_field_cannot_forge_a_line_or_another_field(value: object) -> None:
    line = TextFormatter().format(make_record("request", path=value, status=200))
    assert len(line.splitlines()) == 1
    assert line.endswith(" status=200")
    words = line.partition("request path=")[2].removesuffix(" status=200")
    assert words[:1] == '"' or not set(words) & set(' "=')
    if words[:1] == '"':
        assert isinstance(json.loads(words), str)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_exception_is_logged_without_its_message(formatter: logging.Formatter) -> None:
    line = formatter.format(make_failed_record())
    assert "ValueError" in line
    assert "test_log_setup.py" in line
    assert "it failed" in line
    # The traceback quotes the source line with the name of the constant, but not its value.
    assert SECRET not in line


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_level_and_format_are_configured(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    log_setup.configure_logging(level, "json")
    for number in (10, 20, 30, 40):
        LOG.log(number, "at %d", number)
    levels = [orjson.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
    all_levels = ["debug", "info", "warning", "error"]
    assert levels == all_levels[all_levels.index(level) :]


def test_records_of_the_server_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    log_setup.configure_logging("info", "json")
    logging.getLogger("uvicorn.error").warning("Exceeded concurrency limit.")
    event = orjson.loads(capsys.readouterr().err)
    assert (event["logger"], event["message"]) == ("uvicorn.error", "Exceeded concurrency limit.")
