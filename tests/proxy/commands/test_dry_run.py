"""What recorded requests would have saved is what a running proxy does save."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.config.settings import LitellmModel, Settings
from clara_proxy.proxy.commands.demo.run import read_conversations
from clara_proxy.proxy.commands.dry_run import DryRunResult, RecordedRequest, open_dry_run, split_recording
from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.proxy.runtime import services
from clara_proxy.proxy.stores import accounting
from clara_proxy.proxy.stores.errors import StartupError
from clara_proxy.tests.protocol_bodies import as_messages, as_responses
from clara_proxy.tests.proxy.inprocess import InProcessProxy
from clara_proxy.tests.running import LOG_TEXT, tool_chat

Json = dict[str, Any]
TOOLS = [{"type": "function", "function": {"name": "logs", "parameters": {"type": "object"}}}]


def played(recorded: RecordedRequest, chosen: Settings) -> DryRunResult:
    async def done() -> DryRunResult:
        async with open_dry_run(chosen) as stage:
            return await stage.run_request(recorded)

    return asyncio.run(done())


def listed(recording: Json) -> list[RecordedRequest]:
    return list(split_recording(recording, "gpt-4o"))


@pytest.mark.parametrize(
    ("body", "protocol", "wire"),
    [
        (tool_chat(), "chat", chat.ADAPTER),
        (tool_chat(tools=TOOLS), "chat", chat.ADAPTER),
        (as_responses(tool_chat(tools=TOOLS)), "responses", responses.ADAPTER),
        (as_messages(tool_chat(tools=TOOLS)), "messages", messages.ADAPTER),
    ],
)
def test_a_row_is_the_one_that_the_proxy_would_write(
    tmp_path: Path, body: Json, protocol: str, wire: ProtocolAdapter
) -> None:
    (recorded,) = listed(body)
    assert (recorded.protocol, recorded.body) == (protocol, body)
    row = played(recorded, Settings(data_dir=tmp_path, model="none")).row
    with InProcessProxy(tmp_path, adapter=wire, offer_tool=bool(body.get("tools"))) as proxy:
        real = proxy.send(orjson.dumps(body)).row
    assert row.saved_tokens > 1000
    assert row.tokens_received == real.tokens_received
    assert abs(row.tokens_sent - real.tokens_sent) <= 4  # the marker names the original of another owner
    assert accounting.find_inconsistencies(row) == []


def test_a_name_of_the_operator_s_own_has_the_prices_and_the_vocabulary_of_the_model_behind_it(tmp_path: Path) -> None:
    alias = LitellmModel(name="fast", litellm="gpt-4o")
    named, meant, unknown = (
        played(listed({**tool_chat(), "model": model})[0], Settings(data_dir=tmp_path, model="none", models=models))
        for model, models in (("fast", (alias,)), ("gpt-4o", ()), ("fast", ()))
    )
    assert (named.priced_as, named.row.model) == ("gpt-4o", "fast")
    for figure in ("tokens_received", "tokens_sent", "tokens_estimated", "price_input"):
        assert getattr(named.row, figure) == getattr(meant.row, figure), figure
    assert (unknown.row.tokens_estimated, unknown.row.price_input) == (True, None)


def test_nothing_is_written_where_the_proxy_keeps_its_data(tmp_path: Path) -> None:
    played(listed(tool_chat())[0], Settings(data_dir=tmp_path, model="none"))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Settings with a tiny random CLaRa, which says nonsense."""
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    from clara_proxy.tests.compression.clara.tiny import make_checkpoint  # noqa: PLC0415 - it needs torch

    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return {"model": str(folder / "clara"), "base": str(folder / "base"), "backend": "cpu", "deadline_ms": 60_000}


@pytest.mark.parametrize("mode", ["answer", "summary"])
def test_a_mode_of_clara_s_is_the_real_one(tmp_path: Path, local: Json, mode: Any) -> None:
    few = "\n".join(LOG_TEXT.split("\n")[:50])
    row = played(listed(tool_chat(few))[0], Settings(data_dir=tmp_path, mode=mode, **local)).row
    assert (row.mode_used, row.outcome) == (mode, "ok")
    assert row.compressor_tokens > 0  # the model has read and written


def test_in_mode_latent_clara_answers_and_what_it_cannot_do_is_refused(tmp_path: Path, local: Json) -> None:
    chosen = Settings(data_dir=tmp_path, mode="latent", **local)
    text = f"<document>{'the fox the river ' * 20}</document>\n\nthe fox?"
    asked: Json = {"messages": [{"role": "user", "content": text}]}
    done = played(listed({"model": "gpt-4o", "max_tokens": 4, "stream": True, **asked})[0], chosen)
    assert (done.row.outcome, done.row.mode_used, done.row.cost, done.rejection) == ("served", "latent", 0.0, "")
    assert done.row.saved_tokens > 0
    assert accounting.find_inconsistencies(done.row) == []
    refused = played(listed({"model": "gpt-4o", "logprobs": True, **asked})[0], chosen)
    assert (refused.row.outcome, refused.row.status) == ("rejected", 400)
    assert "logprobs" in refused.rejection
    assert played(listed(as_responses(tool_chat()))[0], chosen).rejection  # latent is for chats alone


@pytest.mark.parametrize(("local_model", "backend", "meant"), [("m", "cuda", "answer"), ("m", "cpu", "extract")])
def test_auto_means_what_it_means_to_the_server(tmp_path: Path, local_model: str, backend: Any, meant: str) -> None:
    done = played(listed(tool_chat())[0], Settings(data_dir=tmp_path, model=local_model, backend=backend))
    assert (done.row.mode_asked, done.row.mode_used) == ("auto", meant)


@pytest.mark.parametrize(
    ("model", "mode", "said"),
    [("none", "answer", "CLARA_MODEL"), ("none", "latent", "CLARA_MODEL"), ("clara-nano", "summary", "CLARA_MODEL")],
)
def test_a_mode_that_cannot_be_had_is_refused_as_the_server_does(
    tmp_path: Path, model: str, mode: Any, said: str
) -> None:
    chosen = Settings(data_dir=tmp_path, model=model, mode=mode)
    with pytest.raises(StartupError, match=said) as told:
        played(listed(tool_chat())[0], chosen)
    assert str(told.value) == services.describe_unavailable_mode(chosen)


def test_a_conversation_stands_for_its_requests() -> None:
    conversation = next(read_conversations())
    made = listed(conversation)
    turns = [at for at, one in enumerate(conversation["messages"]) if one["role"] == "assistant" and at]
    assert [one.body["messages"] for one in made] == [conversation["messages"][:at] for at in turns]
    assert {one.project for one in made} == {conversation["agent"]}
    assert {one.session for one in made} == {str(conversation["id"])}
    assert not {"id", "agent"} & made[0].body.keys()


def test_one_turn_of_several_items_is_one_request() -> None:
    asked: Json = {"type": "message", "role": "user", "content": "why?"}
    call: Json = {"type": "function_call", "call_id": "c", "name": "logs", "arguments": "{}"}
    answer: Json = {"type": "function_call_output", "call_id": "c", "output": "..."}
    said: Json = {"type": "message", "role": "assistant", "content": "so"}
    made = listed({"model": "m", "input": [asked, {"type": "reasoning"}, call, call, answer, answer, said]})
    assert [len(one.body["input"]) for one in made] == [1, 6]


def test_a_batch_file_names_its_protocol() -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    (made,) = listed({"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert made == RecordedRequest("chat", body, "one")


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(ValueError, match="messages"):
        listed({"prompt": "x"})
