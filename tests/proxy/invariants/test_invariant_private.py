"""Invariant "private": no key and no content in the ledger, in response headers or in logs."""

import orjson
import pytest
from hypothesis import given

from clara_proxy.compression import planning
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import (
    OWNER,
    FakeCompressor,
    InProcessProxy,
    JsonStyle,
    whole_request_settings,
)
from clara_proxy.tests.proxy.invariants.cases import ProtocolCase, add_tools, json_styles, option_headers
from clara_proxy.tests.proxy.invariants.compressors import CANARY, fail, long_chat


@whole_request_settings
@given(chats(), json_styles, option_headers)
def test_row_and_headers_hold_no_key_and_no_content(
    case: ProtocolCase, conversation: Json, style: JsonStyle, headers: dict[str, str]
) -> None:
    for message in conversation["messages"]:
        if isinstance(message.get("content"), str):
            message["content"] += f"\n{CANARY}\n"
    sent = case.offering.send(style(case.convert(add_tools(conversation))), headers | {"x-clara-query": CANARY})
    output = repr(sent.row) + repr(sent.context.build_response_headers())
    for secret in (CANARY, OWNER, "worker-7", "shipped", "E4711", "timed out"):
        assert secret not in output


@pytest.mark.parametrize("source", ["compressor", "plan"])
def test_failures_are_logged_without_content(
    chat_proxy: InProcessProxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def fail_to_plan(*_: object, **__: object) -> None:
        raise LookupError(CANARY)

    chat_proxy.restart(lambda _: FakeCompressor(fail))
    if source == "plan":
        monkeypatch.setattr(planning, "plan_compression", fail_to_plan)
    body = orjson.dumps(long_chat())
    assert chat_proxy.send(body).forwarded is body
    assert ("LookupError" if source == "plan" else "RuntimeError") in caplog.text
    assert CANARY not in caplog.text
    assert "request 7 took" not in caplog.text
