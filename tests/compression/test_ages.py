"""When an output is old, and what stays of it."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import ages, dedup, markers, policy
from clara_proxy.compression.ages import DEFAULT_STALE_AFTER_TOKENS, NEVER, STALE_AFTER_TOKENS, StalenessIndex
from clara_proxy.compression.policy import CompressionPlan, Decision, Rules
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.compression.transcript import Role, TextSlot, ToolCall, Turn
from clara_proxy.tests.compression import test_policy

COUNTED = get_token_counter("gpt-4o")
RULES = replace(test_policy.RULES, ratio=None, min_tokens=150, epoch_price=0.5)
CODE = "\n".join(f"    order_{at} = queue.take(worker={at % 7}, timeout={at * 3})" for at in range(60))
LOG = "\n".join(f"2024-05-01 10:00:{at % 60:02d} INFO request {at} handled by worker {at % 7}" for at in range(400))


def turn(role: Role, text: str, call: ToolCall | None = None) -> Turn:
    return Turn(role, (TextSlot((role, text), text),), call)


def shell(command: str) -> ToolCall:
    return ToolCall("shell", json.dumps({"command": command}))


def step(command: str, output: str) -> list[Turn]:
    return [turn("assistant", f"Now {command}"), turn("tool", output, shell(command))]


def talk(*commands: tuple[str, str]) -> list[Turn]:
    return [turn("user", "Fix it."), *(part for command in commands for part in step(*command))]


def plan(turns: list[Turn], rules: Rules = RULES) -> CompressionPlan:
    dedup.clear_conversations()
    return policy.plan_compression(turns, rules, COUNTED, has_tools=True)


def old(planned: CompressionPlan) -> list[int]:
    return [one.passage.turn_index for one in planned.decisions if one.reason == "old"]


def test_what_is_not_code_is_old_once_enough_has_followed() -> None:
    when = StalenessIndex([10, 500, 0, DEFAULT_STALE_AFTER_TOKENS - 1, 0, 1, 0], {})
    assert when.stale_after(1, "log", "") == 6
    assert when.stale_after(3, "log", "") == NEVER


def test_code_is_old_once_its_file_was_read_again_and_enough_has_followed() -> None:
    tokens = [10, 500, STALE_AFTER_TOKENS["code"], 0, 500, 0]
    one, other = '{"command": "cat src/app.py"}', '{"command": "cat src/main.py"}'
    assert StalenessIndex(tokens, {1: one}).stale_after(1, "code", one) == NEVER
    assert StalenessIndex(tokens, {1: one, 4: other}).stale_after(1, "code", one) == NEVER
    assert StalenessIndex(tokens, {1: one, 4: one}).stale_after(1, "code", one) == 5
    assert StalenessIndex([*tokens[:2], 0, 0, 500, 0], {1: one, 4: one}).stale_after(1, "code", one) == NEVER


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ('{"command": "sed -n 1,9p src/app.py | head"}', {"app.py"}),
        ('{"path": "/repo/src/app.py"}', {"app.py"}),
        ('{"command": "cat Makefile ./LICENSE"}', {"LICENSE"}),
        ('{"command": "make"}', set[str]()),
        ("", set[str]()),
    ],
)
def test_files_are_known_by_name(call: str, named: set[str]) -> None:
    assert ages.extract_file_names(call) == named


@given(st.text(min_size=1))
def test_of_an_old_output_its_beginning_stays_and_the_rest_is_counted(text: str) -> None:
    left = ages.keep_first_line(text)
    kept = left.parts[0]
    assert isinstance(kept, str)
    assert len(kept) <= ages.HEAD_CHARACTERS
    assert text.lstrip("\n").startswith(kept)
    assert "left out" in markers.render(left, None)


def test_old_outputs_go_and_the_newest_stay() -> None:
    turns = talk(("make", LOG), *((f"cat part{at}.py", CODE) for at in range(3)))
    turns += [turn for at in range(30) for turn in step(f"echo {at}", "done " * 40)]
    planned = plan(turns)
    assert old(planned) == [2]
    (one,) = [one for one in planned.decisions if one.reason == "old"]
    assert one.replacement is not None
    assert markers.render(one.replacement, None) == LOG.split("\n", 1)[0] + "\n[399 lines left out]"
    assert 0 < planned.epoch_ends[1] < len(turns)


def test_without_a_price_everything_stays() -> None:
    turns = talk(("make", LOG), *((f"echo {at}", "done " * 100) for at in range(60)))
    assert old(plan(turns))
    assert not old(plan(turns, replace(RULES, epoch_price=0)))


@pytest.mark.parametrize("call", [ToolCall("secret", "{}"), ToolCall("clara_expand", '{"id": "0123456789ab"}')])
def test_what_is_protected_or_was_fetched_back_stays(call: ToolCall) -> None:
    rest = talk(*((f"echo {at}", "done " * 100) for at in range(60)))[1:]
    turns = [turn("user", "Fix it."), turn("assistant", "Now."), turn("tool", LOG, call), *rest]
    assert 2 not in old(plan(turns))
    turns[2] = turn("tool", LOG, shell("make"))
    assert 2 in old(plan(turns))


def test_a_repeat_of_what_is_old_stands_for_itself_again() -> None:
    again = [("cat app.py", CODE), ("cat other.py", CODE.replace("order", "parcel"))]
    turns = talk(*again, *((f"make {at}", f"{at}\n{LOG}") for at in range(3)), *again)
    turns += talk(*((f"echo {at}", "done " * 160) for at in range(150)))[1:]
    planned = plan(turns)
    by_turn: dict[int, Decision] = {one.passage.turn_index: one for one in planned.decisions}
    assert by_turn[2].reason == "old"
    assert by_turn[12].reason == "file-read"
    assert by_turn[12].replacement is None
    fresh = {one.passage.turn_index: one for one in plan(turns[:14]).decisions}
    assert fresh[2].reason == "file-read"
    assert fresh[12].replacement is not None


COMMANDS = st.sampled_from(["cat app.py", "cat other.py", "make", "pytest -q", "git diff", "secret"])
OUTPUTS = st.sampled_from([CODE, LOG, CODE[:1500], LOG[:6000], "done", "x" * 900])


@given(st.lists(st.tuples(COMMANDS, OUTPUTS), min_size=1, max_size=30), st.floats(0.05, 3))
def test_prefix_decisions_change_only_where_an_epoch_ends(steps: list[tuple[str, str]], price: float) -> None:
    turns = talk(*steps)
    chosen = replace(RULES, epoch_price=price)
    before: list[Decision] = []
    epoch = (0, 0)
    for upto in range(1, len(turns) + 1):
        planned = policy.plan_compression(turns[:upto], chosen, COUNTED, has_tools=True)
        assert planned.epoch_ends >= epoch
        if planned.epoch_ends == epoch:
            assert planned.decisions[: len(before)] == before
        elif turns[upto - 1].role == "assistant":
            assert planned.prefix_changed
        before, epoch = planned.decisions, planned.epoch_ends
