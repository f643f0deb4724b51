from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import planning, policy, registry
from clara_proxy.compression.markers import render
from clara_proxy.compression.policy import MIN_MATERIAL_TOKENS, Decision, Rules
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.compression.transcript import Role, TextSlot, ToolCall, Turn
from clara_proxy.tests.compression.extract import samples

TOKENS = get_token_counter("gpt-4o")
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
LONG = "\n".join(f"request {n} was handled by worker {n % 7}" for n in range(80))
CODE = "\n\n".join(f"def handle_{n}(self, request):\n    return self.workers[{n}].run(request)" for n in range(40))
SHELL = ToolCall("shell", '{"command":"make"}')


def turn(role: Role, text: str, call: ToolCall | None = None) -> Turn:
    return Turn(role, (TextSlot((role, text), text),), call)


REPLY = turn("assistant", "hm")  # an epoch ends with what a reply has read


def plan(*turns: Turn, rules: Rules = RULES, has_tools: bool = True) -> list[Decision]:
    return planning.plan_compression(turns, rules, TOKENS, has_tools=has_tools).decisions


def reasons(*turns: Turn, rules: Rules = RULES, has_tools: bool = True) -> list[str | None]:
    return [decision.reason for decision in plan(*turns, rules=rules, has_tools=has_tools)]


def ended_epoch(*turns: Turn) -> Rules:
    """Return rules with which the epoch of these messages has ended."""
    return replace(RULES, epoch_tokens=sum(TOKENS.count(slot.text) for turn in turns for slot in turn.slots) - 1)


def test_ratio_sets_the_target() -> None:
    (decision,) = plan(turn("tool", LONG, SHELL))
    assert decision.reason is None
    assert decision.tokens == TOKENS.count(LONG)
    assert decision.target == decision.tokens // 4


def test_min_tokens_counts_tokens() -> None:
    tokens = TOKENS.count(LONG)
    assert reasons(turn("tool", LONG), rules=replace(RULES, min_tokens=tokens)) == [None]
    assert reasons(turn("tool", LONG), rules=replace(RULES, min_tokens=tokens + 1)) == ["too-short"]
    assert reasons(turn("tool", "")) == ["too-short"]


def test_few_characters_with_many_tokens_are_not_too_short() -> None:
    text = "\U0001f9ff" * 60
    assert TOKENS.count(text) >= 100 > len(text)
    assert reasons(turn("tool", text)) == [None]


@pytest.mark.parametrize("role", ["tool", "user", "assistant"])
def test_other_roles_are_skipped(role: Role) -> None:
    message = turn(role, f"<doc>{LONG}</doc>")
    other_roles = replace(RULES, roles=RULES.roles - {role})
    assert reasons(message, rules=other_roles) == ["role"]
    assert reasons(message) != ["role"]


def test_keep_tag_prevents_compression() -> None:
    decision = plan(turn("user", f"<clara:keep>{LONG}</clara:keep>"))[0]
    assert (decision.reason, decision.tokens) == ("kept-by-tag", TOKENS.count(LONG))


def test_compress_tag_overrides_other_rules() -> None:
    tagged = turn("user", "<clara:compress>three short words</clara:compress>")
    (decision,) = plan(tagged, rules=replace(RULES, roles=frozenset()))
    assert (decision.reason, decision.tokens) == (None, 3)
    assert decision.target >= 1


def test_live_instruction_and_recent_reply_are_skipped() -> None:
    assert reasons(turn("user", LONG), turn("assistant", LONG)) == ["live-instruction", "recent"]


def test_material_of_a_user_is_compressed() -> None:
    assert reasons(turn("user", f"What is this?\n<doc>{LONG}</doc>")) == [None]


def test_system_texts_have_no_decision() -> None:
    assert reasons(turn("system", LONG)) == []


def test_protected_tool_is_skipped() -> None:
    assert reasons(turn("tool", LONG, ToolCall("secret", "{}"))) == ["protected-tool"]


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("clara_expand", '{"hash":"0123456789ab"}'),
        ToolCall("shell", '{"command":"curl -s localhost:8765/v1/retrieve/0123456789abcdef"}'),
    ],
)
def test_fetched_original_is_skipped(call: ToolCall) -> None:
    tool = turn("tool", LONG, call)
    assert reasons(tool) == ["expansion"]
    assert reasons(tool, turn("user", "x"), turn("user", "y"), rules=ended_epoch(tool))[0] == "expansion"


@pytest.mark.parametrize("call", [ToolCall("view", "{}"), ToolCall("shell", '{"command":"cat a.py"}')])
def test_file_read_is_skipped_until_its_epoch_ends_epoch(call: ToolCall) -> None:
    tool = turn("tool", LONG, call)
    assert reasons(tool) == ["file-read"]
    assert reasons(tool, REPLY, rules=ended_epoch(tool)) == [None, "too-short"]


def test_file_reads_are_compressed_if_file_tools_is_none() -> None:
    tool = turn("tool", LONG, ToolCall("shell", '{"command":"cat a.py"}'))
    assert reasons(tool, rules=replace(RULES, file_tools=frozenset())) == ["file-read"]
    assert reasons(tool, rules=replace(RULES, file_tools=None)) == [None]


NUMBERED_LOG = "\n".join(f"2024-05-01T10:00:{n % 60:02d}Z INFO request {n} took {n * 7} ms" for n in range(90))
YAML = "\n".join(f"service_{n}:\n  image: registry/app:{n}\n  replicas: {n % 5}" for n in range(60))


@pytest.mark.parametrize(
    ("call", "text", "is_kept"),
    [
        (ToolCall("Read", '{"file_path":"/repo/deploy/app.yml"}'), YAML, True),
        (ToolCall("Read", '{"file_path":"/repo/app.log"}'), NUMBERED_LOG, False),
        (ToolCall("bash", '{"command":"cat config/app.yml"}'), YAML, True),
        (ToolCall("bash", '{"command":"tail -n 90 /var/log/syslog"}'), NUMBERED_LOG, False),
        (ToolCall("bash", '{"command":"cat output"}'), NUMBERED_LOG, False),
        (ToolCall("bash", '{"command":"cat output"}'), YAML, True),
        (ToolCall("read_file", '{"path":"yarn.lock"}'), YAML, False),
        (ToolCall("read_file", '{"path":"app.min.js"}'), CODE, False),
        (ToolCall("read_file", '{"path":"api.pb.go"}'), CODE, False),
        (ToolCall("read_file", '{"path":"api.go"}'), f"// Code generated by protoc. DO NOT EDIT.\n{CODE}", False),
        (ToolCall("read_file", '{"path":"data/rows.json"}'), CODE, False),
        (ToolCall("read_file", '{"path":"package.json"}'), CODE, True),
    ],
)
def test_only_reads_of_editable_files_stay_whole(call: ToolCall, text: str, is_kept: bool) -> None:
    (decision,) = plan(turn("tool", text, call))
    assert decision.reason == ("file-read" if is_kept else None)
    assert decision.target == (0 if is_kept else decision.tokens // 4)


def test_fenced_code_is_skipped_until_its_epoch_ends_epoch() -> None:
    task, code = turn("user", "task"), turn("user", f"Look:\n```python\n{LONG}\n```\n")
    assert reasons(task, code) == ["too-short", "file-read"]
    later = turn("user", LONG)
    rules = ended_epoch(task, code, later)
    assert reasons(task, code, later, REPLY, rules=rules)[:3] == ["too-short", None, "live-instruction"]
    assert reasons(turn("user", f"Look:\n```\n{LONG}\n```\n")) == [None]


BY_KIND = replace(RULES, ratio=None)


def test_without_a_ratio_the_kind_of_content_sets_the_target() -> None:
    (decision,) = plan(turn("tool", LONG, SHELL), rules=BY_KIND)
    assert decision.target == policy.compute_kind_target(registry.classify_content(LONG), decision.tokens)
    assert decision.tokens > MIN_MATERIAL_TOKENS
    assert reasons(turn("tool", CODE, SHELL), rules=BY_KIND) == ["all-signal"]
    assert reasons(turn("tool", CODE, SHELL), rules=replace(BY_KIND, budget=10**6)) == [None]
    assert reasons(turn("tool", CODE, SHELL)) == [None]


def test_without_a_ratio_user_material_gets_a_third_and_a_minimum() -> None:
    (long,) = plan(turn("user", f"What is this?\n<doc>{LONG * 5}</doc>"), rules=BY_KIND)
    assert long.target == long.tokens // 3
    (short,) = plan(turn("user", f"What is this?\n<doc>{LONG}</doc>"), rules=BY_KIND)
    assert short.target == MIN_MATERIAL_TOKENS > short.tokens // 3
    assert reasons(turn("user", f"What is this?\n<doc>{LONG[:900]}</doc>"), rules=BY_KIND) == ["all-signal"]


def test_code_is_compressed_once_its_epoch_ends() -> None:
    tool = turn("tool", CODE, SHELL)
    assert reasons(tool, REPLY, rules=replace(ended_epoch(tool), ratio=None)) == [None, "too-short"]


VIEW = ToolCall("view", '{"path":"a.py"}')


def is_replaced(*turns: Turn, rules: Rules = RULES) -> list[bool]:
    return [decision.replacement is not None for decision in plan(*turns, rules=rules)]


def test_file_read_again_is_deduplicated_but_not_the_third_time() -> None:
    reads = [turn("tool", CODE, VIEW), turn("assistant", "hm"), turn("tool", CODE, VIEW)]
    assert is_replaced(*reads) == [False, False, True]
    last = plan(*reads)[-1]
    assert last.reason == "file-read"
    assert last.replacement is not None
    assert TOKENS.count(render(last.replacement, None)) < last.tokens / 10
    assert is_replaced(*reads, reads[0], reads[2]) == [False, False, True, False, True]


def test_file_written_by_the_agent_is_deduplicated() -> None:
    body = CODE.replace("\n", "\\n")
    write = ToolCall("shell", f'{{"command":"cat > a.py <<EOF\\n{body}\\nEOF"}}')
    assert is_replaced(turn("tool", "", write), turn("tool", CODE, VIEW)) == [False, True]


def test_compressed_output_is_no_source_of_repeats() -> None:
    assert is_replaced(turn("tool", CODE, SHELL), turn("tool", CODE, VIEW)) == [False, False]
    assert is_replaced(turn("tool", CODE, VIEW), turn("tool", CODE, SHELL)) == [False, False]


@pytest.mark.parametrize("length", [400, len(CODE)])
@pytest.mark.parametrize(
    ("call", "roles"),
    [
        (ToolCall("secret", "{}"), RULES.roles),
        (ToolCall("clara_expand", "{}"), RULES.roles),
        (VIEW, RULES.roles - {"tool"}),
    ],
)
def test_protected_outputs_are_not_deduplicated(call: ToolCall, roles: frozenset[str], length: int) -> None:
    text = CODE[:length]
    rules = replace(RULES, roles=roles, min_tokens=150)
    assert is_replaced(turn("tool", text, VIEW), turn("tool", text, call), rules=rules) == [False, False]
    assert is_replaced(turn("tool", text, VIEW), turn("tool", text, VIEW), rules=replace(RULES, min_tokens=150))[1]


def test_repeats_below_a_third_of_min_tokens_are_unchanged() -> None:
    text = CODE[:400]
    reads = [turn("tool", text, VIEW), turn("tool", text, VIEW)]
    tokens = TOKENS.count(text)
    assert is_replaced(*reads, rules=replace(RULES, min_tokens=3 * tokens)) == [False, True]
    assert is_replaced(*reads, rules=replace(RULES, min_tokens=3 * tokens + 3)) == [False, False]


def test_epoch_end_spares_the_task_and_the_instruction_in_force() -> None:
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
    assert reasons(*turns, rules=ended_epoch(*turns)) == expected
    after = [turn("user", f"fourth {LONG}"), turn("assistant", LONG)]
    assert reasons(*turns, *after, rules=ended_epoch(*turns)) == [*expected, "live-instruction", "recent"]


def test_budget_lowers_targets_as_it_runs_out() -> None:
    turns = [turn("tool", f"{number} {LONG}", SHELL) for number in range(6)]
    unlimited = plan(*turns)
    tokens = unlimited[0].tokens
    targets = [decision.target for decision in plan(*turns, rules=replace(RULES, budget=tokens))]
    assert targets[0] == unlimited[0].target
    assert targets == sorted(targets, reverse=True)
    assert targets[-1] < unlimited[-1].target
    assert sum(targets) <= tokens
    ample = plan(*turns, rules=replace(RULES, budget=10**6))
    assert [decision.target for decision in ample] == [decision.target for decision in unlimited]


def test_budget_counts_texts_that_are_not_compressed() -> None:
    tool = turn("tool", LONG, SHELL)
    system = turn("system", LONG * 3)
    budget = replace(RULES, budget=TOKENS.count(LONG * 3) + 40)
    (decision,) = plan(system, tool, rules=budget)
    assert 1 <= decision.target <= 0.75 * 40
    assert plan(system, tool, rules=replace(budget, budget=1))[0].target == 1


def test_passages_of_one_message_share_the_budget() -> None:
    tool = Turn("tool", (TextSlot(("a",), LONG), TextSlot(("b",), LONG)), SHELL)
    first, second = plan(tool, rules=replace(RULES, budget=100))
    assert first.target == second.target
    assert first.target + second.target <= 100


KINDS = [compressor.name for compressor in registry.list_compressors()]


@pytest.mark.parametrize("kind", [*KINDS, "another distribution's"])
@given(st.integers(0, 10**6), st.integers(0, 10**5))
def test_kind_target_grows_with_size_and_its_share_shrinks(kind: str, tokens: int, more: int) -> None:
    small, large = policy.compute_kind_target(kind, tokens), policy.compute_kind_target(kind, tokens + more)
    assert small is None or 1 <= small <= tokens
    assert small is None or (large is not None and small <= large)
    if small is not None and large is not None:
        assert large / (tokens + more) <= small / tokens + 1 / tokens


def test_code_is_kept_whole_and_other_long_outputs_are_not() -> None:
    assert policy.compute_kind_target("code", 10**6) is None
    assert all(policy.compute_kind_target(kind, 10**6) for kind in KINDS if kind != "code")


def test_small_json_is_reformatted_and_other_small_outputs_are_kept() -> None:
    assert policy.compute_kind_target("json", 200) == 200
    assert all(policy.compute_kind_target(kind, policy.WHOLE_TOKENS) is None for kind in KINDS if kind != "json")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "code"])
def test_outputs_keep_most_of_their_first_tokens(kind: str) -> None:
    for tokens, least in ((900, 540), (5_000, 1_000)):
        target = policy.compute_kind_target(kind, tokens)
        assert target is not None
        assert target >= least


def test_size_curves_are_for_registered_kinds() -> None:
    assert set(policy.SIZE_CURVES) <= set(KINDS)


def test_content_is_classified_once_per_text() -> None:
    before = len(registry.find_compressor_cached)
    texts = [f"{samples.CODE}\n# once", f"{samples.LOG}\nonce"]
    assert [registry.classify_content(text) for text in texts * 3] == ["code", "log"] * 3
    assert len(registry.find_compressor_cached) == before + 2


def test_window_limit_spares_what_the_model_has_not_read_yet() -> None:
    task, tool, reply = turn("user", "task"), turn("tool", CODE, SHELL), turn("assistant", "hm")
    small_window = replace(BY_KIND, epoch_tokens=100)
    assert reasons(task, reply, tool, rules=small_window) == ["too-short", "too-short", "all-signal"]
    assert reasons(task, reply, tool, reply, tool, rules=small_window)[2::2] == [None, "all-signal"]
    assert reasons(turn("tool", CODE, VIEW), rules=small_window) == ["file-read"]


def test_window_limit_reports_the_request_that_rewrites_the_prompt() -> None:
    task, tool, reply = turn("user", "task"), turn("tool", CODE, SHELL), turn("assistant", "hm")
    small_window = replace(BY_KIND, epoch_tokens=TOKENS.count(CODE) - 10)
    turns = [task, reply, tool, reply, turn("tool", "x"), reply, turn("tool", "y")]
    plans = [
        planning.plan_compression(turns[:end], small_window, TOKENS, has_tools=True) for end in range(1, len(turns) + 1)
    ]
    assert [plan.epoch_ends[0] for plan in plans] == [0, 0, 0, 3, 3, 3, 3]
    assert [plan.prefix_changed for plan in plans] == [False, False, False, True, True, False, False]


GUIDE = "# Guide\n\n" + "\n\n".join(f"Step {n}. Open the panel and wait. The harbour opens again." for n in range(60))
SCHEMA = "".join(f"CREATE TABLE orders_{n} (\n  id bigint PRIMARY KEY,\n  amount_{n} numeric\n);\n" for n in range(60))
LOG = "\n".join(f"2024-05-01 10:{n // 60:02d}:{n % 60:02d} INFO handled request {n}" for n in range(200))


@pytest.mark.parametrize(("text", "reason"), [(GUIDE, "file-read"), (SCHEMA, "file-read"), (LOG, None)])
def test_a_file_stays_whole_if_the_provider_holds_the_call(text: str, reason: str | None) -> None:
    """Anthropic's threads and `previous_response_id` send results without their calls."""
    assert [decision.reason for decision in plan(turn("tool", text))] == [reason]


@pytest.mark.parametrize(
    ("reply", "text", "reason"),
    [
        ("I look.\n```bash\ncat docs/guide.md\n```", f"Observation:\n{GUIDE}", "file-read"),
        ("```python\nprint(open('docs/guide.md').read())\n```", f"Observation:\n{GUIDE}", "file-read"),
        (
            "```shell\ncat docs/guide.md\n```",
            f"Ran command: `cat docs/guide.md`\n\n```stdout\n{GUIDE}\n```",
            "file-read",
        ),
        ("Next.", f"Ran allowlisted command: `cat docs/guide.md`\n\n```stdout\n{GUIDE}\n```", "file-read"),
        ("```python\nprint(fetch('https://example.com/guide'))\n```", f"Observation:\n{GUIDE}", None),
        ("```bash\nmake test\n```", f"Observation:\n{LOG}", None),
    ],
)
def test_a_file_read_by_an_agent_without_tools_stays_whole(reply: str, text: str, reason: str | None) -> None:
    decisions = plan(turn("user", "Edit it."), turn("assistant", reply), turn("user", text), has_tools=False)
    assert [decision.reason for decision in decisions if decision.passage.role == "tool"] == [reason]


@pytest.mark.parametrize(("can_fetch", "is_removed"), [(True, True), (False, False)])
def test_a_file_read_again_refers_to_the_first_read(can_fetch: bool, is_removed: bool) -> None:
    read = ToolCall("view", '{"path":"docs/guide.md"}')
    turns = [turn("user", "Edit it."), turn("tool", GUIDE, read), turn("tool", GUIDE + "\n", read)]
    last = plan(*turns, rules=replace(RULES, can_fetch=can_fetch))[-1]
    assert (last.reason, last.replacement is not None) == ("file-read", is_removed)


def test_a_file_read_does_not_refer_to_what_the_user_showed() -> None:
    read = ToolCall("view", '{"path":"docs/guide.md"}')
    shown = turn("user", f"Edit it.\n\n```docs/guide.md\n{GUIDE}\n```")
    assert plan(shown, turn("tool", GUIDE, read))[-1].replacement is None
