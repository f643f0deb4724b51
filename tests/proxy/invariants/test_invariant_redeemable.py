"""Invariant "redeemable": a marker names an original only if this client can fetch it back, byte for byte."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given

from clara_proxy.proxy.commands.demo import run
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.json_edit import Path as JsonPath
from clara_proxy.proxy.protocols.json_types import is_array, is_object
from clara_proxy.proxy.stores.ledger_row import ADDED_KIND
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import InProcessProxy, JsonStyle, SentRequest, whole_request_settings
from clara_proxy.tests.proxy.invariants.cases import (
    LOW_MINIMUM,
    PROTOCOLS,
    ProtocolCase,
    add_tools,
    few_examples,
    json_styles,
)

RECORDED = Path(__file__).resolve().parents[4] / "shared" / "data" / "trajectories.jsonl.gz"
MARKER = re.compile(rf"\[[^\[\]]*; {TOOL_NAME} ([0-9a-f]{{12,24}})\]")


def check_originals(case: ProtocolCase, proxy: InProcessProxy, body: Json, sent: SentRequest, ids: list[str]) -> None:
    """Check that there is an original for every compressed passage, and that each is a part of the request."""
    ignored_kinds = ("tags", ADDED_KIND)
    compressed = [passage for passage in sent.context.passages if not passage.reason]
    assert len(ids) == len([passage for passage in compressed if passage.kind not in ignored_kinds])
    texts = case.list_texts(body)
    for original_id in ids:
        original = proxy.fetch_original(original_id)
        assert original is not None
        assert any(original in text for text in texts)
        assert proxy.fetch_original(original_id, owner="another owner") is None


@whole_request_settings
@given(chats(tags=False), json_styles)
def test_original_of_a_tool_marker_is_fetched_by_its_owner_only(
    case: ProtocolCase, conversation: Json, style: JsonStyle
) -> None:
    body = case.convert(add_tools(conversation))
    sent = case.offering.send(style(body), LOW_MINIMUM)
    ids = re.findall(rf"{TOOL_NAME} ([0-9a-f]{{16}})", sent.forwarded.decode())
    check_originals(case, case.offering, body, sent, ids)


@few_examples
@given(chats(), json_styles)
def test_original_of_a_url_marker_is_fetched_by_its_owner_only(
    case: ProtocolCase, conversation: Json, style: JsonStyle
) -> None:
    body = case.convert(conversation)
    sent = case.plain.send(style(body), LOW_MINIMUM | {"x-clara-retrieve": "url"})
    ids = re.findall(r"/v1/retrieve/([0-9a-f]{16})", sent.forwarded.decode())
    check_originals(case, case.plain, body, sent, ids)


def iter_strings(value: Any, path: JsonPath = ()) -> Iterator[tuple[JsonPath, str]]:
    """Yield all strings of a JSON value with their paths."""
    if isinstance(value, str):
        yield path, value
    elif is_array(value):
        for index, item in enumerate(value):
            yield from iter_strings(item, (*path, index))
    elif is_object(value):
        for key, item in value.items():
            yield from iter_strings(item, (*path, key))


def find_markers(proxy: InProcessProxy, body: Json) -> dict[str, str]:
    """Send a body and return the ids of its markers, each with the text that its passage came from."""
    sent = orjson.loads(proxy.send(orjson.dumps(body)).forwarded)
    before = dict(iter_strings(body))
    changes = [(text, before[path]) for path, text in iter_strings(sent) if path in before and text != before[path]]
    return {original_id: before for text, before in changes for original_id in MARKER.findall(text)}


def check_all(proxy: InProcessProxy, markers: dict[str, str]) -> None:
    """Check that every original is there, and is a part of its text."""
    for original_id, text in markers.items():
        original = proxy.fetch_original(original_id)
        assert original
        assert original in text


@pytest.mark.parametrize("name", list(PROTOCOLS))
@pytest.mark.parametrize("recorded", [False, True], ids=["sample", "all"])
def test_originals_are_fetched_from_a_replica_and_after_a_restart(tmp_path: Path, name: str, recorded: bool) -> None:
    if recorded and not RECORDED.exists():
        pytest.skip("the evaluation data ../shared/data is not here")
    protocol = PROTOCOLS[name]
    markers: dict[str, str] = {}
    with (
        InProcessProxy(tmp_path, adapter=protocol.adapter, offer_tool=True) as proxy,
        InProcessProxy(tmp_path, adapter=protocol.adapter) as replica,
    ):
        for conversation in run.read_conversations(RECORDED if recorded else None):
            chat = add_tools({"model": "gpt-4o", "messages": conversation["messages"]})
            markers |= find_markers(proxy, protocol.convert(chat))
        assert len(markers) > (100 if recorded else 5)
        check_all(proxy, markers)
        check_all(replica, markers)
    with InProcessProxy(tmp_path, adapter=protocol.adapter) as restarted:
        check_all(restarted, markers)
