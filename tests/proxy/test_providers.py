"""Models of other providers, by way of litellm: plain, streamed, refused; and no key of a client's ever goes there."""

from collections.abc import Iterator
from typing import Any

import openai
import orjson
import pytest

from clara_proxy.config.settings import Model
from clara_proxy.tests import running
from clara_proxy.tests.faulty import EVENTS, USAGE, Faulty, Wire, chunk, delta, event, response
from clara_proxy.tests.proxy.test_faults import events, leave
from clara_proxy.tests.running import KEY, LOG, PATIENCE, Proxy, short_chat, tool_chat

# How litellm uses pydantic is litellm's business.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*' attribute on the instance:DeprecationWarning"),
]
OTHERS = "sk-provider-0000111122"


@pytest.fixture(scope="module")
def routed(_upstream: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    model = Model(name="house", litellm="openai/some-model", api_key=OTHERS, api_base=f"{_upstream.url}/provider")
    nowhere = "http://127.0.0.1:9/v1"
    folder = tmp_path_factory.mktemp("routed")
    with running.proxy(_upstream.url, folder, upstream_base_url=nowhere, models=(model,), read_timeout=5) as proxy:
        yield proxy


def house(**more: Any) -> dict[str, Any]:
    return short_chat(**{"model": "house", **more})


def keys(upstream: Faulty) -> bytes:
    return b" ".join(value for _, value in upstream.last.headers) + upstream.last.body + upstream.last.line


def test_a_chat_is_answered(routed: Proxy, upstream: Faulty) -> None:
    answer = routed.post(house(temperature=0.5, user="u"), x_api_key=KEY, cookie="s=1")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["choices"][0]["message"]["content"] == "the disk is full"
    assert upstream.last.line == b"POST /provider/chat/completions HTTP/1.1"
    assert upstream.last.all("authorization") == [f"Bearer {OTHERS}".encode()]
    assert upstream.last.json["model"] == "some-model"
    assert upstream.last.json["temperature"] == 0.5
    assert KEY.encode() not in keys(upstream)
    assert not upstream.last.all("cookie")
    row = routed.row(answer)
    assert (row.model, row.outcome, row.billed_input, row.billed_output) == ("house", "ok", 40, 5)


def test_a_chat_is_made_shorter(routed: Proxy, upstream: Faulty) -> None:
    answer = routed.post({**tool_chat(), "model": "house"})
    assert int(answer.headers["x-clara-tokens-saved"]) > 1000
    assert len(upstream.last.json["messages"][2]["content"]) < len(LOG) / 2
    assert upstream.last.json["messages"][2]["tool_call_id"] == "c1"


def test_a_chat_is_streamed(routed: Proxy, upstream: Faulty) -> None:
    answer = routed.post(house(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "x-clara-request-id" in answer.headers
    assert answer.content.endswith(b"data: [DONE]\n\n")
    told = events(answer.content.removesuffix(b"data: [DONE]\n\n"))
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in told) == "the disk is full"
    assert not [one for one in told if one.get("usage")]
    assert upstream.last.json["stream_options"] == {"include_usage": True}
    assert KEY.encode() not in keys(upstream)
    row = routed.row(answer)
    assert (row.outcome, row.streamed, row.billed_input) == ("ok", True, 40)


def test_the_usage_of_a_stream_comes_to_a_client_that_asks(routed: Proxy, upstream: Faulty) -> None:
    made: Any = openai.OpenAI(base_url=f"{routed.url}/v1", api_key=KEY)
    with made as client:
        request = house(stream=True, stream_options={"include_usage": True})
        pieces = list(client.chat.completions.create(**request))
    assert [one.usage.prompt_tokens for one in pieces if one.usage] == [40]


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        *(("400 Bad Request", 400), ("401 Unauthorized", 401), ("404 Not Found", 404), ("429 Too Many Requests", 429)),
        *(("500 Internal Server Error", 500), ("503 Service Unavailable", 503)),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_keeps_its_status(routed: Proxy, upstream: Faulty, status: str, wanted: int, stream: bool) -> None:
    upstream.says(response(orjson.dumps({"error": {"message": "not today", "code": "c"}}), status=status))
    answer = routed.post(house(stream=stream))
    assert answer.status_code == wanted
    assert "not today" in answer.json()["error"]["message"]
    assert len(upstream.heard) == 1
    row = routed.row(answer)
    assert (row.outcome, row.status, row.cost) == ("upstream_error", wanted, None)


def test_a_provider_that_breaks_off_is_an_error_in_the_stream(routed: Proxy, upstream: Faulty) -> None:
    upstream.streams(event(delta("hello")), then=Wire.reset)
    answer = routed.post(house(stream=True))
    assert answer.status_code == 200
    told = events(answer.content)
    assert told[0]["choices"][0]["delta"]["content"] == "hello"
    assert "error" in told[-1]
    assert routed.row(answer).outcome == "upstream_error"


def test_a_provider_that_is_not_there_is_a_server_error(routed: Proxy, upstream: Faulty) -> None:
    async def script(wire: Wire) -> None:
        wire.reset()

    upstream.script = script
    answer = routed.post(house())
    assert answer.status_code >= 500
    assert answer.json()["error"]["message"]
    assert len(upstream.heard) == 1


@pytest.mark.parametrize(
    "field", ["mock_response", "api_base", "base_url", "api_key", "extra_headers", "custom_llm_provider", "fallbacks"]
)
@pytest.mark.parametrize("model", ["house", "anthropic/claude-sonnet-4-5"])
def test_what_would_steer_litellm_is_refused(routed: Proxy, upstream: Faulty, field: str, model: str) -> None:
    for stream in (False, True):
        answer = routed.post(house(model=model, stream=stream, **{field: "http://127.0.0.1:9"}))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field
        assert answer.json()["error"]["code"] == "unsupported_field"
        assert routed.row(answer).outcome == "rejected"
    assert not upstream.heard


def test_a_provider_without_a_key_does_not_get_the_clients(
    routed: Proxy, upstream: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", upstream.url)
    answer = routed.post(house(model="anthropic/claude-sonnet-4-5"), x_api_key=KEY)
    assert answer.status_code == 401
    assert KEY not in answer.text
    assert not [heard for heard in upstream.heard if KEY.encode() in b"".join(value for _, value in heard.headers)]


def test_other_models_go_to_the_upstream(routed: Proxy, upstream: Faulty) -> None:
    assert routed.post(house(model="gpt-4o")).json()["error"]["code"] == "upstream_unreachable"
    assert routed.post(house(model="some/anthropic/x")).json()["error"]["code"] == "upstream_unreachable"
    assert not upstream.heard


def test_a_client_that_leaves_is_not_worked_for(routed: Proxy, upstream: Faulty) -> None:
    upstream.hangs(EVENTS, chunk(event(delta("hello"))))
    leave(routed, "leaves litellm", orjson.dumps(house(stream=True)), after=b"hello")
    assert upstream.left.wait(PATIENCE)
    assert routed.row("leaves litellm").outcome == "cancelled"
    upstream.reset()
    upstream.hangs()
    leave(routed, "waits for litellm", orjson.dumps(house()))
    assert upstream.left.wait(PATIENCE)
    assert routed.row("waits for litellm").outcome == "cancelled"


def test_tools_and_bills_come_back(routed: Proxy, upstream: Faulty) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":"é"}'}}
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    said = {"id": "1", "object": "chat.completion", "created": 1, "model": "some-model", "usage": USAGE}
    upstream.says(response(orjson.dumps({**said, "choices": [{**choice, "finish_reason": "tool_calls"}]})))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    answer = routed.post(house(tools=tools, tool_choice="auto", n=1, seed=7))
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"] == call["function"]
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert upstream.last.json["tools"][:-1] == tools
