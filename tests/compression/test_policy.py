from dataclasses import replace

import pytest

from clara_proxy.compression import policy, sizes
from clara_proxy.compression.markers import render
from clara_proxy.compression.policy import MIN_MATERIAL_TOKENS, Decision, Rules
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.compression.transcript import Role, TextSlot, ToolCall, Turn

COUNTED = get_token_counter("gpt-4o")
RULES = Rules(
    ratio=4,
    min_tokens=100,
    roles=frozenset({"tool", "user", "assistant"}),
    budget=None,
    query=None,
    protected_tools=frozenset({"secret"}),
    file_tools=frozenset({"view"}),
    epoch_tokens=10**9,
)
LONG = "\n".join(f"request {at} was handled by worker {at % 7}" for at in range(80))
SHELL = ToolCall("shell", '{"command":"make"}')


def turn(role: Role, text: str, call: ToolCall | None = None) -> Turn:
    return Turn(role, (TextSlot((role, text), text),), call)


def plan(*turns: Turn, rules: Rules = RULES, agentic: bool = True) -> list[Decision]:
    return policy.plan_compression(turns, rules, COUNTED, has_tools=agentic).decisions


def reasons(*turns: Turn, rules: Rules = RULES, agentic: bool = True) -> list[str | None]:
    return [one.reason for one in plan(*turns, rules=rules, agentic=agentic)]


def ended(*turns: Turn) -> Rules:
    """Rules by which the epoch of these messages has ended."""
    return replace(RULES, epoch_tokens=sum(COUNTED.count(slot.text) for one in turns for slot in one.slots) - 1)


def test_an_output_is_shortened_to_its_share() -> None:
    (one,) = plan(turn("tool", LONG, SHELL))
    assert one.reason is None
    assert one.tokens == COUNTED.count(LONG)
    assert one.target == one.tokens // 4


def test_too_short_counts_tokens() -> None:
    tokens = COUNTED.count(LONG)
    assert reasons(turn("tool", LONG), rules=replace(RULES, min_tokens=tokens)) == [None]
    assert reasons(turn("tool", LONG), rules=replace(RULES, min_tokens=tokens + 1)) == ["too-short"]
    assert reasons(turn("tool", "")) == ["too-short"]


def test_a_text_of_few_characters_and_many_tokens_is_not_too_short() -> None:
    text = "\U0001f9ff" * 60
    assert COUNTED.count(text) >= 100 > len(text)
    assert reasons(turn("tool", text)) == [None]


@pytest.mark.parametrize("role", ["tool", "user", "assistant"])
def test_role(role: Role) -> None:
    one = turn(role, f"<doc>{LONG}</doc>")
    others = replace(RULES, roles=RULES.roles - {role})
    assert reasons(one, rules=others) == ["role"]
    assert reasons(one) != ["role"]


def test_kept_by_tag() -> None:
    one = plan(turn("user", f"<clara:keep>{LONG}</clara:keep>"))[0]
    assert (one.reason, one.tokens) == ("kept-by-tag", COUNTED.count(LONG))


def test_what_may_be_shortened_by_tag_may_whatever_else_holds() -> None:
    tagged = turn("user", "<clara:compress>three short words</clara:compress>")
    (one,) = plan(tagged, rules=replace(RULES, roles=frozenset()))
    assert (one.reason, one.tokens) == (None, 3)
    assert one.target >= 1


def test_live_instruction_and_recent() -> None:
    assert reasons(turn("user", LONG), turn("assistant", LONG)) == ["live-instruction", "recent"]


def test_material_of_a_user_is_shortened() -> None:
    assert reasons(turn("user", f"What is this?\n<doc>{LONG}</doc>")) == [None]


def test_system_texts_are_not_even_looked_at() -> None:
    assert reasons(turn("system", LONG)) == []


def test_protected_tool() -> None:
    assert reasons(turn("tool", LONG, ToolCall("secret", "{}"))) == ["protected-tool"]


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("clara_expand", '{"hash":"0123456789ab"}'),
        ToolCall("shell", '{"command":"curl -s localhost:8765/v1/retrieve/0123456789abcdef"}'),
    ],
)
def test_expansion(call: ToolCall) -> None:
    tool = turn("tool", LONG, call)
    assert reasons(tool) == ["expansion"]
    assert reasons(tool, turn("user", "x"), turn("user", "y"), rules=ended(tool))[0] == "expansion"


@pytest.mark.parametrize("call", [ToolCall("view", "{}"), ToolCall("shell", '{"command":"cat a.py"}')])
def test_a_file_read_is_kept_until_its_epoch_has_ended(call: ToolCall) -> None:
    tool = turn("tool", LONG, call)
    assert reasons(tool) == ["file-read"]
    assert reasons(tool, rules=ended(tool)) == [None]


def test_where_no_tools_read_files_reads_are_outputs_like_others() -> None:
    tool = turn("tool", LONG, ToolCall("shell", '{"command":"cat a.log"}'))
    assert reasons(tool, rules=replace(RULES, file_tools=frozenset())) == ["file-read"]
    assert reasons(tool, rules=replace(RULES, file_tools=None)) == [None]


def test_fenced_code_is_kept_until_its_epoch_has_ended() -> None:
    task, code = turn("user", "task"), turn("user", f"Look:\n```python\n{LONG}\n```\n")
    assert reasons(task, code) == ["too-short", "file-read"]
    later = turn("user", LONG)
    assert reasons(task, code, later, rules=ended(task, code, later)) == ["too-short", None, "live-instruction"]
    assert reasons(turn("user", f"Look:\n```\n{LONG}\n```\n")) == [None]


CODE = "\n\n".join(f"def handle_{at}(self, request):\n    return self.workers[{at}].run(request)" for at in range(40))
BY_KIND = replace(RULES, ratio=None)


def test_without_a_ratio_an_output_gets_the_size_of_its_kind() -> None:
    (one,) = plan(turn("tool", LONG, SHELL), rules=BY_KIND)
    assert one.target == sizes.compute_kind_target(sizes.classify_content(LONG), one.tokens)
    assert one.tokens > MIN_MATERIAL_TOKENS
    assert reasons(turn("tool", CODE, SHELL), rules=BY_KIND) == ["all-signal"]
    assert reasons(turn("tool", CODE, SHELL), rules=replace(BY_KIND, budget=10**6)) == [None]
    assert reasons(turn("tool", CODE, SHELL)) == [None]


def test_without_a_ratio_material_of_a_user_goes_to_a_third_but_for_its_first_tokens() -> None:
    (long,) = plan(turn("user", f"What is this?\n<doc>{LONG * 5}</doc>"), rules=BY_KIND)
    assert long.target == long.tokens // 3
    (short,) = plan(turn("user", f"What is this?\n<doc>{LONG}</doc>"), rules=BY_KIND)
    assert short.target == MIN_MATERIAL_TOKENS > short.tokens // 3
    assert reasons(turn("user", f"What is this?\n<doc>{LONG[:900]}</doc>"), rules=BY_KIND) == ["all-signal"]


def test_when_its_epoch_has_ended_code_is_shortened_as_well() -> None:
    tool = turn("tool", CODE, SHELL)
    assert reasons(tool, rules=replace(ended(tool), ratio=None)) == [None]


VIEW = ToolCall("view", '{"path":"a.py"}')


def folded(*turns: Turn, rules: Rules = RULES) -> list[bool]:
    return [one.replacement is not None for one in plan(*turns, rules=rules)]


def test_a_file_that_is_read_again_is_folded_and_the_third_time_it_comes_whole() -> None:
    again = [turn("tool", CODE, VIEW), turn("assistant", "hm"), turn("tool", CODE, VIEW)]
    assert folded(*again) == [False, False, True]
    last = plan(*again)[-1]
    assert last.reason == "file-read"
    assert last.replacement is not None
    assert COUNTED.count(render(last.replacement, None)) < last.tokens / 10
    assert folded(*again, again[0], again[2]) == [False, False, True, False, True]


def test_what_an_agent_wrote_itself_need_not_be_shown_to_it() -> None:
    body = CODE.replace("\n", "\\n")
    write = ToolCall("shell", f'{{"command":"cat > a.py <<EOF\\n{body}\\nEOF"}}')
    assert folded(turn("tool", "", write), turn("tool", CODE, VIEW)) == [False, True]


def test_what_is_shortened_is_not_pointed_to() -> None:
    assert folded(turn("tool", CODE, SHELL), turn("tool", CODE, VIEW)) == [False, False]
    assert folded(turn("tool", CODE, VIEW), turn("tool", CODE, SHELL)) == [False, False]


@pytest.mark.parametrize("length", [400, len(CODE)])
@pytest.mark.parametrize(
    ("call", "roles"),
    [
        (ToolCall("secret", "{}"), RULES.roles),
        (ToolCall("clara_expand", "{}"), RULES.roles),
        (VIEW, RULES.roles - {"tool"}),
    ],
)
def test_what_must_not_be_touched_is_not_folded(call: ToolCall, roles: frozenset[str], length: int) -> None:
    text = CODE[:length]
    rules = replace(RULES, roles=roles, min_tokens=150)
    assert folded(turn("tool", text, VIEW), turn("tool", text, call), rules=rules) == [False, False]
    assert folded(turn("tool", text, VIEW), turn("tool", text, VIEW), rules=replace(RULES, min_tokens=150))[1]


def test_repeats_shorter_than_a_third_of_the_least_are_left_alone() -> None:
    text = CODE[:400]
    again = [turn("tool", text, VIEW), turn("tool", text, VIEW)]
    tokens = COUNTED.count(text)
    assert folded(*again, rules=replace(RULES, min_tokens=3 * tokens)) == [False, True]
    assert folded(*again, rules=replace(RULES, min_tokens=3 * tokens + 3)) == [False, False]


def test_when_an_epoch_ends_all_but_the_task_and_the_instruction_in_force_may_go() -> None:
    turns = [
        turn("system", LONG),
        turn("user", f"task {LONG}"),
        turn("assistant", LONG),
        turn("user", f"second {LONG}"),
        turn("assistant", LONG),
        turn("user", f"third {LONG}"),
        turn("assistant", LONG),
    ]
    expected = ["live-instruction", None, None, None, "live-instruction", None]
    assert reasons(*turns, rules=ended(*turns)) == expected
    after = [turn("user", f"fourth {LONG}"), turn("assistant", LONG)]
    assert reasons(*turns, *after, rules=ended(*turns)) == [*expected, "live-instruction", "recent"]


def test_a_budget_lowers_the_targets_from_where_it_gets_tight() -> None:
    turns = [turn("tool", f"{number} {LONG}", SHELL) for number in range(6)]
    free = plan(*turns)
    tokens = free[0].tokens
    tight = plan(*turns, rules=replace(RULES, budget=tokens))
    targets = [one.target for one in tight]
    assert targets[0] == free[0].target
    assert targets == sorted(targets, reverse=True)
    assert targets[-1] < free[-1].target
    assert sum(targets) <= tokens
    assert [one.target for one in plan(*turns, rules=replace(RULES, budget=10**6))] == [one.target for one in free]


def test_a_budget_counts_what_may_not_be_shortened() -> None:
    tool = turn("tool", LONG, SHELL)
    kept = turn("system", LONG * 3)
    budget = replace(RULES, budget=COUNTED.count(LONG * 3) + 40)
    (one,) = plan(kept, tool, rules=budget)
    assert 1 <= one.target <= 0.75 * 40
    assert plan(kept, tool, rules=replace(budget, budget=1))[0].target == 1


def test_a_budget_is_shared_by_the_passages_of_one_message() -> None:
    tool = Turn("tool", (TextSlot(("a",), LONG), TextSlot(("b",), LONG)), SHELL)
    one, other = plan(tool, rules=replace(RULES, budget=100))
    assert one.target == other.target
    assert one.target + other.target <= 100
