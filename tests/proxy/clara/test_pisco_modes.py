"""A PISCO checkpoint behind the proxy: CLaRa's endpoints and modes, without `summary`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime import local_model
from clara_proxy.tests import running
from clara_proxy.tests.compression.clara.tiny import make_pisco_checkpoint
from clara_proxy.tests.running import Proxy

MEMORIES = ["the fox the river the stone", "the bridge the lamp"]
QUESTION = "the fox?"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = make_pisco_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return {"model": str(folder / "pisco"), "base": str(folder / "base"), "backend": "cpu"}


@pytest.fixture(scope="module")
def proxy(local: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running.run_proxy("http://127.0.0.1:9/v1", tmp_path_factory.mktemp("data"), **local) as running_proxy:
        yield running_proxy


def test_compress_answers_from_eight_memories_a_document(proxy: Proxy, local: dict[str, Any]) -> None:
    body = {"memories": MEMORIES, "query": QUESTION, "max_new_tokens": 6}
    answer = httpx.post(f"{proxy.url}/compress", json=body, timeout=60).json()
    direct = Clara.from_pretrained(Path(local["model"]), base=local["base"], device="cpu")
    assert answer["answer"] == direct.generate([QUESTION], [MEMORIES], 6)[0]
    assert answer["compressed_tokens"] == 16


def test_summary_is_unavailable_and_answer_is_not(proxy: Proxy) -> None:
    body = {"model": "clara", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
    assert httpx.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=60).status_code == 200
    body["model"] = "gpt-4o"
    headers = {"x-clara-mode": "summary", "authorization": "Bearer k"}
    reply = httpx.post(f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "mode_unavailable")


def test_start_with_summary_names_the_model(local: dict[str, Any], tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, **local)
    assert "PISCO" in local_model.describe_problem(settings.model_copy(update={"mode": "summary"}))
    assert local_model.describe_problem(settings.model_copy(update={"mode": "answer"})) == ""
