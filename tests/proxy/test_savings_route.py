"""`GET /v1/savings`: what it is not asked for in words it knows, it refuses."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clara_proxy.tests.running import Proxy, run_proxy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder: Path = tmp_path_factory.mktemp("savings")
    with run_proxy("http://127.0.0.1:1", folder) as running:
        yield running


def test_what_it_knows_is_answered(made: Proxy) -> None:
    told = httpx.get(f"{made.url}/v1/savings", params={"since": "1h", "by": "model"})
    assert told.status_code == 200
    assert told.json()["by"] == "model"


@pytest.mark.parametrize(
    ("query", "named"), [("format=csv", "format"), ("by=all&foo=1&bar=2", "bar, foo"), ("x" * 5_000, "xxxx")]
)
def test_what_it_does_not_know_is_refused_and_named(made: Proxy, query: str, named: str) -> None:
    told = httpx.get(f"{made.url}/v1/savings?{query}")
    assert told.status_code == 400
    assert named in told.json()["error"]["message"]
    assert told.json()["error"]["code"] == "invalid_query"
    assert named.startswith(told.json()["error"]["param"][:4])
    assert len(told.text) < 1_000
