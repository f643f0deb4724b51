"""The scripted provider of the agents benchmark speaks each API as the official clients expect, and checks edits."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from clara_proxy.benchmarks.agents import clients, model, workspace
from clara_proxy.benchmarks.agents.conversation import Call, Conversation, Message, Reply
from clara_proxy.benchmarks.agents.upstream import ScriptedUpstream, run_upstream

REPLY = Reply("The answer is in two\nlines.", (Call("run", {"command": "make"}, "call_1"),))
PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}}
EDIT = workspace.EDITS[0]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with run_upstream(lambda _: REPLY) as upstream:
        yield upstream


def test_chat_completions_can_be_read_by_the_sdk(upstream: ScriptedUpstream) -> None:
    client = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="x")
    with client.chat.completions.stream(model="gpt-4o", messages=[{"role": "user", "content": "hi"}]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert (message.content, [call.function.arguments for call in message.tool_calls or ()]) == (
        REPLY.text,
        ['{"command": "make"}'],
    )


def test_responses_can_be_read_by_the_sdk(upstream: ScriptedUpstream) -> None:
    client = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="x")
    with client.responses.stream(model="gpt-5", input="hi") as stream:
        response = stream.get_final_response()
    assert response.output_text == REPLY.text
    assert [item.call_id for item in response.output if item.type == "function_call"] == ["call_1"]


def test_messages_can_be_read_by_the_sdk(upstream: ScriptedUpstream) -> None:
    client = anthropic.Anthropic(base_url=upstream.url, api_key="x")
    body = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
    with client.messages.stream(**body) as stream:  # type: ignore[arg-type]
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert upstream.tokens > 0


def test_a_call_without_a_result_is_refused(upstream: ScriptedUpstream) -> None:
    client = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="x", max_retries=0)
    call = {"id": "call_1", "type": "function", "function": {"name": "run", "arguments": "{}"}}
    with pytest.raises(openai.BadRequestError, match="call_1"):
        client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "assistant", "tool_calls": [call]}],  # type: ignore[list-item]
        )
    assert upstream.refusals


@pytest.mark.parametrize("frame", ["{}", "exit status 0\n{}", "<output>\n{}</output>"])
def test_the_model_finds_a_file_in_an_output(frame: str) -> None:
    text = workspace.build_files()[EDIT.path]
    assert model.find_file_text(EDIT.path, frame.format(text)) == text
    numbered = "".join(f"{number:6}\t{line}\n" for number, line in enumerate(text.splitlines(), start=1))
    assert model.find_file_text(EDIT.path, numbered) == text


def test_a_marker_in_a_file_ends_up_in_the_edit() -> None:
    """So that a damaged file is noticed."""
    lines = workspace.build_files()[EDIT.path].split("\n")
    shown = "\n".join([*lines[:9], "[60 lines left out; clara_expand 0123456789ab]", *lines[-9:]])
    results = (("call_run", "no error"), *((f"call_read_{number}", shown) for number in range(4)))
    conversation = Conversation([Message("tool", "", results=results)], frozenset({"run", "write_file"}))
    reply = model.use_tools(conversation, toolset=clients.SDK, project=Path("/p"), expand=False)
    assert "left out" in str(reply.calls[0].arguments)


def test_every_client_has_a_command_and_a_model() -> None:
    run = clients.Run(Path("/home"), Path("/project"), Path("/packages"), "http://127.0.0.1:1")
    for client in clients.CLIENTS:
        assert client.command(run)
        assert isinstance(client.decide(run.workspace, False)(Conversation([], frozenset())), Reply)  # noqa: FBT003
        assert all(run.url in text for text in client.files(run).values() if text)
