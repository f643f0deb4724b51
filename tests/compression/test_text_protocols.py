"""Outputs of tools in user and system messages, as agents without tool messages send them."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from clara_proxy.compression import passages, planning, text_protocols
from clara_proxy.compression.passages import Passage, PassageOptions
from clara_proxy.compression.policy import Rules, compute_kind_target
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.compression.transcript import Role, TextSlot, ToolCall, Turn

LOG = "\n".join(f"2024-05-01T10:00:{n % 60:02d}Z INFO worker-{n % 7} handled request {n}" for n in range(90))
OTHER_LOG = LOG.replace("INFO", "WARN")
TOKENS = get_token_counter("gpt-4o")
RULES = Rules(
    ratio=None,
    min_tokens=100,
    roles=frozenset({"tool", "user", "assistant"}),
    budget=None,
    query=None,
    protected_tools=frozenset(),
    file_tools=frozenset(),
    epoch_tokens=10**9,
    can_fetch=False,
)
MESSAGES: dict[str, tuple[Role, str]] = {
    "smolagents": ("user", "Observation:\nExecution logs:\n{}\nLast output from code snippet:\nNone"),
    "smolagents, older": ("user", "Call id: call_1\nObservation:\n{}"),
    "LlamaIndex": ("user", "Observation: {}"),
    "SWE-agent": ("user", "OBSERVATION:\n{}\n"),
    "OpenHands": ("user", "EXECUTION RESULT of [execute_bash]:\n{}"),
    "Cline": ("user", "[execute_command for 'make logs'] Result:\n\n{}"),
    "gptme": ("system", "Ran command: `make logs`\n\n```stdout\n{}\n```\n\nReturn code: 2"),
    "gptme, Anthropic": ("user", "<system>Ran allowlisted command: `make logs`\n\n```stdout\n{}\n```\n</system>"),
    "gptme, python": ("system", "Executed code block.\n\n```\n{}\n```"),
    "mini-swe-agent": ("user", "<returncode>2</returncode>\n<output>\n{}\n</output>"),
    "Hermes": ("user", "<tool_response>\n{}\n</tool_response>"),
    "function results": ("user", "<function_results>\n{}\n</function_results>"),
    "plain": ("user", "Tool output (exit code 2):\n{}"),
    "terminal": ("user", "Terminal output:\n{}\n\nWhat is wrong here?"),
}


def turn(role: Role, *texts: str) -> Turn:
    return Turn(role, tuple(TextSlot((role, *texts, index), text) for index, text in enumerate(texts)))


def is_long(text: str) -> bool:
    return len(text) > 600


def find(turns: Sequence[Turn]) -> list[Passage]:
    results, _ = passages.find_passages(turns, PassageOptions(has_tools=False, is_long=is_long))
    return [passage for passage in results if passage.role == "tool"]


@pytest.mark.parametrize("agent", MESSAGES)
def test_output_in_a_message_is_a_passage_with_its_question(agent: str) -> None:
    role, shape = MESSAGES[agent]
    turns = [turn("user", "Which worker is slow?"), turn("assistant", "make logs"), turn(role, shape.format(LOG))]
    (passage,) = find(turns)
    assert (
        passage.text.startswith(LOG) or passage.text == f"Execution logs:\n{LOG}\nLast output from code snippet:\nNone"
    )
    assert passage.question.startswith("Which worker is slow?\nmake logs")
    assert "What is wrong" not in passage.text
    assert passage.kind == "tool"


@pytest.mark.parametrize("agent", MESSAGES)
def test_output_in_a_message_is_compressed_by_its_kind_and_stays_so(agent: str) -> None:
    role, shape = MESSAGES[agent]
    turns = [turn("user", "Which worker is slow?")]
    for text in (LOG, OTHER_LOG, LOG.replace("request", "order")):
        turns += [turn("assistant", "make logs"), turn(role, shape.format(text))]
    plans = [planning.plan_compression(turns[:end], RULES, TOKENS, has_tools=False) for end in (3, 5, 7)]
    outcomes = [[d for d in plan.decisions if d.passage.role == "tool"] for plan in plans]
    assert [len(outcome) for outcome in outcomes] == [1, 2, 3]
    assert outcomes[1][:1] == outcomes[0]
    assert outcomes[2][:2] == outcomes[1]
    for decision in outcomes[2]:
        assert decision.reason is None
        assert decision.target == compute_kind_target("log", decision.tokens)
        assert decision.target < decision.tokens


@pytest.mark.parametrize("agent", MESSAGES)
def test_message_before_any_reply_is_the_task(agent: str) -> None:
    role, shape = MESSAGES[agent]
    assert find([turn(role, shape.format(LOG))]) == []


def test_mark_names_the_call() -> None:
    mark = "[{} for '{}'] Result:"
    task, reply = turn("user", "task"), turn("assistant", "ok")
    (read,) = find([task, reply, turn("user", mark.format("read_file", "src/a.py"), f"\n{LOG}")])
    assert read.call == ToolCall("read_file", '{"path": "src/a.py"}')
    assert read.text == f"\n{LOG}"
    rules = replace(RULES, file_tools=frozenset({"read_file"}))
    plan = planning.plan_compression(
        [task, reply, turn("user", mark.format("read_file", "a.py") + LOG)], rules, TOKENS, has_tools=True
    )
    assert [decision.reason for decision in plan.decisions][-1] == "file-read"


def test_command_of_a_user_of_aider_is_an_output() -> None:
    (passage,) = find([turn("user", f"I ran this command:\n\nmake logs\n\nAnd got this output:\n\n{LOG}\n\n")])
    assert (passage.text, passage.call) == (LOG, ToolCall("shell", '{"command": "make logs"}'))


TASK = "Answer the question.\n\n[[ ## question ## ]]\nWhich worker is slow?\n\n[[ ## trajectory ## ]]\n"
DSPY_STEP = (
    "[[ ## thought_{n} ## ]]\nI look at the logs {n}.\n\n[[ ## tool_name_{n} ## ]]\nlogs\n\n"
    "[[ ## tool_args_{n} ## ]]\n{{}}\n\n[[ ## observation_{n} ## ]]\n{log}\n\n"
)
DSPY_END = "Respond with the corresponding output fields, starting with the field `[[ ## next_thought ## ]]`."
REACT_TASK = "Use this format:\nAction: a tool\nObservation: the result\n\nQuestion: Which worker is slow?\n"
REACT_STEP = "Thought: I look {n}.\nAction: logs\nAction Input: {{}}\nObservation: {log}\n"


@pytest.mark.parametrize(
    ("task", "step", "end"),
    [(TASK, DSPY_STEP, DSPY_END), (REACT_TASK, REACT_STEP, "Thought:")],
    ids=["DSPy", "LangChain"],
)
def test_outputs_in_a_growing_text_stay_the_same(task: str, step: str, end: str) -> None:
    runs: list[list[tuple[str, str]]] = []
    for count in range(1, 4):
        text = task + "".join(step.format(n=n, log=LOG.replace("request", f"order {n}")) for n in range(count)) + end
        outputs = [passage for passage in find([turn("user", text)]) if len(passage.text) > 100]
        assert [passage.text for passage in outputs] == [LOG.replace("request", f"order {n}") for n in range(count)]
        assert all("Which worker is slow?" in passage.question for passage in outputs)
        runs.append([(passage.text, passage.question) for passage in outputs])
    assert runs[2][:2] == runs[1]
    assert runs[1][:1] == runs[0]


@pytest.mark.parametrize(
    "text",
    [
        f"I observed this:\n{LOG}",
        f"[1] {LOG}",
        f"<doc>{LOG}</doc>",
        f"Ran out of ideas.\n{LOG}",
        f"Results:\n{LOG}",
        f"<clara:keep>Observation:\n{LOG}</clara:keep>",
        "",
    ],
)
def test_other_messages_are_no_outputs(text: str) -> None:
    assert find([turn("user", "task"), turn("assistant", "ok"), turn("user", text)]) == []


@pytest.mark.parametrize(
    "unit",
    ["<output>", "</output>", "```\n", "Observation:", "\nObservation:", "[[ ## observation_0 ## ]]\n", "\n\n", " "],
)
@pytest.mark.parametrize("start", ["", "Observation:", "<output>", "Ran command", "Action:\n", "[a] Result:"])
def test_hostile_text_takes_linear_time(start: str, unit: str) -> None:
    text = start + unit * (400_000 // len(unit))
    started = time.thread_time()
    text_protocols.find_message_outputs(text)
    text_protocols.find_embedded_outputs(text)
    assert time.thread_time() - started < 2
