"""`GET /v1/savings` rejects unknown parameters."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clara_proxy.tests.running import Proxy, run_proxy


@pytest.fixture(scope="module")
def savings_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder: Path = tmp_path_factory.mktemp("savings")
    with run_proxy("http://127.0.0.1:1", folder) as proxy:
        yield proxy


def test_valid_parameters_are_answered(savings_proxy: Proxy) -> None:
    answer = httpx.get(f"{savings_proxy.url}/v1/savings", params={"since": "1h", "by": "model"})
    assert answer.status_code == 200
    assert answer.json()["by"] == "model"


@pytest.mark.parametrize(
    ("query", "message_part"), [("format=csv", "format"), ("by=all&foo=1&bar=2", "bar, foo"), ("x" * 5_000, "xxxx")]
)
def test_unknown_parameters_are_rejected_by_name(savings_proxy: Proxy, query: str, message_part: str) -> None:
    answer = httpx.get(f"{savings_proxy.url}/v1/savings?{query}")
    assert answer.status_code == 400
    assert message_part in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "invalid_query"
    assert message_part.startswith(answer.json()["error"]["param"][:4])
    assert len(answer.text) < 1_000
