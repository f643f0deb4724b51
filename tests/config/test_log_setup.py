"""What a log line looks like: one line, readable by machines, and silent about what exceptions say."""

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
SECRET = "what-a-user-wrote"
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters())
)


@pytest.fixture(autouse=True)
def as_before() -> Generator[None]:
    loggers = [logging.getLogger(name) for name in (log_setup.LOGGER_NAME, "uvicorn")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagates) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagates
        logger.setLevel(level)


def record(message: str, *args: object, **known: object) -> logging.LogRecord:
    made = logging.LogRecord(LOG.name, logging.INFO, __file__, 1, message, args, None)
    made.__dict__.update(log_setup.log_fields(known))
    return made


def failed() -> logging.LogRecord:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        return logging.LogRecord(LOG.name, 40, __file__, 1, "it failed", (), (type(error), error, error.__traceback__))


def test_json_says_when_what_and_the_figures() -> None:
    said = orjson.loads(JsonFormatter().format(record("%s rows", 3, model="gpt-4o", tokens=12, cost=None)))
    assert said.pop("time").endswith("+00:00")
    assert said == {
        "level": "info",
        "logger": LOG.name,
        "message": "3 rows",
        "model": "gpt-4o",
        "tokens": 12,
        "cost": None,
    }


def test_text_says_the_same_for_people() -> None:
    line = TextFormatter().format(record("%s rows", 3, model="gpt-4o", path="a b", streamed=True, note=""))
    assert line.endswith(f'INFO {LOG.name} 3 rows model=gpt-4o path="a b" streamed=true note=""')


@given(message=st.text(st.characters()), value=VALUES)
def test_a_json_record_is_one_line_whatever_is_in_it(message: str, value: object) -> None:
    line = JsonFormatter().format(record("%s", message, value=value))
    assert "\n" not in line
    assert line.encode()
    told = json.loads(line)
    assert told["message"] == message.encode("utf-8", "replace").decode()
    assert told["value"] == (value.encode("utf-8", "replace").decode() if isinstance(value, str) else value)


@given(value=VALUES)
def test_a_figure_cannot_forge_a_line_or_another_figure(value: object) -> None:
    line = TextFormatter().format(record("request", path=value, status=200))
    assert len(line.splitlines()) == 1
    assert line.endswith(" status=200")
    words = line.partition("request path=")[2].removesuffix(" status=200")
    assert words[:1] == '"' or not set(words) & set(' "=')
    if words[:1] == '"':
        assert isinstance(json.loads(words), str)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_of_an_exception_kind_and_place_are_told_and_not_its_words(formatter: logging.Formatter) -> None:
    line = formatter.format(failed())
    assert "ValueError" in line
    assert "test_log_setup.py" in line
    assert "it failed" in line
    # The traceback quotes the line of the source, which names the constant, and never its value.
    assert SECRET not in line


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_configuring_takes_level_and_format(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    log_setup.configure_logging(level, "json")
    for number in (10, 20, 30, 40):
        LOG.log(number, "at %d", number)
    said = [orjson.loads(line)["level"] for line in capsys.readouterr().err.splitlines()]
    every = ["debug", "info", "warning", "error"]
    assert said == every[every.index(level) :]


def test_what_the_server_says_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    log_setup.configure_logging("info", "json")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    said = orjson.loads(capsys.readouterr().err)
    assert (said["logger"], said["message"]) == ("uvicorn.error", "Invalid HTTP request received.")
