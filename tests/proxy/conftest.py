"""One upstream and one proxy with the default settings for all tests of this folder; both listen on loopback."""

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
    """The upstream, without requests and with the default script."""
    _upstream.reset()
    return _upstream


@pytest.fixture(scope="session")
def proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy in front of that upstream."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy
