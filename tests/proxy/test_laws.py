"""The laws of the design over generated conversations, through the whole path from body to forwarded body.

Numbered as in docs/architecture.md: 1 prefix, 3 never worse, 4 fail open, 5 structure, 7 honest, 8 private.
"""

import re
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clara_proxy.compression import policy
from clara_proxy.compression.compressor import CompressedPassage, Compressor, Gap, Task
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.protocols import chat, json_edit, json_types
from clara_proxy.proxy.protocols.json_edit import StringEdit
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import (
    INVENTED_NUMBER,
    JSON_STYLES,
    CompressFunction,
    FakeCompressor,
    FakeWorker,
    InProcessProxy,
    JsonStyle,
    SentRequest,
    whole_request_settings,
)

SMALL = {"x-clara-min-tokens": "60"}
CANARY = "canary-4d1f-in-the-coal-mine"
steered = st.fixed_dictionaries(
    {"x-clara-min-tokens": st.sampled_from(["1", "20", "100", "400"])},
    optional={
        "x-clara-ratio": st.sampled_from(["1", "2.5x", "10", "1000"]),
        "x-clara-budget": st.sampled_from(["1", "300", "3000"]),
        "x-clara-roles": st.sampled_from(["tool", "user", "tool, assistant", ""]),
        "x-clara-query": st.sampled_from(["which worker timed out?", "漢字", ""]),
        "x-clara-retrieve": st.sampled_from(["url", "none"]),
        "x-clara-mode": st.sampled_from(["auto", "extract", "answer", "summary"]),
    },
)
styles = st.sampled_from(JSON_STYLES)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("laws"), clara_worker=FakeWorker()) as made:
        yield made


def cut(body: Json, upto: int) -> Json:
    return {**body, "messages": body["messages"][:upto]}


def prefixes(body: Json) -> Iterator[Json]:
    """A conversation as it grows: each time a message from anybody has been added."""
    for upto in range(1, len(body["messages"]) + 1):
        yield cut(body, upto)


def tokens(body: Json) -> int:
    counted = get_token_counter(body["model"])
    return chat.count_overhead(body["messages"]) + sum(
        map(counted.count, chat.list_counted_texts(body, body["messages"]))
    )


def bare(message: Json) -> Json:
    """A message without its texts."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": ""}
    if json_types.is_array(content):
        return {**message, "content": [{**part, "text": ""} if "text" in part else part for part in content]}
    return message


def kept_structure(before: Json, after: Json) -> None:
    rest = [{**body, "messages": None} for body in (before, after)]
    assert rest[0] == rest[1]
    assert list(before) == list(after)
    assert [bare(one) for one in before["messages"]] == [bare(one) for one in after["messages"]]
    for one, other in zip(before["messages"], after["messages"], strict=True):
        assert list(one) == list(other)


def honest(sent: SentRequest, before: Json) -> None:
    """The row adds up, and says what a recount says."""
    after = orjson.loads(sent.forwarded)
    assert accounting.find_inconsistencies(sent.row) == []
    assert sent.row.tokens_received == tokens(before)
    assert sent.row.tokens_sent == tokens(after)
    assert sent.row.tokens_estimated == (not get_token_counter(before["model"]).is_exact)


@whole_request_settings
@given(chats(), styles, steered)
def test_law_1_what_was_forwarded_stays_as_it_was(
    proxy: InProcessProxy, body: Json, style: JsonStyle, asked: dict[str, str]
) -> None:
    proxy.restart()
    before = b"["
    for grown in prefixes(body):
        sent = proxy.send(style(grown), asked)
        honest(sent, grown)
        if sent.context.prompt_diff is None or not sent.context.prompt_diff.is_rewritten:
            assert sent.message_bytes.startswith(before)
        before = sent.message_bytes


@whole_request_settings
@given(chats(), styles, steered)
def test_law_1_every_replica_decides_the_same(
    proxy: InProcessProxy, body: Json, style: JsonStyle, asked: dict[str, str]
) -> None:
    before = cut(body, len(body["messages"]) - 1)
    proxy.restart()
    one = proxy.send(style(before), asked)
    proxy.restart()
    other = proxy.send(style(body), asked)
    if other.context.prompt_diff is None or not other.context.prompt_diff.is_rewritten:
        assert other.message_bytes.startswith(one.message_bytes)


@whole_request_settings
@given(chats(), styles, steered)
def test_laws_3_5_7_only_allowed_texts_differ_and_none_grows(
    proxy: InProcessProxy, body: Json, style: JsonStyle, asked: dict[str, str]
) -> None:
    plain = style(body)
    sent = proxy.send(plain, asked)
    after = orjson.loads(sent.forwarded)
    kept_structure(body, after)
    instructions = [message for message in body["messages"] if message["role"] in ("system", "developer")]
    assert [message for message in after["messages"] if message["role"] in ("system", "developer")] == instructions
    honest(sent, body)
    counted = get_token_counter(body["model"])
    for one, other in zip(body["messages"], after["messages"], strict=True):
        for text, shorter in zip(chat.iter_content_texts(one), chat.iter_content_texts(other), strict=True):
            assert text == shorter or counted.count(shorter) < counted.count(text)
    assert (sent.forwarded is plain) == (sent.forwarded == plain)
    assert (sent.context.engine == "none") == (sent.context.saved_tokens == 0)


@whole_request_settings
@given(chats(), styles, st.sampled_from(["answer", "summary"]))
def test_law_6_what_a_model_made_up_does_not_go_up(
    proxy: InProcessProxy, body: Json, style: JsonStyle, mode: str
) -> None:
    sent = proxy.send(style(body), {**SMALL, "x-clara-mode": mode})
    assert INVENTED_NUMBER.encode() not in sent.forwarded
    assert sent.context.engine in ("clara", "none")


def test_law_6_what_a_model_wrote_is_labelled(tmp_path: Path) -> None:
    with InProcessProxy(tmp_path, clara_worker=FakeWorker()) as proxy:
        for mode in ("answer", "summary"):
            sent = proxy.send(orjson.dumps(long_chat()), {"x-clara-mode": mode})
            assert b"[condensed by a model, quoted: " in sent.forwarded
            assert b"It is about the following." in sent.forwarded


def test_law_7_what_a_model_took_is_told_once(tmp_path: Path) -> None:
    voice = FakeWorker()
    with InProcessProxy(tmp_path, clara_worker=voice) as proxy:
        first = proxy.send(orjson.dumps(long_chat()), {"x-clara-mode": "answer"}).row
        again = proxy.send(orjson.dumps(long_chat()), {"x-clara-mode": "answer"}).row
    assert voice.job_count > 0
    assert (first.compressor_tokens, first.gpu_seconds) == (100 * voice.job_count, 0.25 * voice.job_count)
    assert first.compressor_seconds > 0
    assert (again.compressor_tokens, again.gpu_seconds, again.compressor_seconds) == (0, 0, 0)
    assert again.saved_tokens == first.saved_tokens


@whole_request_settings
@given(chats(tags=False), styles)
def test_law_5_roles_that_were_not_named_are_not_touched(proxy: InProcessProxy, body: Json, style: JsonStyle) -> None:
    sent = proxy.send(style(body), SMALL | {"x-clara-roles": "tool"})
    for one, other in zip(body["messages"], sent.messages, strict=True):
        assert one["role"] in ("tool", "function") or one == other


@whole_request_settings
@given(chats(), styles)
def test_law_5_the_live_instruction_is_not_touched(proxy: InProcessProxy, body: Json, style: JsonStyle) -> None:
    ask = "Tell me which worker timed out first, and say nothing else.\n" * 200
    body["messages"].append({"role": "user", "content": ask.strip()})
    body["messages"].append({"role": "user", "content": [{"type": "text", "text": "And be quick."}]})
    assert proxy.send(style(body), SMALL).messages[-2:] == body["messages"][-2:]


@whole_request_settings
@given(chats(), styles, st.sampled_from(["off", "observe", "bypass"]))
def test_law_5_off_observe_and_bypass_forward_the_very_same_bytes(
    proxy: InProcessProxy, body: Json, style: JsonStyle, way: str
) -> None:
    plain = style(body)
    asked = SMALL | ({"x-clara-bypass": "true"} if way == "bypass" else {"x-clara-mode": way})
    sent = proxy.send(plain, asked)
    assert sent.forwarded is plain
    assert sent.row.saved_tokens == 0
    assert accounting.find_inconsistencies(sent.row) == []
    assert sent.row.mode_used == ("observe" if way == "observe" else "off")
    if way == "observe" and sent.row.would_send is not None:
        assert sent.row.would_send == proxy.send(plain, SMALL).row.tokens_sent


@whole_request_settings
@given(chats(tags=False), styles)
def test_law_5_nothing_compressed_nothing_changed(proxy: InProcessProxy, body: Json, style: JsonStyle) -> None:
    plain = style(body)
    sent = proxy.send(plain, {"x-clara-min-tokens": "999999999"})
    assert sent.forwarded is plain
    assert sent.row.saved_tokens == 0
    assert sent.context.skip_counts


@whole_request_settings
@given(chats(), styles)
def test_structure_replacing_strings_by_themselves_changes_nothing(body: Json, style: JsonStyle) -> None:
    plain = style(body)
    slots = [slot for turn in chat.build_turns(body["messages"]) for slot in turn.slots]
    parsed = orjson.loads(plain)
    assert json_edit.apply_edits(parsed, {slot.path: StringEdit(slot.text, slot.text) for slot in slots}) == parsed
    marked = json_edit.apply_edits(parsed, {slot.path: StringEdit(slot.text, f"<{slot.text}>") for slot in slots})
    kept_structure(body, marked)
    new = [slot.text for turn in chat.build_turns(marked["messages"]) for slot in turn.slots]
    assert new == [f"<{slot.text}>" for slot in slots]


@whole_request_settings
@given(chats(), styles, st.text(st.sampled_from('ab<>/: \n"\\é')), steered)
@example(
    {"model": "gpt-4o", "messages": []}, JSON_STYLES[0], "", {"x-clara-min-tokens": "400", "x-clara-roles": "tool"}
)
def test_tags_never_go_up(
    proxy: InProcessProxy, body: Json, style: JsonStyle, text: str, asked: dict[str, str]
) -> None:
    tagged = f"{text}<clara:keep>{text}</clara:keep>{text}<clara:compress>x{text}</clara:compress>"
    body["messages"].append({"role": "user", "content": [{"type": "text", "text": tagged}]})
    sent = proxy.send(style(body), asked)
    honest(sent, body)
    said = sent.messages[-1]["content"][0]["text"]
    assert not re.search(r"</?clara:", said)
    assert said.startswith(text + text + text)


@whole_request_settings
@given(chats(), styles, steered)
def test_kept_text_is_kept_word_for_word(
    proxy: InProcessProxy, body: Json, style: JsonStyle, asked: dict[str, str]
) -> None:
    kept = "\n".join(f"line {number} of what must stay" for number in range(200))
    body["messages"].append({"role": "user", "content": f"Look:\n<clara:keep>{kept}</clara:keep>\nWhich line is odd?"})
    assert proxy.send(style(body), asked).messages[-1]["content"] == f"Look:\n{kept}\nWhich line is odd?"


# law 4: what a compressor may do to us


def breaks(_: Task) -> CompressedPassage | None:
    raise RuntimeError(f"out of order: {CANARY}")


def late(_: Task) -> CompressedPassage | None:
    time.sleep(0.05)
    return CompressedPassage(("never seen",), 1, "lines")


def refuses(_: Task) -> CompressedPassage | None:
    return None


def grows(task: Task) -> CompressedPassage | None:
    return CompressedPassage((task.text, Gap(1, "lines"), task.text), 2, "lines")


def long_chat() -> Json:
    lines = "\n".join(f"2024-05-01 INFO request {number} took {number * 7 % 90} ms" for number in range(400))
    call = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": '{"command":"make"}'}}
    return {
        "model": "gpt-4o",
        "messages": [
            {"role": "user", "content": "Which request was slow?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": lines},
        ],
    }


@pytest.mark.parametrize(
    ("does", "reason"), [(breaks, "failed"), (late, "late"), (refuses, "refused"), (grows, "no-gain")]
)
def test_law_4_the_original_goes_up_and_the_reason_is_told(
    proxy: InProcessProxy, does: CompressFunction, reason: str
) -> None:
    proxy.restart(lambda _: FakeCompressor(does))
    plain = orjson.dumps(long_chat())
    asked = {"x-clara-deadline-ms": "10" if reason == "late" else "20000"}
    for _ in range(2):  # and stays so: the provider's cache holds it that way
        sent = proxy.send(plain, asked)
        assert sent.forwarded is plain
        assert sent.context.skip_counts[reason] == 1
        assert orjson.loads(sent.row.skipped)[reason] == 1
        assert accounting.find_inconsistencies(sent.row) == []
        assert (b"x-clara-skipped", f"too-short=1, {reason}=1".encode()) in sent.context.build_response_headers()


@pytest.mark.parametrize(("does", "closed"), [(breaks, True), (late, True), (refuses, False), (grows, False)])
def test_law_4_closed_asks_for_an_error_where_something_went_wrong(
    proxy: InProcessProxy, does: CompressFunction, closed: bool
) -> None:
    proxy.restart(lambda _: FakeCompressor(does))
    plain = orjson.dumps(long_chat())
    asked = {"x-clara-fail": "closed", "x-clara-deadline-ms": "10" if does is late else "20000"}
    if not closed:
        assert proxy.send(plain, asked).forwarded is plain
        return
    error, row = proxy.send_rejected(plain, asked)
    assert (error.status, error.code, error.headers["retry-after"]) == (503, "compression_failed", "1")
    assert accounting.find_inconsistencies(row) == []
    assert row.saved_tokens == 0


def test_law_4_what_failed_closed_is_tried_again(proxy: InProcessProxy) -> None:
    enough = threading.Event()

    def slow(_: Task) -> CompressedPassage | None:
        return CompressedPassage(("short",), 1, "lines") if enough.wait(0.5) else None

    proxy.restart(lambda _: FakeCompressor(slow))
    plain = orjson.dumps(long_chat())
    error, _ = proxy.send_rejected(plain, {"x-clara-fail": "closed", "x-clara-deadline-ms": "10"})
    assert error.status == 503
    enough.set()
    assert proxy.send(plain, {"x-clara-fail": "closed"}).messages[-1]["content"].startswith("short")


def test_law_4_a_full_queue_is_no_reason_to_wait(proxy: InProcessProxy) -> None:
    body = long_chat()
    body["messages"].append(
        {"role": "user", "content": "```\n" + body["messages"][-1]["content"][:9000] + "\n```\nAnd?"}
    )
    proxy.restart(lambda _: FakeCompressor(refuses), queue=1)
    sent = proxy.send(orjson.dumps(body))
    assert sent.context.skip_counts["busy"] == 1
    assert accounting.find_inconsistencies(sent.row) == []


@pytest.mark.parametrize("fail", ["open", "closed"])
def test_law_4_a_store_that_is_gone_is_no_reason_to_fail(tmp_path: Path, fail: str) -> None:
    plain = orjson.dumps(long_chat())
    asked = {"x-clara-retrieve": "url", "x-clara-fail": fail}
    with InProcessProxy(tmp_path) as made:
        assert made.send(plain, asked).forwarded != plain
    with InProcessProxy(tmp_path, store=False) as made:
        if fail == "closed":
            error, row = made.send_rejected(plain, asked)
            assert error.status == 503
        else:
            sent = made.send(plain, asked)
            assert sent.forwarded is plain
            assert sent.context.skip_counts == {"failed": 1}
            row = sent.row
    assert accounting.find_inconsistencies(row) == []
    assert row.saved_tokens == 0


@pytest.mark.parametrize("mode", ["answer", "summary", "latent"])
def test_a_mode_that_cannot_be_had_is_refused_and_named(tmp_path: Path, mode: str) -> None:
    with InProcessProxy(tmp_path) as proxy:
        error, row = proxy.send_rejected(orjson.dumps(long_chat()), {"x-clara-mode": mode})
    assert (error.status, error.param) == (400, "x-clara-mode")
    assert mode in error.message
    assert accounting.find_inconsistencies(row) == []


@pytest.mark.parametrize(
    "messages",
    [None, "text", {}, [1], [{}], [{"role": "narrator"}], [{"role": ["user"], "content": "x"}], [{"role": None}]],
)
def test_law_5_what_is_not_understood_goes_up_as_it_came(proxy: InProcessProxy, messages: object) -> None:
    plain = orjson.dumps({"model": "gpt-4o", "messages": messages})
    sent = proxy.send(plain)
    assert sent.forwarded is plain
    assert sent.context.skip_counts == {"unknown-shape": 1}
    assert accounting.find_inconsistencies(sent.row) == []


def test_two_keys_of_one_name_are_nothing_to_edit(proxy: InProcessProxy) -> None:
    messages = orjson.dumps(long_chat()["messages"])
    plain = (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":"a"},1,{"content":"b"}],"messages":' + messages + b"}"
    )
    proxy.restart()
    sent = proxy.send(plain)
    assert sent.forwarded is plain
    assert sent.context.skip_counts == {"failed": 1}
    assert accounting.find_inconsistencies(sent.row) == []


# laws 2 and 8, as far as this path goes


@whole_request_settings
@given(chats(), styles)
def test_markers_name_originals_that_can_be_fetched(proxy: InProcessProxy, body: Json, style: JsonStyle) -> None:
    sent = proxy.send(style(body), SMALL | {"x-clara-retrieve": "url"})
    named = re.findall(rb"/v1/retrieve/([0-9a-f]{16})", sent.forwarded)
    replaced = [passage for passage in sent.context.passages if not passage.reason and passage.kind != "tags"]
    assert len(named) == len(replaced)
    received = [text for message in body["messages"] for text in chat.iter_content_texts(message)]
    for one in named:
        original = proxy.fetch_original(one.decode())
        assert original is not None
        assert any(original in text for text in received)


@whole_request_settings
@given(chats(), styles, steered)
def test_law_8_the_ledger_holds_no_key_and_no_content(
    proxy: InProcessProxy, body: Json, style: JsonStyle, asked: dict[str, str]
) -> None:
    for message in body["messages"]:
        if isinstance(message.get("content"), str):
            message["content"] += f"\n{CANARY}\n"
    sent = proxy.send(style(body), asked | {"x-clara-query": CANARY})
    told = repr(sent.row) + repr(sent.context.build_response_headers())
    assert CANARY not in told
    assert "owner-of-the-secret-key" not in told
    for word in ("worker-7", "shipped", "E4711", "timed out"):
        assert word not in told


@pytest.mark.parametrize("where", ["compressor", "plan"])
def test_law_8_failures_are_logged_without_content(
    proxy: InProcessProxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LookupError(CANARY)

    proxy.restart(lambda _: FakeCompressor(breaks))
    if where == "plan":
        monkeypatch.setattr(policy, "plan_compression", broken)
    plain = orjson.dumps(long_chat())
    assert proxy.send(plain).forwarded is plain
    assert ("LookupError" if where == "plan" else "RuntimeError") in caplog.text
    assert CANARY not in caplog.text
    assert "request 7 took" not in caplog.text


# what a request may ask for


def size(sent: SentRequest) -> int:
    return sent.row.tokens_sent


def test_a_higher_ratio_sends_less_and_a_budget_less_still(proxy: InProcessProxy) -> None:
    proxy.restart()
    plain = orjson.dumps(long_chat())
    little, much, least = (
        proxy.send(plain, asked)
        for asked in ({"x-clara-ratio": "2"}, {"x-clara-ratio": "8"}, {"x-clara-ratio": "2", "x-clara-budget": "300"})
    )
    assert little.row.tokens_received > 1.7 * size(little)
    assert size(little) > size(much) > size(least)
    assert size(least) <= 300
    assert "over-budget" not in least.context.skip_counts


@whole_request_settings
@given(chats(), st.integers(1, 5000))
def test_a_budget_is_kept_or_the_client_is_told(proxy: InProcessProxy, body: Json, budget: int) -> None:
    sent = proxy.send(orjson.dumps(body), SMALL | {"x-clara-budget": str(budget)})
    assert (size(sent) > budget) == ("over-budget" in sent.context.skip_counts)


def test_a_short_conversation_over_its_budget_is_told_too(proxy: InProcessProxy) -> None:
    plain = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello, who are you?"}]})
    sent = proxy.send(plain, {"x-clara-budget": "5"})
    assert sent.forwarded is plain
    assert sent.context.skip_counts == {"too-short": 1, "over-budget": 1}


def test_a_query_takes_the_place_of_every_question(proxy: InProcessProxy) -> None:
    double = FakeCompressor(refuses)

    def find(_: str) -> Compressor:
        return double

    proxy.restart(find)
    plain = orjson.dumps(long_chat())
    proxy.send(plain)
    proxy.send(plain, {"x-clara-query": "What took 89 ms?"})
    assert [task.question for task in double.tasks] == [
        'Which request was slow?\nshell {"command":"make"}',
        "What took 89 ms?",
    ]


def test_a_threshold_is_kept(proxy: InProcessProxy) -> None:
    proxy.restart()
    plain = orjson.dumps(long_chat())
    whole = get_token_counter("gpt-4o").count(long_chat()["messages"][2]["content"])
    assert proxy.send(plain, {"x-clara-min-tokens": str(whole)}).row.saved_tokens > 0
    sent = proxy.send(plain, {"x-clara-min-tokens": str(whole + 1)})
    assert (sent.forwarded, sent.context.skip_counts) == (plain, {"too-short": 3})
