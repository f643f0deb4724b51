"""Agents without tool messages: their outputs are compressed, and earlier messages stay the same."""

from collections.abc import Callable, Generator
from pathlib import Path

import orjson
import pytest

from clara_proxy.proxy.protocols import messages
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import InProcessProxy

LOG = "\n".join(f"2024-05-01T10:00:{n % 60:02d}Z INFO worker-{n % 7} handled request {n}" for n in range(200))
Step = Callable[[str], Json]


def smolagents_step(output: str) -> Json:
    text = f"Observation:\nExecution logs:\n{output}\nLast output from code snippet:\nNone"
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def gptme_step(output: str) -> Json:
    return {"role": "system", "content": f"Ran command: `make logs`\n\n```stdout\n{output}\n```\n\nReturn code: 2"}


def gptme_anthropic_step(output: str) -> Json:
    text = f"<system>Ran command: `make logs`\n\n```stdout\n{output}\n```\n\nReturn code: 2</system>"
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def cline_step(output: str) -> Json:
    texts = [
        "[execute_command for 'make logs'] Result:",
        output,
        "<environment_details>\n# Mode\n</environment_details>",
    ]
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


STEPS: dict[str, Step] = {"smolagents": smolagents_step, "gptme": gptme_step, "Cline": cline_step}


@pytest.mark.parametrize("agent", STEPS)
def test_outputs_are_compressed_and_earlier_messages_stay(tmp_path: Path, agent: str) -> None:
    conversation: list[Json] = [
        {"role": "system", "content": "You solve tasks with code."},
        {"role": "user", "content": "Which worker is slow?"},
    ]
    previous: list[Json] = []
    with InProcessProxy(tmp_path) as proxy:
        for number in range(3):
            conversation += [
                {"role": "assistant", "content": f"I read the logs, step {number}."},
                STEPS[agent](LOG.replace("request", f"order {number} request")),
            ]
            sent = proxy.send(orjson.dumps({"model": "gpt-4o", "messages": conversation}))
            assert sent.row.saved_tokens > 1000 * (number + 1)
            assert sent.messages[: len(previous)] == previous
            previous = sent.messages
    final = orjson.dumps(previous).decode()
    assert final.count("left out") >= 3
    if agent == "gptme":
        assert final.count("\\n```\\n\\nReturn code: 2") == 3
    if agent == "Cline":
        assert final.count("<environment_details>") == 3


def test_outputs_are_compressed_on_messages(tmp_path: Path) -> None:
    conversation = [
        {"role": "user", "content": "Which worker is slow?"},
        {"role": "assistant", "content": "I read the logs."},
        gptme_anthropic_step(LOG),
    ]
    with InProcessProxy(tmp_path, adapter=messages.ADAPTER) as proxy:
        sent = proxy.send(orjson.dumps({"model": "claude-sonnet-4-5", "max_tokens": 99, "messages": conversation}))
    assert sent.row.saved_tokens > 1000
    assert b"Return code: 2</system>" in sent.forwarded


@pytest.fixture
def proxy(tmp_path: Path) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path, offer_tool=True) as proxy:
        yield proxy


@pytest.mark.parametrize("shape", [{"returncode": 2}, {"stderr": "", "exit_code": 2}])
def test_shell_output_in_json_keeps_its_small_fields(proxy: InProcessProxy, shape: Json) -> None:
    name = "stdout" if "stderr" in shape else "output"
    call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": '{"command":"make logs"}'}}
    chat = [
        {"role": "user", "content": "Which worker is slow?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": orjson.dumps({**shape, name: LOG}).decode()},
    ]
    tool: Json = {"type": "function", "function": {"name": "bash", "parameters": {}}}
    sent = proxy.send(orjson.dumps({"model": "gpt-4o", "messages": chat, "tools": [tool]}))
    content = sent.messages[-1]["content"]
    assert sent.row.saved_tokens > 0.6 * sent.context.received_tokens
    assert all(f'"{key}":{orjson.dumps(value).decode()}' in content for key, value in shape.items())
    assert "clara_expand" in content
