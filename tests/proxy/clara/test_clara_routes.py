"""CLaRa's endpoints, and `model: clara` for OpenAI's clients, on a tiny random checkpoint.

Its answers are random; the tests check that all paths return the same answer and count the same tokens.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests import running
from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.running import TIMEOUT, Proxy

MEMORIES = ["the fox the river the stone", "the bridge the lamp"]
QUESTION = "the fox?"
UNREACHABLE_URL = "http://127.0.0.1:9/v1"  # the discard port: no request of these tests may be sent upstream


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def clara(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    local: dict[str, Any] = {"model": str(checkpoint / "clara"), "base": str(checkpoint / "base"), "backend": "cpu"}
    with running.run_proxy(UNREACHABLE_URL, tmp_path_factory.mktemp("data"), **local) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(clara: Proxy) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{clara.url}/v1", api_key="k", max_retries=0) as openai_client:
        yield openai_client


def post(proxy: Proxy, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(proxy.url + path, json=body, headers=headers, timeout=60)


def messages() -> list[Any]:
    text = "\n".join(f"<document>{memory}</document>" for memory in MEMORIES)
    return [{"role": "user", "content": f"{text}\n\n{QUESTION}"}]


def test_health_and_status_never_load_the_model(checkpoint: Path, tmp_path: Path) -> None:
    local: dict[str, Any] = {"model": str(checkpoint / "clara"), "base": str(checkpoint / "base")}
    with running.run_proxy(UNREACHABLE_URL, tmp_path, **local) as proxy:
        for _ in range(2):
            health = httpx.get(f"{proxy.url}/health").json()
            assert health["status"] == "ok"
            assert (health["model_loaded"], health["model_loading"]) == (False, False)
            assert httpx.get(f"{proxy.url}/status").json()["loaded"] is False


def test_compress_has_the_fields_of_clara_servers(clara: Proxy, checkpoint: Path) -> None:
    answer = post(clara, "/compress", {"memories": MEMORIES, "query": QUESTION, "max_new_tokens": 12}).json()
    direct = Clara.from_pretrained(checkpoint / "clara", base=checkpoint / "base", device="cpu")
    reply = direct.replies([QUESTION], [MEMORIES], 12)[0]
    assert answer["success"] is True
    assert answer["answer"] == reply.text
    latents = direct.compress(MEMORIES)
    assert answer["original_tokens"] == sum(latents.token_counts)
    assert answer["compressed_tokens"] == len(latents) * latents.vectors.shape[1]
    assert answer["compression_ratio"] == round(answer["original_tokens"] / answer["compressed_tokens"], 2)
    assert answer["latency_ms"] > 0


def test_embed_returns_one_vector_for_each_text(clara: Proxy) -> None:
    long = " ".join(["the fox the river"] * 40)
    answer = post(clara, "/embed", {"texts": [*MEMORIES, long, MEMORIES[0]]}).json()
    assert len(answer["embeddings"]) == 4
    assert all(len(vector) == answer["dimensions"] for vector in answer["embeddings"])
    assert answer["embeddings"][0] == pytest.approx(answer["embeddings"][3])
    assert answer["embeddings"][0] != pytest.approx(answer["embeddings"][1])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/compress", {"memories": [], "query": "q"}, "memories"),
        ("/compress", {"memories": ["m"], "query": ""}, "query"),
        ("/compress", {"memories": "m", "query": "q"}, "memories"),
        ("/compress", {"query": "q"}, "memories"),
        ("/compress", ["m"], None),
        ("/embed", {"texts": []}, "texts"),
        ("/embed", {"texts": [""]}, "texts.0"),
    ],
)
def test_invalid_input_is_a_400_that_names_the_field(clara: Proxy, path: str, body: Any, param: str | None) -> None:
    answer = post(clara, path, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_message_names_a_missing_field(clara: Proxy) -> None:
    assert post(clara, "/compress", {"query": "q"}).json()["error"]["message"] == "memories is required"


@pytest.mark.parametrize(
    ("path", "headers"), [("/compress", {}), ("/embed", {}), ("/compress", {"x-clara-fail": "up"})]
)
def test_a_rejected_request_leaves_a_row(clara: Proxy, path: str, headers: dict[str, str]) -> None:
    before = {row.id for row in clara.read_rows()}
    assert post(clara, path, {}, **headers).status_code == 400
    deadline = time.monotonic() + TIMEOUT
    while not (fresh := [row for row in clara.read_rows() if row.id not in before]):
        assert time.monotonic() < deadline
    assert [(row.path, row.outcome, row.status, row.saved_tokens) for row in fresh] == [(path, "rejected", 400, 0)]


def test_unload_lets_the_model_go_and_the_next_request_loads_it(clara: Proxy) -> None:
    first = post(clara, "/compress", {"memories": MEMORIES, "query": QUESTION}).json()["answer"]
    status = httpx.get(f"{clara.url}/status").json()
    assert status["loaded"] is True
    assert status["memory_bytes"]["process"] > 0
    assert status["busy_seconds"] > 0
    assert status["totals"]["latents_missing"] > 0
    assert status["requests_served"] > 0
    for _ in range(200):
        if (status := httpx.get(f"{clara.url}/status").json())["last_activity"]:
            break
    assert 0 < status["seconds_until_unload"] <= status["keep_alive_seconds"]
    assert status["last_activity"] < status["will_unload_at"]
    unloaded = post(clara, "/unload", {}).json()
    assert (unloaded["success"], unloaded["was_loaded"]) == (True, True)
    for _ in range(200):
        if not httpx.get(f"{clara.url}/status").json()["loaded"]:
            break
    assert httpx.get(f"{clara.url}/status").json()["loaded"] is False
    assert post(clara, "/compress", {"memories": MEMORIES, "query": QUESTION}).json()["answer"] == first


def test_the_openai_client_reads_the_same_plain_and_streamed(client: openai.OpenAI, clara: Proxy) -> None:
    plain = client.chat.completions.with_raw_response.create(model="clara", messages=messages(), max_tokens=12)
    assert plain.headers["x-clara-mode"] == "latent"
    assert plain.headers["x-clara-engine"] == "clara"
    completion = plain.parse()
    stream = client.chat.completions.create(
        model="clara-4", messages=messages(), max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == completion.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == completion.choices[0].finish_reason
    assert chunks[-1].usage == completion.usage
    assert completion.usage is not None
    details = completion.usage.to_dict()["prompt_tokens_details"]
    assert isinstance(details, dict)
    assert details["memory_tokens"] < completion.usage.prompt_tokens
    assert details["text_tokens"] > 0


def test_each_request_leaves_a_consistent_row(clara: Proxy) -> None:
    answer = clara.post({"model": "clara", "messages": messages(), "max_tokens": 4})
    row = clara.wait_for_row(answer)
    assert (row.outcome, row.mode_used, row.engine) == ("served", "latent", "clara")
    assert row.cost == 0
    assert row.billed_output == answer.json()["usage"]["completion_tokens"]
    assert accounting.find_inconsistencies(row) == []


def test_latent_mode_answers_requests_for_any_model(clara: Proxy) -> None:
    answer = clara.post({"model": "gpt-4o", "messages": messages(), "max_tokens": 4}, x_clara_mode="latent")
    assert answer.status_code == 200
    assert answer.headers["x-clara-engine"] == "clara"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, None),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": 0.5}, "max_completion_tokens"),
        ({"messages": [{"role": "system", "content": "s"}]}, "messages"),
        ({"messages": []}, "messages"),
    ],
)
def test_unsupported_fields_are_rejected_by_name(clara: Proxy, more: Any, param: str | None) -> None:
    answer = clara.post({"model": "clara", "messages": messages(), **more})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_late_answer_is_a_503_with_retry_after(checkpoint: Path, tmp_path: Path) -> None:
    local: dict[str, Any] = {"model": str(checkpoint / "clara"), "base": str(checkpoint / "base")}
    local["clara_timeout"] = 0.000_001
    with running.run_proxy(UNREACHABLE_URL, tmp_path, **local) as proxy:
        for answer in (
            post(proxy, "/compress", {"memories": MEMORIES, "query": QUESTION}),
            proxy.post({"model": "clara", "messages": messages(), "stream": True}),
        ):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "deadline"
            assert answer.headers["retry-after"]


def test_without_a_model_the_error_says_how_to_get_one(proxy: Proxy) -> None:
    for answer in (
        post(proxy, "/compress", {"memories": MEMORIES, "query": QUESTION}),
        proxy.post({"model": "clara-16", "messages": messages()}),
    ):
        assert answer.status_code == 503
        assert "CLARA_MODEL" in answer.json()["error"]["message"]
    assert httpx.get(f"{proxy.url}/status").json() == {"model": None, "loaded": False, "loading": False}


def test_a_checkpoint_that_breaks_after_the_start_is_named(checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "copy"
    shutil.copytree(checkpoint / "clara", model)
    local: dict[str, Any] = {"model": str(model), "base": str(checkpoint / "base")}
    with running.run_proxy(UNREACHABLE_URL, tmp_path / "data", **local) as proxy:
        (model / "compression-4" / "adapters.pth").write_bytes(b"broken")
        answer = post(proxy, "/compress", {"memories": MEMORIES, "query": QUESTION})
    assert answer.status_code == 503
    assert "adapters.pth" in answer.json()["error"]["message"]
    assert str(tmp_path) not in answer.text


def test_the_configured_key_is_required(tmp_path: Path) -> None:
    with running.run_proxy(UNREACHABLE_URL, tmp_path, api_key="secret") as proxy:
        assert post(proxy, "/unload", {}).status_code == 401
        assert post(proxy, "/unload", {}, authorization="Bearer wrong").status_code == 401
        assert (
            post(proxy, "/unload", {}, authorization="Bearer secret").status_code == 503
        )  # admitted, but there is no model
        assert httpx.get(f"{proxy.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"memories": MEMORIES, "query": "why? " * 20_000}, "the question has 100,000 characters"),
        ({"memories": ["a"] * 3000, "query": QUESTION}, "at most 2048 items"),
    ],
)
def test_a_question_or_a_number_of_texts_beyond_the_limit_is_rejected(clara: Proxy, body: Any, message: str) -> None:
    answer = post(clara, "/compress", body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_client_that_leaves_ends_its_request_and_its_row_says_so(clara: Proxy) -> None:
    body = {"memories": ["the fox the river the stone " * 4000], "query": QUESTION, "max_new_tokens": 4096}
    with suppress(httpx.TimeoutException):
        httpx.post(f"{clara.url}/compress", json=body, headers={"x-clara-session": "left"}, timeout=0.2)
    row = clara.wait_for_row("left")
    assert (row.outcome, row.status) == ("cancelled", 0)
    assert post(clara, "/compress", {"memories": MEMORIES, "query": QUESTION}).status_code == 200
