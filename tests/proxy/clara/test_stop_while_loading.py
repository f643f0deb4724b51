"""A proxy that is stopped while CLaRa loads: it ends within its time, and every client gets a JSON error."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.proxy.commands import shell

READY = "ready: OPENAI_BASE_URL="
CHAT: dict[str, Any] = {"model": "clara", "messages": [{"role": "user", "content": "hi"}]}
JOB = {"kind": "ask", "documents": ["a"], "question": "b"}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/compress", {"memories": ["a"], "query": "b"}),
    ("/embed", {"texts": ["a"]}),
    ("/clara/jobs", {"jobs": [JOB]}),
    ("/clara/jobs", {"jobs": [JOB], "stream": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
]


def test_stop_while_a_model_loads_is_quick_and_answers_in_json(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    settings = {"MODEL": str(folder / "clara"), "BASE": str(folder / "base"), "BACKEND": "cpu"}
    settings |= {"DATA_DIR": str(tmp_path / "data"), "DRAIN_SECONDS": "0.2"}
    environment = {f"CLARA_{name}": value for name, value in settings.items()}
    with shell.start(tmp_path, "serve", "--port", "0", **environment) as proxy, ThreadPoolExecutor() as pool:
        url = proxy.wait_for_line(READY).partition(READY)[2].partition("/v1")[0]
        os.mkfifo(folder / "base" / "generation_config.json")  # loading waits for its content, for ever
        answers = [pool.submit(httpx.post, url + path, json=body, timeout=60) for path, body in REQUESTS]
        while count_jobs(url) < len(REQUESTS):
            time.sleep(0.05)
        assert httpx.get(f"{url}/health").json()["model_loading"] is True
        proxy.process.terminate()
        assert proxy.wait() == -signal.SIGTERM  # `wait` raises after its time limit
        for answer in answers:
            response = answer.result()
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "shutting_down"
            assert response.headers["retry-after"] == "1"


def count_jobs(url: str) -> int:
    status = httpx.get(f"{url}/status").json()
    count: int = status["waiting"] + status["running"]
    return count
