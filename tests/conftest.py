"""Database servers, one of each per session, started on first use."""

from collections.abc import Iterator

import pytest

from clara_proxy.tests import servers
from clara_proxy.tests.servers import Postgres, Redis


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
