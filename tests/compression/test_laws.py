"""The laws that planning and compressing must hold, over generated conversations."""

import asyncio
import re
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import dedup, engine, policy, staleness
from clara_proxy.compression.engine import CompressionJob
from clara_proxy.compression.policy import Decision, Rules
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.protocols import chat
from clara_proxy.tests.conversations import Json, chats

COUNTED = get_token_counter("gpt-4o")
calm = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example),
)


def rules(*, ratio: float | None = 3, budget: int | None = None, epoch_tokens: int = 10**9) -> Rules:
    everybody = frozenset({"tool", "user", "assistant"})
    return Rules(ratio, 100, everybody, budget, None, frozenset({"secret"}), frozenset({"view"}), epoch_tokens)


def planned(body: Json, chosen: Rules, upto: int | None = None) -> list[Decision]:
    turns = chat.build_turns(body["messages"][:upto])
    return policy.plan_compression(turns, chosen, COUNTED, has_tools="tools" in body).decisions


def decided(decisions: Sequence[Decision], below: int) -> list[tuple[object, ...]]:
    return [
        (
            one.passage.turn_index,
            one.passage.start,
            one.passage.end,
            one.passage.question,
            one.reason,
            one.target,
            one.replacement,
        )
        for one in decisions
        if one.passage.turn_index < below
    ]


@calm
@given(chats(), st.sampled_from([None, 3]), st.sampled_from([None, 500, 5000]))
def test_prefix_earlier_decisions_never_change_as_a_conversation_grows(
    body: Json, ratio: float | None, budget: int | None
) -> None:
    chosen = rules(ratio=ratio, budget=budget)
    whole = planned(body, chosen)
    dedup.clear_conversations()
    for upto in range(1, len(body["messages"])):
        assert decided(planned(body, chosen, upto), upto) == decided(whole, upto)


@calm
@given(chats(), st.integers(200, 3000))
def test_prefix_history_changes_only_where_an_epoch_ends(body: Json, limit: int) -> None:
    chosen = rules(epoch_tokens=limit)
    sizes = [sum(COUNTED.count(slot.text) for slot in turn.slots) for turn in chat.build_turns(body["messages"])]
    for upto in range(1, len(body["messages"])):
        if staleness.window_limit(sizes[:upto], limit) == staleness.window_limit(sizes[: upto + 1], limit):
            grown = planned(body, chosen, upto + 1)
            assert decided(planned(body, chosen, upto), upto) == decided(grown, upto)


@calm
@given(chats(), st.sampled_from([None, 3]))
def test_what_is_folded_stands_further_up_as_it_is_forwarded(body: Json, ratio: float | None) -> None:
    decisions = planned(body, rules(ratio=ratio))
    calls = [call["function"]["arguments"] for one in body["messages"] for call in one.get("tool_calls", [])]
    for at, decision in enumerate(decisions):
        if decision.replacement is None:
            continue
        assert decision.reason is not None
        sent = [one.passage.text for one in decisions[:at] if one.reason is not None]
        sent += [one["content"] for one in body["messages"] if one["role"] in {"system", "developer"}]
        shown = {unnumbered(line) for text in [*sent, *calls] for line in text.split("\n")}
        kept = "\n".join(part for part in decision.replacement.parts if isinstance(part, str)).split("\n")
        missing = [line for line in decision.passage.text.split("\n") if line not in kept]
        assert all(unnumbered(line) in shown for line in missing)


def unnumbered(line: str) -> str:
    return re.sub(r"^ *\d+[\t:]", "", line)


@calm
@given(chats())
def test_structure_system_text_and_live_instructions_are_never_chosen(body: Json) -> None:
    for decision in planned(body, rules()):
        assert decision.passage.role != "system"
        if decision.reason is None and decision.passage.role == "user":
            assert decision.passage.kind != "text"


@calm
@given(chats())
def test_never_worse_a_replacement_has_fewer_tokens(body: Json) -> None:
    for decision in planned(body, rules()):
        if decision.reason is None:
            passage = decision.passage
            outcome = engine.run_job(
                CompressionJob(
                    passage.text, passage.question, decision.target, "GET /v1/retrieve/0123456789ab", COUNTED
                )
            )
            assert (outcome.text is None) == (outcome.reason is not None)
            if outcome.text is not None:
                assert COUNTED.count(outcome.text) == outcome.tokens < decision.tokens


def test_engine_decides_once_so_that_what_was_sent_as_it_was_stays_so() -> None:
    async def scenario() -> None:
        slow = engine.Engine(workers=1, queue_limit=8, cache_bytes=10**6)
        text = "\n".join(f"line {number} of the log says nothing much" for number in range(4000))
        job = CompressionJob(text, "log", 100, None, COUNTED)
        first = await slow.compress([job], 0.0)
        second = await slow.compress([job], 30.0)
        assert [one.reason for one in first] == [one.reason for one in second] == ["late"]
        slow.close()

    asyncio.run(scenario())
