"""The invariants of planning and compression, over generated conversations."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import dedup, engine, planning
from clara_proxy.compression.engine import CompressionJob
from clara_proxy.compression.policy import Decision, Rules
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.protocols import chat
from clara_proxy.tests.conversations import Json, chats

TOKENS = get_token_counter("gpt-4o")
calm = settings(
    max_examples=40,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example),
)


def create_rules(*, ratio: float | None = 3, budget: int | None = None, epoch_tokens: int = 10**9) -> Rules:
    roles = frozenset({"tool", "user", "assistant"})
    return Rules(ratio, 100, roles, budget, None, frozenset({"secret"}), frozenset({"view"}), epoch_tokens)


def plan(body: Json, rules: Rules, count: int | None = None) -> list[Decision]:
    turns = chat.build_turns(body["messages"][:count])
    return planning.plan_compression(turns, rules, TOKENS, has_tools="tools" in body).decisions


def decision_fields(decisions: Sequence[Decision], count: int) -> list[tuple[object, ...]]:
    return [
        (
            decision.passage.turn_index,
            decision.passage.start,
            decision.passage.end,
            decision.passage.question,
            decision.reason,
            decision.target,
            decision.replacement,
        )
        for decision in decisions
        if decision.passage.turn_index < count
    ]


@calm
@given(chats(), st.sampled_from([None, 3]), st.sampled_from([None, 500, 5000]))
def test_prefix_earlier_decisions_never_change_as_a_conversation_grows(
    body: Json, ratio: float | None, budget: int | None
) -> None:
    rules = create_rules(ratio=ratio, budget=budget)
    all_decisions = plan(body, rules)
    dedup.clear_conversations()
    for count in range(1, len(body["messages"])):
        assert decision_fields(plan(body, rules, count), count) == decision_fields(all_decisions, count)


@calm
@given(chats(), st.integers(200, 3000), st.sampled_from([None, 500]))
def test_prefix_continued_plan_equals_a_whole_one(body: Json, limit: int, budget: int | None) -> None:
    rules = replace(create_rules(ratio=None, budget=budget, epoch_tokens=limit), epoch_price=0.5)
    turns = chat.build_turns(body["messages"])
    prefixes = [planning.EMPTY_PREFIX]
    for count in range(1, len(turns) + 1):
        known = prefixes[count // 2] if count % 3 == 0 else prefixes[-1]  # some turns continue an earlier prefix
        has_tools = "tools" in body
        whole = planning.plan_compression(turns[:count], rules, TOKENS, has_tools=has_tools)
        continued = planning.plan_compression(turns[:count], rules, TOKENS, has_tools=has_tools, known=known)
        assert continued.decisions == whole.decisions
        assert (continued.epoch_ends, continued.prefix_changed) == (whole.epoch_ends, whole.prefix_changed)
        assert continued.decisions[: continued.known_count] == known.final.decisions[: continued.known_count]
        prefixes.append(continued.prefix)


@calm
@given(chats(), st.integers(200, 3000))
def test_prefix_history_changes_only_at_an_epoch_end(body: Json, limit: int) -> None:
    rules = create_rules(epoch_tokens=limit)
    turns = chat.build_turns(body["messages"])
    plans = [
        planning.plan_compression(turns[:count], rules, TOKENS, has_tools="tools" in body)
        for count in range(1, len(turns) + 1)
    ]
    for count, (shorter, longer) in enumerate(pairwise(plans), start=1):
        if longer.epoch_ends == shorter.epoch_ends:
            assert decision_fields(shorter.decisions, count) == decision_fields(longer.decisions, count)
        else:  # an epoch ends with a reply of the model
            assert turns[count].role == "assistant"


@calm
@given(chats(), st.sampled_from([None, 3]))
def test_removed_repeats_are_shown_in_an_earlier_forwarded_text(body: Json, ratio: float | None) -> None:
    decisions = plan(body, create_rules(ratio=ratio))
    calls = [call["function"]["arguments"] for message in body["messages"] for call in message.get("tool_calls", [])]
    for index, decision in enumerate(decisions):
        if decision.replacement is None:
            continue
        assert decision.reason is not None
        forwarded = [earlier.passage.text for earlier in decisions[:index] if earlier.reason is not None]
        forwarded += [message["content"] for message in body["messages"] if message["role"] in {"system", "developer"}]
        shown = {drop_line_number(line) for text in [*forwarded, *calls] for line in text.split("\n")}
        remaining = "\n".join(part for part in decision.replacement.parts if isinstance(part, str)).split("\n")
        removed = [line for line in decision.passage.text.split("\n") if line not in remaining]
        assert all(drop_line_number(line) in shown for line in removed)


def drop_line_number(line: str) -> str:
    return re.sub(r"^ *\d+[\t:]", "", line)


@calm
@given(chats())
def test_structure_system_text_and_live_instructions_are_unchanged(body: Json) -> None:
    for decision in plan(body, create_rules()):
        assert decision.passage.role != "system"
        if decision.reason is None and decision.passage.role == "user":
            assert decision.passage.kind != "text"


@calm
@given(chats())
def test_never_worse_a_replacement_has_fewer_tokens(body: Json) -> None:
    for decision in plan(body, create_rules()):
        if decision.reason is None:
            passage = decision.passage
            outcome = engine.run_job(
                CompressionJob(
                    passage.text,
                    passage.question,
                    decision.target,
                    "GET /v1/retrieve/0123456789ab",
                    TOKENS,
                    decision.fills_target,
                )
            )
            assert (outcome.text is None) == (outcome.reason is not None)
            if outcome.text is not None:
                assert TOKENS.count(outcome.text) == outcome.tokens < decision.tokens


def test_prefix_a_late_passage_stays_unchanged() -> None:
    async def scenario() -> None:
        slow = engine.Engine(workers=1, queue_limit=8, cache_bytes=10**6)
        text = "\n".join(f"line {number} of the log says nothing much" for number in range(4000))
        job = CompressionJob(text, "log", 100, None, TOKENS)
        first = await slow.compress([job], 0.0)
        second = await slow.compress([job], 30.0)
        assert [outcome.reason for outcome in first] == [outcome.reason for outcome in second] == ["late"]
        slow.close()

    asyncio.run(scenario())
