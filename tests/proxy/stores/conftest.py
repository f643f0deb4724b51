"""Empty databases for the tests of the stores."""

import pytest

from clara_proxy.tests.proxy.stores.ledgers import CreateDatabase
from clara_proxy.tests.servers import Postgres


@pytest.fixture(scope="session")
def create_database(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> CreateDatabase:
    """Return a function that creates an empty database and returns its URL."""

    def create(kind: str) -> str:
        return (
            postgres.reset_database()
            if kind == "postgres"
            else f"sqlite:///{tmp_path_factory.mktemp('l')}/new/l.sqlite3"
        )

    return create


@pytest.fixture
def url(kind: str, create_database: CreateDatabase) -> str:
    return create_database(kind)
