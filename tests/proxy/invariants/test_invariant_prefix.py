"""Invariant "prefix": bytes forwarded for earlier messages stay identical as a conversation grows.

The exception is a pruning point, where the context reports a rewritten prompt.
"""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.tests.proxy.inprocess import JsonStyle, whole_request_settings
from clara_proxy.tests.proxy.invariants.cases import ProtocolCase, few_examples, is_pruned, json_styles, option_headers


@whole_request_settings
@given(st.data(), json_styles, option_headers)
def test_prefix_stays_identical_as_the_conversation_grows(
    case: ProtocolCase, data: st.DataObject, style: JsonStyle, headers: dict[str, str]
) -> None:
    body = data.draw(case.protocol.bodies)
    proxy = data.draw(st.sampled_from([case.plain, case.offering]))
    proxy.restart()
    before = b"["
    for length in range(1, case.count_messages(body) + 1):
        grown = case.cut(body, length)
        sent = proxy.send(style(grown), headers)
        case.check_row(sent, grown)
        after = case.list_bytes(sent)
        if not is_pruned(sent):
            assert after.startswith(before)
        before = after


@few_examples
@given(st.data(), json_styles, option_headers)
def test_every_replica_forwards_the_same_prefix(
    case: ProtocolCase, data: st.DataObject, style: JsonStyle, headers: dict[str, str]
) -> None:
    body = data.draw(case.protocol.bodies)
    case.plain.restart()
    before = case.plain.send(style(case.cut(body, case.count_messages(body) - 1)), headers)
    case.plain.restart()
    after = case.plain.send(style(body), headers)
    if not is_pruned(after):
        assert case.list_bytes(after).startswith(case.list_bytes(before))
