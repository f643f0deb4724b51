"""Database servers, one of each per session, started on first use; the profile of hypothesis; and the log of a test."""

import gc
import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from clara_proxy.config.log_setup import LOGGER_NAME
from clara_proxy.tests import servers
from clara_proxy.tests.servers import Postgres, Redis

# No test depends on the time that it takes: the machine may be busy.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is loaded for all tests, as `serve` does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of the test, although a proxy of an earlier test may have set the handlers and the level of its own."""
    logger = logging.getLogger(LOGGER_NAME)
    before = logger.propagate, logger.level
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
    yield caplog
    logger.propagate = before[0]
    logger.setLevel(before[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    with servers.run_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A Redis server."""
    with servers.run_redis() as server:
        yield server
