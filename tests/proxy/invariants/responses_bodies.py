"""Hypothesis strategies for request bodies of the Responses API."""

from typing import Any

from hypothesis import strategies as st

from clara_proxy.tests.conversations import Json, long_text, shell_command, short_line, tool_output
from clara_proxy.tests.proxy.protocols import responses_upstream
from clara_proxy.tests.proxy.protocols.responses_upstream import FILE, IMAGE, SHELL_TOOL, UNTOUCHED_ITEMS


@st.composite
def agent_turn(draw: st.DrawFn, number: int) -> list[Json]:
    """The items between a user's text and the answer: calls and their outputs."""
    items: list[Json] = [responses_upstream.reasoning(f"{number}")] if draw(st.booleans()) else []
    for index in range(draw(st.integers(1, 2))):
        call_id = f"call_{number}_{index}"
        output: Any = draw(tool_output)
        if draw(st.booleans()):
            output = [{"type": "input_text", "text": output}, IMAGE]
        items += [
            responses_upstream.call("shell", {"command": draw(shell_command)}, call_id),
            responses_upstream.result(call_id, output),
        ]
    if draw(st.booleans()):
        shell = {"type": "shell_call", "call_id": f"sh_{number}", "action": {"commands": [draw(shell_command)]}}
        outcome = {"type": "exit", "exit_code": 1}
        outputs = [{"stdout": draw(tool_output), "stderr": draw(short_line), "outcome": outcome}]
        items += [shell, {"type": "shell_call_output", "call_id": f"sh_{number}", "output": outputs}]
    return items


@st.composite
def responses_bodies(draw: st.DrawFn) -> Json:
    """A whole request body."""
    items: list[Json] = [{"role": "developer", "content": draw(long_text)}]
    for number in range(draw(st.integers(1, 3))):
        text = f"{draw(short_line)}?\n\n<document>\n{draw(long_text)}\n</document>"
        items += [{"role": "user", "content": [{"type": "input_text", "text": text}, IMAGE, FILE]}]
        items += [*draw(agent_turn(number)), *draw(st.lists(st.sampled_from(UNTOUCHED_ITEMS), max_size=2))]
        items += [responses_upstream.message(draw(tool_output))]
    items += [{"type": "message", "role": "user", "content": draw(short_line), "x_unknown": {"kept": [1, None]}}]
    body: Json = {"model": draw(st.sampled_from(["gpt-4o", "some-model"])), "input": items, "instructions": "Be brief."}
    tools = [SHELL_TOOL, {"type": "web_search"}]
    return body | {"tools": tools, "store": False, "x_unknown_field": {"a": [1, 2.50, "é"]}}
