"""One upstream and one proxy with the default settings for all tests of this room; both really listen on loopback."""

from collections.abc import Iterator

import pytest

from clara_proxy.tests import faulty, running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import Proxy


@pytest.fixture(scope="session")
def _upstream() -> Iterator[FaultyUpstream]:  # pyright: ignore[reportUnusedFunction]
    with faulty.run_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(_upstream: FaultyUpstream) -> FaultyUpstream:
    """An upstream that has heard nothing yet and answers as one that is well."""
    _upstream.reset()
    return _upstream


@pytest.fixture(scope="session")
def proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy before that upstream."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy
