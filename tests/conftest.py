"""Database servers, one of each per session, started on first use; and the profile of hypothesis."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

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
