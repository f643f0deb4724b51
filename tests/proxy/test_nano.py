"""clara-nano, which comes with the package: it answers where no other model was chosen, and stays in its domain."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.locate import NANO_NAME
from clara_proxy.proxy import latent, services
from clara_proxy.proxy.commands import checkpoints
from clara_proxy.tests import faulty, running
from clara_proxy.tests.running import CLIENT_KEY, Proxy, tool_chat

MEMORIES = ["User likes hiking in national parks.", "User works as a software engineer.", "User has a dog named Max."]
QUESTION = "What outdoor activities does the user enjoy?"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        faulty.run_upstream() as upstream,
        running.run_proxy(upstream.url, tmp_path_factory.mktemp("nano"), model=None) as proxy,
    ):
        yield proxy


def post(proxy: Proxy, path: str, body: Any) -> httpx.Response:
    return httpx.post(proxy.url + path, json=body, timeout=60)


def test_the_example_is_answered_and_says_by_whom(nano: Proxy) -> None:
    answer = post(nano, "/compress", {"memories": MEMORIES, "query": QUESTION})
    assert answer.json()["answer"] == "hiking in national parks"
    assert answer.headers["x-clara-engine"] == NANO_NAME
    assert answer.json()["compressed_tokens"] > 0
    assert post(nano, "/embed", {"texts": MEMORIES}).headers["x-clara-engine"] == NANO_NAME
    status = httpx.get(f"{nano.url}/status").json()
    assert (status["model"], status["loaded"]) == (NANO_NAME, True)


def test_it_answers_chats_to_the_model_clara(nano: Proxy) -> None:
    with openai.OpenAI(base_url=f"{nano.url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        asked: Any = [{"role": "user", "content": f"<documents>{MEMORIES[0]}</documents>\n{QUESTION}"}]
        raw = client.chat.completions.with_raw_response.create(model="clara", messages=asked)
        assert raw.headers["x-clara-engine"] == NANO_NAME
        assert "hiking" in str(raw.parse().choices[0].message.content)
        assert {"clara", "clara-16"} <= {one.id for one in client.models.list()}


@pytest.mark.parametrize(
    "frame",
    ["<documents>{}</documents>\n{}", '<doc id="1">\n{}\n</doc>\n{}', "```\n{}\n```\n{}", "```text\n{}\n```\n{}"],
)
def test_what_framed_a_memory_is_not_part_of_the_question(frame: str) -> None:
    listed: Any = [{"role": "user", "content": frame.format(MEMORIES[0], QUESTION)}]
    asked = latent.read({"messages": listed})
    assert [text.strip() for text in asked.documents] == MEMORIES[:1]
    assert asked.question == QUESTION


def test_it_never_condenses_other_peoples_documents(nano: Proxy) -> None:
    assert nano.post(tool_chat()).headers["x-clara-engine"] == "extract"
    refused = nano.post(tool_chat(), x_clara_mode="answer")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "mode_unavailable"


def test_it_can_be_had_by_name_and_be_left_out(tmp_path: Any) -> None:
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


def test_without_torch_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def absent(_: str) -> None:
        return None

    monkeypatch.setattr(services, "find_spec", absent)
    with faulty.run_upstream() as upstream, running.run_proxy(upstream.url, tmp_path, model=None) as proxy:
        assert post(proxy, "/compress", {"memories": MEMORIES, "query": QUESTION}).status_code == 503
