"""The sidecar contract: requests to `/v1/compress`, their responses, and fetching originals back."""

import time
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression.compressor import CompressedPassage, Compressor, Task
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.endpoints import compress_api
from clara_proxy.proxy.http import litellm_providers
from clara_proxy.proxy.protocols.offload import INLINE_BYTES
from clara_proxy.tests import running
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.inprocess import FakeCompressor
from clara_proxy.tests.running import CLIENT_KEY, LOG_TEXT, Proxy, short_chat, tool_chat

ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"
DOCUMENTS = "Which city is it?\n\n<document>\n" + "\n\n".join(
    f"Town number {number} is on a river and has {number * 37} people who bake bread. " * 6 for number in range(30)
)
property_settings = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def compress(proxy: Proxy, chat: Json | None = None, /, **config: Any) -> httpx.Response:
    chat = tool_chat() if chat is None else chat
    body = {"messages": chat["messages"], "model": chat["model"]}
    body |= {"config": config} if config else {}
    return proxy.post(body, "/v1/compress", x_clara_deadline_ms="60000")  # the machine may be busy


def retrieve(proxy: Proxy, name: str, key: str = CLIENT_KEY, **more: Any) -> httpx.Response:
    return httpx.get(f"{proxy.url}/v1/retrieve/{name}", headers={"authorization": f"Bearer {key}"}, **more)


def get_last_content(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["messages"][-1]["content"])


def test_response_and_ledger_row_agree(proxy: Proxy, upstream: FaultyUpstream) -> None:
    answer = compress(proxy, session_id="gateway")
    answer_json = answer.json()
    assert answer_json["messages"][:2] == tool_chat()["messages"][:2]
    assert "ERROR disk full" in get_last_content(answer)
    assert answer_json["tokens_before"] - answer_json["tokens_after"] == answer_json["tokens_saved"] > 5000
    assert answer_json["compression_ratio"] == answer_json["tokens_after"] / answer_json["tokens_before"]
    assert (answer_json["compression_skipped"], answer_json["skip_reason"]) == (False, None)
    assert answer_json["transforms_applied"] == ["extract:tool"]
    row = proxy.wait_for_row(answer)
    assert (row.protocol, row.outcome, row.status, row.session) == ("compress", "served", 200, "gateway")
    assert (row.tokens_received, row.tokens_sent) == (answer_json["tokens_before"], answer_json["tokens_after"])
    assert not upstream.requests


def test_only_the_same_key_fetches_the_original_back(proxy: Proxy) -> None:
    answer = compress(proxy)
    (name,) = answer.json()["ccr_hashes"]
    assert name in get_last_content(answer)
    assert retrieve(proxy, name).json()["original_content"] == ORIGINAL
    assert retrieve(proxy, name.upper()).json()["original_content"] == ORIGINAL
    for body in ({"hash": name}, {"hash": name, "lines": "1-401"}):
        assert proxy.post(body, "/v1/retrieve").json() == {"hash": name, "original_content": ORIGINAL}
    excerpt = proxy.post(b"", f"/v1/retrieve/{name}?query=disk").json()["original_content"]
    assert excerpt.endswith("401:2024-01-01 ERROR disk full on /dev/sda1")
    assert retrieve(proxy, name, key="sk-another").status_code == 404


def test_an_unknown_original_is_a_404_and_leaves_a_row(proxy: Proxy) -> None:
    answer = proxy.post(b"", "/v1/retrieve/" + "0" * 24, x_clara_session="gone")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    row = proxy.wait_for_row("gone")
    assert (row.protocol, row.status, row.outcome, row.fetched_back_tokens) == ("retrieve", 404, "rejected", 0)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"hash": 3}', b'{"query": "x"}'])
def test_a_body_without_a_hash_is_rejected(proxy: Proxy, body: bytes) -> None:
    assert proxy.post(body, "/v1/retrieve").status_code == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        ({"model": "gpt-4o"}, "messages"),
        ({"model": "gpt-4o", "messages": "text"}, "messages"),
        ({"model": "gpt-4o", "messages": [{"role": "nobody", "content": "x"}]}, "messages"),
        ({"messages": []}, "model"),
        ({"messages": [], "model": 3}, "model"),
        (b'{"model": "m", "messages": [{"role": "user", "x": ' + b"[" * 1000 + b"]" * 1000 + b"}]}", "messages"),
        ({"messages": [], "model": "m", "config": []}, "config"),
        ({"messages": [], "model": "m", "config": {"mode": "loud"}}, "config.mode"),
        ({"messages": [], "model": "m", "config": {"frozen_message_count": -1}}, "config.frozen_message_count"),
        ({"messages": [], "model": "m", "config": {"frozen_message_count": True}}, "config.frozen_message_count"),
        ({"messages": [], "model": "m", "config": {"target_ratio": 0}}, "config.target_ratio"),
        ({"messages": [], "model": "m", "config": {"session_id": " "}}, "config.session_id"),
    ],
)
def test_an_invalid_field_is_a_400_that_names_it(proxy: Proxy, body: Any, param: str | None) -> None:
    answer = proxy.post(body, "/v1/compress", x_clara_session=f"bad {param}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (row := proxy.wait_for_row(f"bad {param}")).outcome == "rejected"
    assert row.status == 400


@pytest.mark.parametrize("content", [None, 5, [], {"a": 1}, [None, 3, {"type": "tool_result"}], [{"text": 7}]])
@pytest.mark.parametrize("role", ["user", "assistant", "tool", "function", "system"])
def test_unusual_messages_are_returned_unchanged(proxy: Proxy, role: str, content: Any) -> None:
    message: Json = {
        "role": role,
        "content": content,
        "tool_calls": [3, {}],
        "big": 10**30,
        "x": 0.1,
        "tool_call_id": None,
    }
    answer = compress(proxy, {"model": "gpt-4o", "messages": [message, message]})
    assert answer.status_code == 200
    assert answer.json()["messages"] == [message, message]


def test_an_unchanged_request_has_a_skip_reason(proxy: Proxy) -> None:
    empty: Json = {"model": "gpt-4o", "messages": []}
    for chat, reason in ((empty, "nothing-to-leave-out"), (short_chat(), "too-short")):
        answer_json = compress(proxy, chat).json()
        assert answer_json["messages"] == chat["messages"]
        assert (answer_json["tokens_saved"], answer_json["compression_ratio"], answer_json["ccr_hashes"]) == (
            0,
            1.0,
            [],
        )
        assert (answer_json["compression_skipped"], answer_json["skip_reason"]) == (True, reason)


@pytest.mark.parametrize("header", ["x_clara_bypass", "x_headroom_bypass"])
def test_bypass_headers_leave_all_messages_unchanged(proxy: Proxy, header: str) -> None:
    chat = tool_chat()
    answer = proxy.post({"messages": chat["messages"], "model": "gpt-4o"}, "/v1/compress", **{header: "true"})
    assert answer.json()["messages"] == chat["messages"]
    assert answer.json()["skip_reason"] == "bypass"


def test_inline_modes_return_no_hashes(proxy: Proxy) -> None:
    chat = tool_chat()
    answers = [compress(proxy, chat, mode="lossy_inline"), compress(proxy, chat, mode="lossless_then_lossy")]
    answers.append(
        proxy.post({"messages": chat["messages"], "model": "gpt-4o"}, "/v1/compress", x_clara_retrieve="none")
    )
    for answer in answers:
        assert answer.json()["tokens_saved"] > 5000
        assert answer.json()["ccr_hashes"] == []
        assert "/v1/retrieve/" not in get_last_content(answer)


def test_a_hash_in_the_original_text_is_not_returned(proxy: Proxy) -> None:
    forged = "see GET /v1/retrieve/0123456789abcdef"
    answer = compress(proxy, tool_chat(f"{LOG_TEXT}\nERROR {forged}"))
    (name,) = answer.json()["ccr_hashes"]
    assert name != "0123456789abcdef"
    assert retrieve(proxy, name).status_code == 200


def test_each_changed_message_is_searched_once_for_hashes(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Json] = []
    find = compress_api._find_hashes  # pyright: ignore[reportPrivateUsage]

    def record_search(message: Json) -> list[str]:
        searched.append(message)
        return find(message)

    monkeypatch.setattr(compress_api, "_find_hashes", record_search)
    commits = "\n".join(
        f"{number:016x} someone changed something on day {number * 7 % 365}" for number in range(12_000)
    )
    answer = compress(proxy, tool_chat(commits), target_ratio=0.8).json()
    assert answer["tokens_saved"] > 0
    assert len(searched) == 2
    assert len(commits) > INLINE_BYTES  # so a thread serializes the answer


def test_modes_of_the_proxy(proxy: Proxy) -> None:
    observed = compress(proxy, mode="observe").json()
    assert observed["messages"] == tool_chat()["messages"]
    assert observed["tokens_saved"] == 0
    assert observed["would_save"] > 5000
    assert compress(proxy, mode="off").json()["messages"] == tool_chat()["messages"]
    assert compress(proxy, mode="summary").status_code == 400  # no model is configured


def test_target_ratio_is_a_share_or_a_compression_ratio(proxy: Proxy) -> None:
    share, ratio = compress(proxy, target_ratio=0.05).json(), compress(proxy, target_ratio=20).json()
    assert share["messages"] == ratio["messages"]
    assert share["tokens_after"] < compress(proxy, target_ratio=0.5).json()["tokens_after"]


def test_user_messages_can_be_excluded(proxy: Proxy) -> None:
    chat: Json = {"model": "gpt-4o", "messages": [{"role": "user", "content": f"{DOCUMENTS}\n</document>"}]}
    assert compress(proxy, chat, compress_user_messages=False).json()["messages"] == chat["messages"]
    assert compress(proxy, chat, compress_user_messages=True).json()["tokens_saved"] > 0


def test_recent_messages_can_be_excluded(proxy: Proxy) -> None:
    assert compress(proxy, protect_recent=1).json()["messages"] == tool_chat()["messages"]
    assert compress(proxy, protect_recent=9).json()["messages"] == tool_chat()["messages"]
    later = {**tool_chat(), "messages": [*tool_chat()["messages"], *short_chat()["messages"]]}
    assert compress(proxy, later, protect_recent=1).json()["tokens_saved"] > 5000


def test_a_frozen_message_is_still_the_question(proxy: Proxy) -> None:
    free, frozen = compress(proxy), compress(proxy, frozen_message_count=2)
    assert frozen.json()["messages"] == free.json()["messages"]


def test_anthropic_messages_are_compressed(proxy: Proxy) -> None:
    call: Json = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "logs", "input": {}}]}
    block = {"type": "tool_result", "tool_use_id": "t1", "content": ORIGINAL, "cache_control": {"type": "ephemeral"}}
    chat: Json = {
        "model": "claude-sonnet-4-5",
        "messages": [{"role": "user", "content": "why?"}, call, {"role": "user", "content": [block]}],
    }
    answer_json = compress(proxy, chat).json()
    assert answer_json["messages"][:2] == chat["messages"][:2]
    assert {**answer_json["messages"][2]["content"][0], "content": ORIGINAL} == block
    (name,) = answer_json["ccr_hashes"]
    assert retrieve(proxy, name).json()["original_content"] == ORIGINAL
    assert compress(proxy, chat, frozen_message_count=3).json()["messages"] == chat["messages"]


@property_settings
@given(chat=chats(tags=False), data=st.data())
def test_invariants_hold(proxy: Proxy, chat: Json, data: st.DataObject) -> None:
    messages = chat["messages"]
    frozen = data.draw(st.integers(0, len(messages) + 1))
    answer_json = compress(proxy, chat, frozen_message_count=frozen, min_tokens=100).json()
    new = answer_json["messages"]
    assert new[:frozen] == messages[:frozen]
    assert [{**message, "content": None} for message in new] == [{**message, "content": None} for message in messages]
    count = get_token_counter(chat["model"]).count
    for old, rewritten in zip(messages, new, strict=True):
        if old["role"] in {"system", "developer"}:
            assert rewritten == old
        if isinstance(old.get("content"), str):
            assert count(rewritten["content"]) <= count(old["content"])
    all_texts = [text for message in messages for text in texts(message)]
    for name in answer_json["ccr_hashes"]:
        original = retrieve(proxy, name).json()["original_content"]
        assert any(original in text for text in all_texts)
        assert any(name in text for message in new[frozen:] for text in texts(message))


@property_settings
@given(chat=chats(tags=False), data=st.data())
def test_prefix_stays_identical_as_the_conversation_grows(proxy: Proxy, chat: Json, data: st.DataObject) -> None:
    chat = chat | {"model": "gpt-4o"}  # its window is so large that no history is pruned
    length = data.draw(st.integers(1, len(chat["messages"])))
    first = compress(proxy, {**chat, "messages": chat["messages"][:length]}, session_id="grows").json()["messages"]
    grown = compress(proxy, chat, session_id="grows").json()["messages"]
    assert grown[:length] == first
    resent = {**chat, "messages": [*first, *chat["messages"][length:]]}
    assert compress(proxy, resent, frozen_message_count=length).json()["messages"][:length] == first


def texts(message: Json) -> list[str]:
    content: Any = message.get("content")
    parts: list[Any] = [{"text": content}] if isinstance(content, str) else (content or [])
    return [str(part.get("text", "")) for part in parts]


def find_late_compressor(_: str) -> Compressor:
    def sleep(_: Task) -> CompressedPassage | None:
        time.sleep(0.4)
        return None

    return FakeCompressor(sleep)


def test_late_passages_are_unchanged_or_a_503(upstream: FaultyUpstream, tmp_path: Path) -> None:
    with running.run_proxy(upstream.url, tmp_path, find_late_compressor) as proxy:
        answer_json = compress(proxy, tool_chat("one\n" + LOG_TEXT), deadline_ms=20).json()
        assert answer_json["messages"] == tool_chat("one\n" + LOG_TEXT)["messages"]
        assert (answer_json["compression_skipped"], answer_json["skip_reason"]) == (True, "compression_timeout")
        body = {"messages": tool_chat("two\n" + LOG_TEXT)["messages"], "model": "gpt-4o"}
        closed = proxy.post(body, "/v1/compress", x_clara_deadline_ms="20", x_clara_fail="closed")
        assert (closed.status_code, closed.json()["error"]["code"]) == (503, "compression_failed")
        timed_out = compress(proxy, tool_chat("three\n" + LOG_TEXT), deadline_ms=20, session_id="mine")
        assert (timed_out.status_code, timed_out.json()["error"]["code"]) == (503, "compression_timeout")
        assert timed_out.headers["retry-after"] == "1"
        assert proxy.wait_for_row("mine").outcome == "failed"
        again = compress(proxy, tool_chat("three\n" + LOG_TEXT), deadline_ms=20_000, session_id="mine")
        assert again.json()["messages"] == tool_chat("three\n" + LOG_TEXT)["messages"]


@pytest.fixture(scope="module")
def guardrail() -> Any:
    litellm_providers.import_litellm()
    return import_module("litellm.proxy.guardrails.guardrail_hooks.headroom.headroom").HeadroomGuardrail


async def test_litellms_guardrail_compresses_and_retrieves(guardrail: Any, proxy: Proxy) -> None:
    """LiteLLM's own class; benchmarks/litellm_sidecar does the same with LiteLLM's whole proxy."""
    client = guardrail(api_base=proxy.url, api_key=CLIENT_KEY, guardrail_name="clara")
    messages = [*tool_chat()["messages"], {"role": "assistant", "content": "So."}, *short_chat()["messages"]]
    request: Json = {"model": "gpt-4o", "messages": messages, "litellm_call_id": "call"}
    inputs = {"structured_messages": deepcopy(messages), "tools": None}
    result = await client.apply_guardrail(inputs, request, "request")
    compressed = result["structured_messages"]
    assert [message for index, message in enumerate(compressed) if index != 2] == messages[:2] + messages[3:]
    assert len(compressed[2]["content"]) < len(ORIGINAL) / 2
    assert [tool["function"]["name"] for tool in result["tools"]] == ["headroom_retrieve"]
    (name,) = client._issued_hashes_by_call_id["call"][0]
    assert await client._call_retrieve(name) == ORIGINAL
    assert (
        await client._call_retrieve(name, "disk full")
        == retrieve(proxy, name, params={"query": "disk full"}).json()["original_content"]
    )
    assert "not found" in await client._call_retrieve("0" * 16)
    await client.async_handler.close()
