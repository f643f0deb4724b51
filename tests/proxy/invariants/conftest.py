"""The fixture `case`: every test of an invariant runs on all three protocols."""

from collections.abc import Generator
from contextlib import ExitStack

import pytest

from clara_proxy.tests.proxy.inprocess import FakeWorker, InProcessProxy, create_fake_pruner
from clara_proxy.tests.proxy.invariants.cases import PROTOCOLS, ProtocolCase


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[ProtocolCase]:
    """A protocol with its two proxies."""
    protocol = PROTOCOLS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        plain, offering = (
            stack.enter_context(
                InProcessProxy(
                    folder / str(offer_tool),
                    adapter=protocol.adapter,
                    offer_tool=offer_tool,
                    clara_worker=FakeWorker(),
                    pruner=create_fake_pruner(),
                )
            )
            for offer_tool in (False, True)
        )
        yield ProtocolCase(protocol, plain, offering)


@pytest.fixture(scope="module")
def chat_proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    """A proxy for tests that run on chat completions only."""
    with InProcessProxy(
        tmp_path_factory.mktemp("chat"), clara_worker=FakeWorker(), pruner=create_fake_pruner()
    ) as proxy:
        yield proxy
