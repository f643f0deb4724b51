"""clara-nano, the model in the package: the default for `/compress` and the model `clara`, never for other passages."""

import math
from collections.abc import Iterator
from typing import Any, cast

import httpx
import openai
import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.locate import NANO_NAME
from clara_proxy.proxy.clara import latent_chat
from clara_proxy.proxy.commands import checkpoints
from clara_proxy.proxy.runtime import local_model
from clara_proxy.tests import faulty, running
from clara_proxy.tests.running import CLIENT_KEY, Proxy, tool_chat

MEMORIES = ["User likes hiking in national parks.", "User works as a software engineer.", "User has a dog named Max."]
QUESTION = "What outdoor activities does the user enjoy?"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        faulty.run_upstream() as upstream,
        running.run_proxy(upstream.url, tmp_path_factory.mktemp("nano"), model=None, memory=True) as proxy,
    ):
        yield proxy


def post(proxy: Proxy, path: str, body: Any) -> httpx.Response:
    return httpx.post(proxy.url + path, json=body, timeout=60)


def test_the_example_is_answered_and_the_engine_is_named(nano: Proxy) -> None:
    answer = post(nano, "/compress", {"memories": MEMORIES, "query": QUESTION})
    assert answer.json()["answer"] == "hiking in national parks"
    assert answer.headers["x-clara-engine"] == NANO_NAME
    assert answer.json()["compressed_tokens"] > 0
    assert post(nano, "/embed", {"texts": MEMORIES}).headers["x-clara-engine"] == NANO_NAME
    status = httpx.get(f"{nano.url}/status").json()
    assert (status["model"], status["loaded"]) == (NANO_NAME, True)


def test_chats_with_the_model_clara_are_answered(nano: Proxy) -> None:
    with openai.OpenAI(base_url=f"{nano.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        messages: Any = [{"role": "user", "content": f"<documents>{MEMORIES[0]}</documents>\n{QUESTION}"}]
        raw = client.chat.completions.with_raw_response.create(model="clara", messages=messages)
        assert raw.headers["x-clara-engine"] == NANO_NAME
        assert "hiking" in str(raw.parse().choices[0].message.content)
        names = [model.id for model in client.models.list() if model.id.startswith("clara")]
        assert names == ["clara", "clara-16", "clara-4"]


def test_a_request_chooses_a_rate_that_the_model_has(nano: Proxy) -> None:
    body = {"memories": MEMORIES, "query": QUESTION}
    sixteen, four = (post(nano, "/compress", {**body, "compression_rate": rate}).json() for rate in (16, 4))
    assert four["compressed_tokens"] == 4 * sixteen["compressed_tokens"]
    assert four["answer"] == "hiking in national parks"
    rejected = post(nano, "/compress", {**body, "compression_rate": 128})
    assert (rejected.status_code, rejected.json()["error"]["code"]) == (404, "model_not_found")
    assert "16, 4" in rejected.json()["error"]["message"]
    details: list[int] = []
    messages: Any = [{"role": "user", "content": f"<document>{MEMORIES[0]}</document>\n{QUESTION}"}]
    for model in ("clara", "clara-16", "clara-4"):
        usage = nano.post({"model": model, "messages": messages}).json()["usage"]
        details.append(usage["prompt_tokens_details"]["memory_tokens"])
    assert details[0] == details[1] == details[2] // 4
    answer = nano.post({"model": "clara-128", "messages": messages})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert httpx.get(f"{nano.url}/status").json()["rates"] == [16, 4]


def test_embeddings_have_length_one_and_the_chosen_size(nano: Proxy) -> None:
    whole, half, cut, other_rate = (
        post(nano, "/embed", {"texts": MEMORIES, **more}).json()
        for more in ({}, {"dimensions": 24}, {"max_length": 1}, {"model": "clara-4"})
    )
    assert half["dimensions"] == 24
    for answer in (whole, half, cut, other_rate):
        assert [math.hypot(*vector) for vector in answer["embeddings"]] == pytest.approx([1.0] * 3)
    assert whole["embeddings"] != other_rate["embeddings"]
    assert cut["embeddings"][0] == pytest.approx(cut["embeddings"][1], abs=1e-4)  # both begin with "User"
    assert whole["embeddings"][0] != pytest.approx(whole["embeddings"][1], abs=1e-2)
    for more, param in (({"dimensions": 10_000}, "dimensions"), ({"model": "gpt-4o"}, "model")):
        assert post(nano, "/embed", {"texts": MEMORIES, **more}).json()["error"]["param"] == param


def test_static_embeddings_need_no_model(nano: Proxy, proxy: Proxy) -> None:
    body: dict[str, Any] = {
        "texts": [MEMORIES[0], "He walks in the mountains.", "The invoice is overdue."],
        "model": "static",
    }
    answer = post(proxy, "/embed", body)  # this proxy has no CLaRa
    assert (answer.status_code, answer.headers["x-clara-engine"]) == (200, "none")
    hike, walk, invoice = answer.json()["embeddings"]
    assert post(nano, "/embed", body).json() == answer.json()
    assert math.hypot(*hike) == pytest.approx(1.0, abs=1e-3)
    assert sum(a * b for a, b in zip(hike, walk, strict=True)) > sum(a * b for a, b in zip(hike, invoice, strict=True))
    cut = post(proxy, "/embed", {**body, "max_length": 2, "dimensions": 8}).json()
    assert cut["dimensions"] == 8
    assert cut["embeddings"][0] != pytest.approx(hike[:8], abs=1e-3)


def test_keep_alive_of_a_request_unloads_the_model(nano: Proxy) -> None:
    assert post(nano, "/compress", {"memories": MEMORIES, "query": QUESTION, "keep_alive": 0}).status_code == 200
    for _ in range(200):
        if not httpx.get(f"{nano.url}/status").json()["loaded"]:
            break
    assert httpx.get(f"{nano.url}/status").json()["loaded"] is False
    post(nano, "/compress", {"memories": MEMORIES, "query": QUESTION, "keep_alive": -1})
    status = httpx.get(f"{nano.url}/status").json()
    assert (status["loaded"], status["keep_alive_seconds"]) == (True, -1)
    post(nano, "/compress", {"memories": MEMORIES, "query": QUESTION})
    assert httpx.get(f"{nano.url}/status").json()["keep_alive_seconds"] == 900


def test_tokens_are_those_of_the_request_and_memories_are_counted(nano: Proxy) -> None:
    long = " ".join(f"User number {n} likes hiking in national park {n}." for n in range(900))
    answer = post(nano, "/compress", {"memories": [MEMORIES[1], long, MEMORIES[2]], "query": QUESTION}).json()
    short = post(nano, "/compress", {"memories": MEMORIES[1:], "query": QUESTION}).json()
    alone = post(nano, "/compress", {"memories": [long], "query": QUESTION}).json()
    assert answer["original_tokens"] == short["original_tokens"] + alone["original_tokens"]
    assert answer["memories_left_out"] == 2
    assert (alone["memories_left_out"], alone["memories_cut"]) == (0, 1)
    assert (short["memories_left_out"], short["memories_cut"]) == (1, 0)  # nano reads the nearest memory
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": f"<document>{long}</document>\n\n{QUESTION}"}]}
    latent = nano.post({"model": "gpt-4o", **chat}, x_clara_mode="latent", x_clara_deadline_ms="60000")
    observed = nano.post({"model": "gpt-4o", **chat}, x_clara_mode="observe", x_clara_deadline_ms="60000")
    before, after = (int(latent.headers[f"x-clara-tokens-{name}"]) for name in ("before", "after"))
    assert before == int(observed.headers["x-clara-tokens-before"])
    assert after == latent.json()["usage"]["prompt_tokens"]
    assert float(latent.headers["x-clara-latency-ms"]) > 1


def test_the_passages_of_a_store_become_memories(nano: Proxy) -> None:
    with openai.OpenAI(base_url=f"{nano.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        store = client.vector_stores.create(name="users")
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("user.txt", MEMORIES[0].encode()), poll_interval_ms=20
        )
        messages: Any = [{"role": "user", "content": QUESTION}]
        answer = client.chat.completions.create(
            model="clara", messages=messages, extra_headers={"x-clara-store": "users"}
        )
        assert "hiking" in str(answer.choices[0].message.content)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="clara", messages=messages, extra_headers={"x-clara-store": "x"})


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_file_search_is_answered_by_clara(nano: Proxy, is_streamed: bool) -> None:
    with openai.OpenAI(base_url=f"{nano.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        store = client.vector_stores.create(name=f"tool {is_streamed}")
        file = ("user.txt", MEMORIES[0].encode())
        client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file, poll_interval_ms=20)
        responses = cast("Any", client.responses)
        tools: Any = [{"type": "file_search", "vector_store_ids": [store.id]}]
        options: Any = {"model": "clara", "input": QUESTION, "tools": tools, "include": ["file_search_call.results"]}
        if is_streamed:
            with responses.stream(**options) as stream:
                events = list(stream)
                response = stream.get_final_response()
            assert "".join(event.delta for event in events if event.type == "response.output_text.delta")
            numbers = [event.sequence_number for event in events]
            assert numbers == sorted(numbers)
        else:
            response = responses.create(**options)
        call, message = response.output
        assert call.type == "file_search_call"
        assert call.queries == [QUESTION]
        assert call.results is not None
        assert call.results[0].filename == "user.txt"
        assert message.type == "message"
        assert "hiking" in response.output_text
        [citation] = message.content[0].annotations
        assert citation.type == "file_citation"
        assert response.usage is not None
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
        again = responses.create(model="clara", input=[*response.output, {"role": "user", "content": "And?"}])
        assert again.status == "completed"


def test_a_response_of_clara_rejects_what_it_cannot_do(nano: Proxy) -> None:
    values: dict[str, Any] = {
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "previous_response_id": "resp_1",
        "text": {"format": {"type": "json_object"}},
        "input": [{"type": "function_call_output", "call_id": "c", "output": "x"}],
    }
    for field, value in values.items():
        answer = nano.post({"model": "clara", "input": QUESTION, field: value}, "/v1/responses")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_field"), field
        assert answer.json()["error"]["param"].startswith(field)
    answer = nano.post({"model": "clara-128", "input": QUESTION}, "/v1/responses")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "frame",
    ["<documents>{}</documents>\n{}", '<doc id="1">\n{}\n</doc>\n{}', "```\n{}\n```\n{}", "```text\n{}\n```\n{}"],
)
def test_the_frame_of_a_memory_is_not_part_of_the_question(frame: str) -> None:
    messages: Any = [{"role": "user", "content": frame.format(MEMORIES[0], QUESTION)}]
    request = latent_chat.parse_chat({"messages": messages})
    assert [text.strip() for text in request.documents] == MEMORIES[:1]
    assert request.question == QUESTION


def test_passages_of_requests_are_never_compressed_with_nano(nano: Proxy) -> None:
    assert nano.post(tool_chat()).headers["x-clara-engine"] == "extract"
    rejected = nano.post(tool_chat(), x_clara_mode="answer")
    assert rejected.status_code == 400
    assert rejected.json()["error"]["code"] == "mode_unavailable"


def test_nano_is_loaded_by_name_and_disabled_by_none(tmp_path: Any) -> None:
    assert Clara.from_pretrained(NANO_NAME, device="cpu").generate([QUESTION], [MEMORIES], 20) == [
        "hiking in national parks"
    ]
    (entry,) = [entry for entry in checkpoints.list_checkpoints() if entry.repo == NANO_NAME]
    assert entry.local is not None
    assert entry.size_bytes < 12_000_000
    assert all(finding.is_ok for finding in checkpoints.verify_checkpoint(NANO_NAME))
    with faulty.run_upstream() as upstream, running.run_proxy(upstream.url, tmp_path, model="none") as proxy:
        assert post(proxy, "/compress", {"memories": MEMORIES, "query": QUESTION}).status_code == 503
        assert httpx.get(f"{proxy.url}/status").json()["model"] is None


def test_without_torch_there_is_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def absent(_: str) -> None:
        return None

    monkeypatch.setattr(local_model, "find_spec", absent)
    with faulty.run_upstream() as upstream, running.run_proxy(upstream.url, tmp_path, model=None) as proxy:
        assert post(proxy, "/compress", {"memories": MEMORIES, "query": QUESTION}).status_code == 503
