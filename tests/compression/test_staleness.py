"""Ends of epochs, stale outputs and pruning: they depend on the past only, and never move back."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import dedup, markers, planning, staleness
from clara_proxy.compression.planning import CompressionPlan
from clara_proxy.compression.policy import Decision, Rules
from clara_proxy.compression.staleness import (
    DEFAULT_STALE_AFTER_TOKENS,
    NEVER,
    STALE_AFTER_TOKENS,
    MessageTokens,
    StalenessIndex,
)
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.compression.transcript import Role, TextSlot, ToolCall, Turn
from clara_proxy.tests.compression import test_policy

PRICE = 11.5
TOKENS = get_token_counter("gpt-4o")
RULES = replace(test_policy.RULES, ratio=None, min_tokens=150, epoch_price=0.5)
CODE = "\n".join(f"    order_{n} = queue.take(worker={n % 7}, timeout={n * 3})" for n in range(60))
LOG = "\n".join(f"2024-05-01 10:00:{n % 60:02d} INFO request {n} handled by worker {n % 7}" for n in range(400))


# ends of epochs


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 2000))
def test_window_limit_never_falls_and_depends_on_the_past_only(sizes: list[int], limit: int) -> None:
    ends = [staleness.window_limit(sizes[:count], limit) for count in range(len(sizes) + 1)]
    assert ends == sorted(ends)
    assert all(end <= count for count, end in enumerate(ends))
    if sum(sizes) > limit:
        assert ends[-1] > 0


@st.composite
def message_lists(draw: st.DrawFn) -> list[MessageTokens]:
    messages: list[MessageTokens] = []
    for index in range(draw(st.integers(0, 40))):
        tokens = draw(st.integers(1, 500))
        prunable = draw(st.integers(0, tokens)) if index % 2 else 0
        stale_after = index + draw(st.integers(1, 12))
        messages.append(MessageTokens(tokens, prunable, stale_after, starts_reply=index % 2 == 0 and index > 0))
    return messages


def known_prefix(messages: list[MessageTokens], count: int) -> list[MessageTokens]:
    """Return the first messages; outputs that become stale later are not known to become stale at all."""
    return [
        message if message.stale_after <= count else message._replace(stale_after=NEVER) for message in messages[:count]
    ]


@given(message_lists(), st.floats(0.1, 20))
def test_last_prune_never_moves_back_and_depends_on_the_past_only(messages: list[MessageTokens], price: float) -> None:
    ends = [staleness.last_prune(known_prefix(messages, count), price) for count in range(len(messages) + 1)]
    assert ends == sorted(ends)
    for count, (previous_end, end) in enumerate(zip([0, *ends], ends, strict=False)):
        assert end < count or end == 0
        assert end in (previous_end, count - 1)  # an epoch ends at the model's latest reply, or not at all
        assert end == 0 or messages[end].starts_reply


@given(message_lists(), st.floats(0.1, 20))
def test_no_prune_before_rereading_has_cost_a_cache_rewrite(messages: list[MessageTokens], price: float) -> None:
    """Compare with a count request by request."""
    pruned: set[int] = set()
    wasted = ended = 0
    for index, message in enumerate(messages):
        stale = {i for i in range(index) if messages[i].stale_after <= index and messages[i].prunable} - pruned
        if not message.starts_reply or not stale:
            continue
        prunable = sum(messages[i].prunable for i in stale)
        wasted += prunable
        rewritten = sum(
            messages[i].tokens - (messages[i].prunable if i in pruned | stale else 0) for i in range(min(stale), index)
        )
        if wasted >= price * rewritten:
            ended, wasted, pruned = index, 0, pruned | stale
    assert staleness.last_prune(messages, price) == ended


def test_stale_output_is_pruned_once_the_requests_have_paid_for_it() -> None:
    task, output = MessageTokens(100, 0, 0, starts_reply=False), MessageTokens(1000, 980, 2, starts_reply=False)
    answers = [MessageTokens(20, 0, 0, starts_reply=True)] * 40
    # The output keeps 20 tokens, and each answer after it adds 20: 60 tokens to rewrite at the third that may count,
    # then 80, and so on.
    ends = [staleness.last_prune([task, output, *answers[:count]], PRICE) for count in range(len(answers))]
    first_count = next(count for count in range(1, 40) if 980 * count >= PRICE * (20 + 20 * (count - 1)))
    assert [bool(end) for end in ends] == [count >= first_count for count in range(len(answers))]
    assert ends[-1] == 1 + first_count


@pytest.mark.parametrize("prunable", [0, 980])
def test_nothing_is_pruned_without_replies(prunable: int) -> None:
    outputs = [MessageTokens(1000, prunable, 1, starts_reply=False)] * 50
    assert staleness.last_prune(outputs, PRICE) == 0


# stale outputs


def test_outputs_other_than_code_are_stale_once_enough_has_followed() -> None:
    index = StalenessIndex([10, 500, 0, DEFAULT_STALE_AFTER_TOKENS - 1, 0, 1, 0], {})
    assert index.stale_after(1, "log", "") == 6
    assert index.stale_after(3, "log", "") == NEVER


def test_code_is_stale_once_its_file_is_read_again_and_enough_has_followed() -> None:
    tokens = [10, 500, STALE_AFTER_TOKENS["code"], 0, 500, 0]
    call, other = '{"command": "cat src/app.py"}', '{"command": "cat src/main.py"}'
    assert StalenessIndex(tokens, {1: call}).stale_after(1, "code", call) == NEVER
    assert StalenessIndex(tokens, {1: call, 4: other}).stale_after(1, "code", call) == NEVER
    assert StalenessIndex(tokens, {1: call, 4: call}).stale_after(1, "code", call) == 5
    assert StalenessIndex([*tokens[:2], 0, 0, 500, 0], {1: call, 4: call}).stale_after(1, "code", call) == NEVER


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ('{"command": "sed -n 1,9p src/app.py | head"}', {"app.py"}),
        ('{"path": "/repo/src/app.py"}', {"app.py"}),
        ('{"command": "cat Makefile ./LICENSE"}', {"LICENSE"}),
        ('{"command": "make"}', set[str]()),
        ("", set[str]()),
    ],
)
def test_file_names_of_a_call_have_no_folders(call: str, names: set[str]) -> None:
    assert staleness.extract_file_names(call) == names


@given(st.text(min_size=1))
def test_pruned_output_keeps_its_beginning_and_counts_the_rest(text: str) -> None:
    pruned = staleness.keep_first_line(text)
    head = pruned.parts[0]
    assert isinstance(head, str)
    assert len(head) <= staleness.HEAD_CHARACTERS
    assert text.lstrip("\n").startswith(head)
    assert "left out" in markers.render(pruned, None)


# pruning in a plan


def turn(role: Role, text: str, call: ToolCall | None = None) -> Turn:
    return Turn(role, (TextSlot((role, text), text),), call)


def shell(command: str) -> ToolCall:
    return ToolCall("shell", json.dumps({"command": command}))


def step(command: str, output: str) -> list[Turn]:
    return [turn("assistant", f"Now {command}"), turn("tool", output, shell(command))]


def conversation(*steps: tuple[str, str]) -> list[Turn]:
    return [turn("user", "Fix it."), *(part for command, output in steps for part in step(command, output))]


def plan(turns: list[Turn], rules: Rules = RULES) -> CompressionPlan:
    dedup.clear_conversations()
    return planning.plan_compression(turns, rules, TOKENS, has_tools=True)


def pruned_turns(compression_plan: CompressionPlan) -> list[int]:
    return [decision.passage.turn_index for decision in compression_plan.decisions if decision.reason == "old"]


def test_stale_outputs_are_pruned_and_the_newest_are_not() -> None:
    turns = conversation(("make", LOG), *((f"cat part{n}.py", CODE) for n in range(3)))
    turns += [turn for n in range(30) for turn in step(f"echo {n}", "done " * 40)]
    result = plan(turns)
    assert pruned_turns(result) == [2]
    (decision,) = [decision for decision in result.decisions if decision.reason == "old"]
    assert decision.replacement is not None
    assert markers.render(decision.replacement, None) == LOG.split("\n", 1)[0] + "\n[399 lines left out]"
    assert 0 < result.epoch_ends[1] < len(turns)


def test_nothing_is_pruned_at_a_price_of_zero() -> None:
    turns = conversation(("make", LOG), *((f"echo {n}", "done " * 100) for n in range(60)))
    assert pruned_turns(plan(turns))
    assert not pruned_turns(plan(turns, replace(RULES, epoch_price=0)))


@pytest.mark.parametrize("call", [ToolCall("secret", "{}"), ToolCall("clara_expand", '{"id": "0123456789ab"}')])
def test_protected_and_fetched_outputs_are_never_pruned(call: ToolCall) -> None:
    rest = conversation(*((f"echo {n}", "done " * 100) for n in range(60)))[1:]
    turns = [turn("user", "Fix it."), turn("assistant", "Now."), turn("tool", LOG, call), *rest]
    assert 2 not in pruned_turns(plan(turns))
    turns[2] = turn("tool", LOG, shell("make"))
    assert 2 in pruned_turns(plan(turns))


def test_repeat_of_a_pruned_output_is_shown_in_full_again() -> None:
    reads = [("cat app.py", CODE), ("cat other.py", CODE.replace("order", "parcel"))]
    turns = conversation(*reads, *((f"make {n}", f"{n}\n{LOG}") for n in range(3)), *reads)
    turns += conversation(*((f"echo {n}", "done " * 160) for n in range(150)))[1:]
    decisions: dict[int, Decision] = {decision.passage.turn_index: decision for decision in plan(turns).decisions}
    assert decisions[2].reason == "old"
    assert decisions[12].reason == "file-read"
    assert decisions[12].replacement is None
    before = {decision.passage.turn_index: decision for decision in plan(turns[:14]).decisions}
    assert before[2].reason == "file-read"
    assert before[12].replacement is not None


COMMANDS = st.sampled_from(["cat app.py", "cat other.py", "make", "pytest -q", "git diff", "secret"])
OUTPUTS = {
    "code": CODE,
    "log": LOG,
    "short code": CODE[:1500],
    "short log": LOG[:6000],
    "word": "done",
    "long word": "x" * 900,
}


@given(st.lists(st.tuples(COMMANDS, st.sampled_from(list(OUTPUTS))), min_size=1, max_size=30), st.floats(0.05, 3))
def test_prefix_decisions_change_only_at_an_epoch_end(steps: list[tuple[str, str]], price: float) -> None:
    turns = conversation(*((command, OUTPUTS[output]) for command, output in steps))
    rules = replace(RULES, epoch_price=price)
    before: list[Decision] = []
    epoch_ends = (0, 0)
    for count in range(1, len(turns) + 1):
        result = planning.plan_compression(turns[:count], rules, TOKENS, has_tools=True)
        assert result.epoch_ends >= epoch_ends
        if result.epoch_ends == epoch_ends:
            assert result.decisions[: len(before)] == before
        elif turns[count - 1].role == "assistant":
            assert result.prefix_changed
        before, epoch_ends = result.decisions, result.epoch_ends
