"""Invariant "fail open": a compressor that fails or is late is skipped, and the request says why."""

import threading
from pathlib import Path

import orjson
import pytest
from hypothesis import given

from clara_proxy.compression.compressor import CompressedPassage, Task
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import (
    JSON_STYLES,
    CompressFunction,
    FakeCompressor,
    InProcessProxy,
    JsonStyle,
    whole_request_settings,
)
from clara_proxy.tests.proxy.invariants.cases import LOW_MINIMUM, ProtocolCase, add_tools, json_styles
from clara_proxy.tests.proxy.invariants.compressors import exceed_deadline, fail, grow, long_chat, refuse

DEDUPLICATED = "shown before"  # the text of a repeated passage, which needs no compressor


@pytest.mark.parametrize(
    ("compress", "reason"),
    [(fail, "failed"), (exceed_deadline, "late"), (refuse, "refused"), (grow, "no-gain")],
)
@pytest.mark.parametrize("style", JSON_STYLES)
def test_original_is_forwarded_and_the_reason_is_reported(
    case: ProtocolCase, compress: CompressFunction, reason: str, style: JsonStyle
) -> None:
    case.plain.restart(lambda _: FakeCompressor(compress))
    body = style(case.convert(add_tools(long_chat())))
    headers = {"x-clara-deadline-ms": "10" if reason == "late" else "20000"}
    for _ in range(2):  # the outcome stays, because the provider has cached the original
        sent = case.plain.send(body, headers)
        assert sent.forwarded is body
        assert sent.context.skip_counts[reason] == 1
        assert orjson.loads(sent.row.skipped)[reason] == 1
        assert accounting.find_inconsistencies(sent.row) == []
        assert (b"x-clara-skipped", f"too-short=1, {reason}=1".encode()) in sent.context.build_response_headers()
    case.plain.restart()


@whole_request_settings
@given(chats(tags=False), json_styles)
def test_failing_compressor_changes_nothing_but_repeats(
    case: ProtocolCase, conversation: Json, style: JsonStyle
) -> None:
    case.plain.restart(lambda _: FakeCompressor(fail))
    body = style(case.convert(conversation))
    sent = case.plain.send(body, LOW_MINIMUM)
    case.plain.restart()
    assert all(DEDUPLICATED in after for _, after in case.iter_changes(orjson.loads(body), sent.forwarded))
    assert accounting.find_inconsistencies(sent.row) == []


@pytest.mark.parametrize(
    ("compress", "is_failure"), [(fail, True), (exceed_deadline, True), (refuse, False), (grow, False)]
)
def test_fail_closed_rejects_a_request_only_after_a_failure(
    chat_proxy: InProcessProxy, compress: CompressFunction, is_failure: bool
) -> None:
    chat_proxy.restart(lambda _: FakeCompressor(compress))
    body = orjson.dumps(long_chat())
    headers = {"x-clara-fail": "closed", "x-clara-deadline-ms": "10" if compress is exceed_deadline else "20000"}
    if not is_failure:
        assert chat_proxy.send(body, headers).forwarded is body
        return
    error, row = chat_proxy.send_rejected(body, headers)
    assert (error.status, error.code, error.headers["retry-after"]) == (503, "compression_failed", "1")
    assert accounting.find_inconsistencies(row) == []
    assert row.saved_tokens == 0


def test_passage_of_a_rejected_request_is_compressed_again(chat_proxy: InProcessProxy) -> None:
    is_fast = threading.Event()

    def compress(_: Task) -> CompressedPassage | None:
        return CompressedPassage(("short",), 1, "lines") if is_fast.wait(0.5) else None

    chat_proxy.restart(lambda _: FakeCompressor(compress))
    body = orjson.dumps(long_chat())
    error, _ = chat_proxy.send_rejected(body, {"x-clara-fail": "closed", "x-clara-deadline-ms": "10"})
    assert error.status == 503
    is_fast.set()
    assert chat_proxy.send(body, {"x-clara-fail": "closed"}).messages[-1]["content"].startswith("short")


def test_full_queue_does_not_delay_a_request(chat_proxy: InProcessProxy) -> None:
    body = long_chat()
    lines = body["messages"][-1]["content"][:9000]
    body["messages"].append({"role": "user", "content": f"```\n{lines}\n```\nAnd?"})
    chat_proxy.restart(lambda _: FakeCompressor(refuse), queue=1)
    sent = chat_proxy.send(orjson.dumps(body))
    assert sent.context.skip_counts["busy"] == 1
    assert accounting.find_inconsistencies(sent.row) == []


@pytest.mark.parametrize("fail_option", ["open", "closed"])
def test_missing_store_fails_only_a_closed_request(tmp_path: Path, fail_option: str) -> None:
    body = orjson.dumps(long_chat())
    headers = {"x-clara-retrieve": "url", "x-clara-fail": fail_option}
    with InProcessProxy(tmp_path) as proxy:
        assert proxy.send(body, headers).forwarded != body
    with InProcessProxy(tmp_path, store=False) as proxy:
        if fail_option == "closed":
            error, row = proxy.send_rejected(body, headers)
            assert error.status == 503
        else:
            sent = proxy.send(body, headers)
            assert sent.forwarded is body
            assert sent.context.skip_counts == {"failed": 1}
            row = sent.row
    assert accounting.find_inconsistencies(row) == []
    assert row.saved_tokens == 0
