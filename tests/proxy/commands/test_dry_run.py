"""Dry runs of recorded requests save what a running proxy saves."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.config.server_settings import LitellmModel
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands.demo.run import read_conversations
from clara_proxy.proxy.commands.dry_run import DryRunResult, RecordedRequest, open_dry_run, split_recording
from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.proxy.runtime import local_model
from clara_proxy.proxy.stores import accounting
from clara_proxy.proxy.stores.errors import StartupError
from clara_proxy.tests.protocol_bodies import as_messages, as_responses
from clara_proxy.tests.proxy.inprocess import InProcessProxy
from clara_proxy.tests.running import LOG_TEXT, tool_chat

Json = dict[str, Any]
TOOLS = [{"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}]


def dry_run(recorded: RecordedRequest, settings: Settings) -> DryRunResult:
    async def run() -> DryRunResult:
        async with open_dry_run(settings) as opened:
            return await opened.run_request(recorded)

    return asyncio.run(run())


def split(recording: Json) -> list[RecordedRequest]:
    return list(split_recording(recording, "gpt-4o"))


@pytest.mark.parametrize(
    ("body", "protocol", "adapter"),
    [
        (tool_chat(), "chat", chat.ADAPTER),
        (tool_chat(tools=TOOLS), "chat", chat.ADAPTER),
        (as_responses(tool_chat(tools=TOOLS)), "responses", responses.ADAPTER),
        (as_messages(tool_chat(tools=TOOLS)), "messages", messages.ADAPTER),
    ],
)
def test_row_equals_that_of_a_running_proxy(
    tmp_path: Path, body: Json, protocol: str, adapter: ProtocolAdapter
) -> None:
    (recorded,) = split(body)
    assert (recorded.protocol, recorded.body) == (protocol, body)
    row = dry_run(recorded, Settings(data_dir=tmp_path, model="none")).row
    with InProcessProxy(tmp_path, adapter=adapter, offer_tool=bool(body.get("tools"))) as proxy:
        proxy_row = proxy.send(orjson.dumps(body)).row
    assert row.saved_tokens > 1000
    assert row.tokens_received == proxy_row.tokens_received
    assert abs(row.tokens_sent - proxy_row.tokens_sent) <= 4  # the marker has the hash of another owner
    assert accounting.find_inconsistencies(row) == []


def test_model_alias_has_the_prices_and_vocabulary_of_its_model(tmp_path: Path) -> None:
    alias = LitellmModel(name="fast", litellm="gpt-4o")
    alias_result, model_result, unknown = (
        dry_run(split({**tool_chat(), "model": model})[0], Settings(data_dir=tmp_path, model="none", models=models))
        for model, models in (("fast", (alias,)), ("gpt-4o", ()), ("fast", ()))
    )
    assert (alias_result.priced_as, alias_result.row.model) == ("gpt-4o", "fast")
    for figure in ("tokens_received", "tokens_sent", "tokens_estimated", "price_input"):
        assert getattr(alias_result.row, figure) == getattr(model_result.row, figure), figure
    assert (unknown.row.tokens_estimated, unknown.row.price_input) == (True, None)


def test_dry_run_does_not_write_to_the_data_directory(tmp_path: Path) -> None:
    dry_run(split(tool_chat())[0], Settings(data_dir=tmp_path, model="none"))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Settings with a tiny random CLaRa model."""
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    from clara_proxy.tests.compression.clara.tiny import make_checkpoint  # noqa: PLC0415 - it needs torch

    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return {"model": str(folder / "clara"), "base": str(folder / "base"), "backend": "cpu", "deadline_ms": 60_000}


@pytest.mark.parametrize("mode", ["answer", "summary"])
def test_clara_modes_use_the_model(tmp_path: Path, local: Json, mode: Any) -> None:
    chat = tool_chat("")
    chat["messages"][2]["content"] = "The old mill was mended by patient people. " * 90
    row = dry_run(split(chat)[0], Settings(data_dir=tmp_path, mode=mode, **local)).row
    assert (row.mode_used, row.outcome) == (mode, "ok")
    assert row.compressor_tokens > 0  # the model was used
    log = tool_chat("\n".join(LOG_TEXT.split("\n")[:50]))
    row = dry_run(split(log)[0], Settings(data_dir=tmp_path, mode=mode, **local)).row
    assert (row.engine, row.compressor_tokens) == ("extract", 0)  # a model loses too much of logs


def test_mode_latent_answers_or_rejects_like_the_proxy(tmp_path: Path, local: Json) -> None:
    settings = Settings(data_dir=tmp_path, mode="latent", **local)
    text = f"<document>{'the fox the river ' * 20}</document>\n\nthe fox?"
    request: Json = {"messages": [{"role": "user", "content": text}]}
    result = dry_run(split({"model": "gpt-4o", "max_tokens": 4, "stream": True, **request})[0], settings)
    assert (result.row.outcome, result.row.mode_used, result.row.cost, result.rejection) == (
        "served",
        "latent",
        0.0,
        "",
    )
    observed = dry_run(split({"model": "gpt-4o", **request})[0], Settings(data_dir=tmp_path, model="none")).row
    assert result.row.tokens_received == observed.tokens_received
    assert result.row.tokens_sent == result.row.billed_input
    assert accounting.find_inconsistencies(result.row) == []
    rejected = dry_run(split({"model": "gpt-4o", "logprobs": True, **request})[0], settings)
    assert (rejected.row.outcome, rejected.row.status) == ("rejected", 400)
    assert "logprobs" in rejected.rejection
    assert dry_run(split(as_responses(tool_chat()))[0], settings).rejection  # mode latent supports chats only


@pytest.mark.parametrize(("accelerated", "mode"), [(True, "answer"), (False, "extract")])
def test_mode_auto_is_resolved_as_by_the_proxy(
    tmp_path: Path, local: Json, accelerated: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "NVIDIA_DEVICE", tmp_path if accelerated else tmp_path / "none")
    options: Any = {**local, "backend": "auto"}
    settings = Settings(data_dir=tmp_path, **options)
    result = dry_run(split(tool_chat())[0], settings)
    assert (result.row.mode_asked, result.row.mode_used) == ("auto", mode)


@pytest.mark.parametrize(
    ("model", "mode", "message"),
    [("none", "answer", "CLARA_MODEL"), ("none", "latent", "CLARA_MODEL"), ("clara-nano", "summary", "CLARA_MODEL")],
)
def test_unavailable_mode_is_rejected_as_by_the_proxy(tmp_path: Path, model: str, mode: Any, message: str) -> None:
    settings = Settings(data_dir=tmp_path, model=model, mode=mode)
    with pytest.raises(StartupError, match=message) as raised:
        dry_run(split(tool_chat())[0], settings)
    assert str(raised.value) == local_model.describe_unavailable_mode(settings)


def test_conversation_is_split_into_its_requests() -> None:
    conversation = next(read_conversations())
    requests = split(conversation)
    turns = [at for at, one in enumerate(conversation["messages"]) if one["role"] == "assistant" and at]
    assert [one.body["messages"] for one in requests] == [conversation["messages"][:at] for at in turns]
    assert {one.project for one in requests} == {conversation["agent"]}
    assert {one.session for one in requests} == {str(conversation["id"])}
    assert not {"id", "agent"} & requests[0].body.keys()


def test_turn_of_several_items_is_one_request() -> None:
    request: Json = {"type": "message", "role": "user", "content": "why?"}
    call: Json = {"type": "function_call", "call_id": "c", "name": "logs", "arguments": "{}"}
    answer: Json = {"type": "function_call_output", "call_id": "c", "output": "..."}
    reply: Json = {"type": "message", "role": "assistant", "content": "so"}
    requests = split({"model": "m", "input": [request, {"type": "reasoning"}, call, call, answer, answer, reply]})
    assert [len(one.body["input"]) for one in requests] == [1, 6]


def test_batch_file_names_its_protocol() -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    (requests,) = split({"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert requests == RecordedRequest("chat", body, "one")


def test_unknown_recording_is_rejected() -> None:
    with pytest.raises(ValueError, match="messages"):
        split({"prompt": "x"})
