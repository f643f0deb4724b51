"""Passages of indexed files are compressed in the background, if CLaRa is asked to."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from clara_proxy.compression.models.errors import QueueFullError
from clara_proxy.proxy.memory import passage_encoder
from clara_proxy.proxy.memory.passage_encoder import BATCH_PASSAGES, PassageEncoder
from clara_proxy.proxy.stores.errors import StartupError
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import TIMEOUT, Proxy

FACTS = "User likes hiking in national parks.\n\nUser has a dog called Max.\n"


class Recorder:
    """A CLaRa that records what it embeds, and fails at the first batches."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.batches = failures, list[list[str]]()

    async def embed(self, texts: Sequence[str], seconds: float) -> list[list[float]]:
        self.batches.append(list(texts))
        if len(self.batches) <= self.failures:
            raise QueueFullError("many jobs are waiting already")
        return [[1.0] for _ in texts]


@pytest.mark.parametrize("failures", [0, 1])
async def test_passages_are_embedded_in_batches_and_a_failed_batch_is_left(failures: int) -> None:
    clara: Any = Recorder(failures)
    encoder = PassageEncoder(clara)
    texts = [f"passage {number}" for number in range(BATCH_PASSAGES + 3)]
    encoder.submit(texts)
    encoder.start()
    await encoder.wait()
    await encoder.stop()
    assert [len(batch) for batch in clara.batches] == [BATCH_PASSAGES, 3]
    assert [text for batch in clara.batches for text in batch] == texts


async def test_passages_beyond_those_that_may_wait_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage_encoder, "MAX_WAITING", 5)
    clara: Any = Recorder()
    encoder = PassageEncoder(clara)
    encoder.submit(f"passage {number}" for number in range(9))
    encoder.start()
    await encoder.wait()
    await encoder.stop()
    assert clara.batches == [[f"passage {number}" for number in range(5)]]


def read_totals(proxy: Proxy) -> dict[str, int]:
    totals: dict[str, int] = httpx.get(f"{proxy.url}/status", timeout=TIMEOUT).json()["totals"]
    return totals


def test_first_question_finds_the_memories_of_an_indexed_file(upstream: FaultyUpstream, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    local: dict[str, Any] = {"model": "clara-nano", "backend": "cpu", "memory": True, "memory_latents": True}
    with running.run_proxy(upstream.url, tmp_path, **local) as proxy, httpx.Client(timeout=TIMEOUT) as client:
        base = f"{proxy.url}/v1"
        upload: dict[str, Any] = {"file": ("facts.txt", FACTS.encode()), "purpose": (None, "assistants")}
        file = client.post(f"{base}/files", files=upload).json()["id"]
        store = client.post(f"{base}/vector_stores", json={"name": "facts", "file_ids": [file]}).json()
        deadline = time.monotonic() + TIMEOUT
        while not read_totals(proxy).get("documents"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = read_totals(proxy)
        question = {"model": "clara", "messages": [{"role": "user", "content": "What is the dog called?"}]}
        answer = client.post(f"{base}/chat/completions", json=question, headers={"x-clara-store": store["name"]})
        assert answer.status_code == 200
        after = read_totals(proxy)
    assert after["latents_found"] > before.get("latents_found", 0)
    assert after["latents_missing"] == before["latents_missing"]
    assert upstream.requests == []


def test_start_without_a_model_names_the_setting(upstream: FaultyUpstream, tmp_path: Path) -> None:
    with (
        pytest.raises(StartupError, match="CLARA_MEMORY_LATENTS"),
        running.run_proxy(upstream.url, tmp_path, model="none", memory=True, memory_latents=True),
    ):
        pass
