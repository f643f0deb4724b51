"""`/status` and `/unload` with a pruner, whatever engine CLaRa has."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("transformers", reason="pruners need the extra [pruners]")

from clara_proxy.benchmarks import tiny_pruners
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import TIMEOUT, Proxy

PROSE = "The mill at Osk was built in 1874. It ground corn for the whole valley, until the river moved. " * 30


def read_pruner(proxy: Proxy) -> dict[str, Any]:
    status: dict[str, Any] = httpx.get(f"{proxy.url}/status", timeout=TIMEOUT).json()
    pruner: dict[str, Any] = status["pruner"]
    return pruner


@pytest.mark.parametrize("backend", ["cpu", "mlx", "vllm"])
def test_pruner_is_seen_and_unloaded(backend: str, upstream: FaultyUpstream, tmp_path: Path) -> None:
    pruner = tiny_pruners.write_llmlingua2(tmp_path / "pruner", "xlm")
    settings: dict[str, Any] = {"pruner": str(pruner), "model": "none", "backend": backend}
    if backend == "vllm":
        settings["vllm_url"] = "http://127.0.0.1:9"
    with running.run_proxy(upstream.url, tmp_path / "data", **settings) as proxy:
        assert (read_pruner(proxy)["model"], read_pruner(proxy)["loaded"]) == (str(pruner), False)
        answer = proxy.post(running.tool_chat(PROSE), x_clara_mode="prune", x_clara_deadline_ms="60000")
        assert answer.headers["x-clara-engine"] == "pruner"
        assert read_pruner(proxy)["loaded"]
        assert httpx.post(f"{proxy.url}/unload", timeout=TIMEOUT).json()["was_loaded"]
        deadline = time.monotonic() + TIMEOUT
        while read_pruner(proxy)["loaded"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
