"""What is remembered of a conversation changes the time of a request, and nothing else."""

from typing import NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.pipeline import known_conversations, rewrite
from clara_proxy.proxy.pipeline.known_conversations import (
    UNKNOWN,
    ConversationMemory,
    Elements,
    KnownConversation,
    read_elements,
)
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import InProcessProxy, SentRequest
from clara_proxy.tests.proxy.invariants.cases import ProtocolCase, few_examples


@pytest.fixture(autouse=True)
def remember_short_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "MIN_REMEMBERED_WORK", 0)
    monkeypatch.setattr(known_conversations, "MIN_CHECKPOINT_ELEMENTS", 2)


OWNERS = ("first-owner", "second-owner")
HEADERS = ({"x-clara-min-tokens": "60"}, {"x-clara-min-tokens": "60", "x-clara-retrieve": "url"})


class Step(NamedTuple):
    """A request of one owner: the first `length` messages, of which one may be left out."""

    owner: str
    length: int
    dropped: int | None
    headers: dict[str, str]


def visible_result(sent: SentRequest) -> tuple[object, ...]:
    row = sent.row
    return (sent.forwarded, row.tokens_received, row.tokens_sent, row.passages, row.skipped, sent.context.engine)


def draw_steps(data: st.DataObject, count: int) -> list[Step]:
    """Return growing and branching requests of two owners."""
    steps: list[Step] = []
    for length in sorted(data.draw(st.sets(st.integers(1, count), max_size=4)) | {count}):
        dropped = data.draw(st.none() | st.integers(0, length - 1)) if length > 2 else None
        steps.append(Step(OWNERS[0], length, None, HEADERS[0]))
        steps.append(Step(data.draw(st.sampled_from(OWNERS)), length, dropped, data.draw(st.sampled_from(HEADERS))))
    return steps


@settings(few_examples, max_examples=7)
@given(st.data())
def test_restarted_proxy_forwards_the_same_bytes(case: ProtocolCase, data: st.DataObject) -> None:
    body = data.draw(case.protocol.bodies)
    proxy = data.draw(st.sampled_from([case.plain, case.offering]))
    default_settings = proxy.settings
    proxy.settings = default_settings.model_copy(update=data.draw(st.sampled_from([{}, SHORT_EPOCHS])))
    try:
        steps = draw_steps(data, case.count_messages(body))
        proxy.restart()
        remembered = [visible_result(send_step(case, proxy, body, step)) for step in steps]
        for step, result in zip(steps, remembered, strict=True):
            if data.draw(st.integers(0, 3)) == 0:
                proxy.restart()
            proxy.compressor.memory.clear()
            assert visible_result(send_step(case, proxy, body, step)) == result
    finally:
        proxy.settings = default_settings


@settings(few_examples, max_examples=5)
@given(st.data())
def test_what_one_owner_sent_is_new_for_another(case: ProtocolCase, data: st.DataObject) -> None:
    """Neither results nor the amount of work tell an owner that another one has sent the same messages."""
    body, proxy = data.draw(case.protocol.bodies), case.plain
    count = case.count_messages(body)
    lengths = sorted(data.draw(st.sets(st.integers(1, count), max_size=3)) | {count})
    alone, beside = list[object](), list[object]()
    for results, has_other in ((alone, False), (beside, True)):
        proxy.restart()
        known_counts = record_known_counts(proxy.compressor.memory)
        for length in lengths:
            if has_other:  # the other owner sends the same prefix first, and is one turn ahead
                send_step(case, proxy, body, Step(OWNERS[0], length, None, HEADERS[0]))
                send_step(case, proxy, body, Step(OWNERS[0], count, None, HEADERS[0]))
            known_counts.clear()
            sent = send_step(case, proxy, body, Step(OWNERS[1], length, None, HEADERS[0]))
            results.append((visible_result(sent), list(known_counts)))
    assert beside == alone


def record_known_counts(memory: ConversationMemory) -> list[int]:
    """Record how many elements of each request from now on are known."""
    counts, find = list[int](), memory.find

    def find_and_record(elements: Elements) -> KnownConversation:
        known = find(elements)
        counts.append(known.element_count)
        return known

    memory.find = find_and_record  # type: ignore[method-assign]
    return counts


SHORT_EPOCHS = {"epoch_share": 0.01, "epoch_price": 0.5}


def send_step(case: ProtocolCase, proxy: InProcessProxy, body: Json, step: Step) -> SentRequest:
    cut = case.cut(body, step.length)
    elements = list(cut[case.protocol.list_key])
    if step.dropped is not None:
        del elements[step.dropped]
    return proxy.send(orjson.dumps({**cut, case.protocol.list_key: elements}), step.headers, step.owner)


def message(text: str) -> Json:
    return {"role": "user", "content": text}


def test_requests_that_share_all_but_their_last_message_share_its_results(case: ProtocolCase) -> None:
    shared = [{"role": ("user", "assistant")[number % 2], "content": f"message {number} " * 200} for number in range(6)]
    proxy = case.plain
    proxy.restart()
    known_counts = record_known_counts(proxy.compressor.memory)

    def send(*last: Json) -> bytes:
        body = {"model": "gpt-4o", case.protocol.list_key: [*shared, *last]}
        return proxy.send(orjson.dumps(body), HEADERS[0], OWNERS[0]).forwarded

    bodies = [send(message("a question")), send(message("another one"))]
    bodies.append(send(message("a question"), {"role": "assistant", "content": "its answer"}, message("go on")))
    bodies.append(send(message("a third one")))  # the first branch has grown, and the shared part is still known
    assert known_counts == [0, 6, 7, 6]
    proxy.compressor.memory.clear()
    assert send(message("another one")) == bodies[1]


def test_longest_prefix_of_the_same_scope_is_found() -> None:
    memory = ConversationMemory()
    messages = [message(str(number)) for number in range(4)]
    for count in (1, 3):
        memory.remember(read_elements(messages[:count], "a", ()), KnownConversation(count), UNKNOWN)
    assert memory.find(read_elements(messages, "a", ())).element_count == 3
    assert memory.find(read_elements(messages[:2], "a", ())).element_count == 1
    assert memory.find(read_elements(messages, "b", ())) is UNKNOWN
    assert memory.find(read_elements(messages, "a", ("other options",))) is UNKNOWN
    assert memory.find(read_elements([message("other"), *messages[1:]], "a", ())) is UNKNOWN
    assert memory.find(read_elements([message("0"), message("x")], "a", ())).element_count == 1


def test_elements_that_cannot_be_written_exactly_are_not_known() -> None:
    assert read_elements("a text", "a", ()) == Elements()
    assert read_elements([message("x"), {"big": 2**70}], "a", ()) == Elements()


def test_a_turn_can_be_repeated_and_older_prefixes_go() -> None:
    memory, known = ConversationMemory(), UNKNOWN
    messages = [message(str(number)) for number in range(6)]
    for count in (2, 4, 6):
        elements = read_elements(messages[:count], "a", ())
        known = memory.find(elements)
        memory.remember(elements, KnownConversation(count), known)
    assert [memory.find(read_elements(messages[:count], "a", ())).element_count for count in (2, 4, 6)] == [0, 4, 6]


def test_memory_of_many_conversations_is_bounded() -> None:
    memory = ConversationMemory(max_bytes=100_000)
    for number in range(500):
        memory.remember(read_elements([message(f"{number} " + "x" * 1000)], "a", ()), KnownConversation(1), UNKNOWN)
        assert memory.size <= 100_000
    largest = [message("x" * known_conversations.MAX_BYTES)]
    memory.remember(read_elements(largest, "a", ()), KnownConversation(1), UNKNOWN)
    assert memory.find(read_elements(largest, "a", ())) is UNKNOWN
