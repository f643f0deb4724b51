"""Law 2 on recorded conversations, on every protocol: whatever a marker names can be had back, byte for byte."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from clara_proxy.proxy.commands.demo import run
from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.proxy.protocols.json_edit import Path as Place
from clara_proxy.proxy.protocols.json_types import is_array, is_object
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter
from clara_proxy.tests.proxy.inprocess import InProcessProxy
from clara_proxy.tests.wires import as_chat, as_messages, as_responses

Json = dict[str, Any]
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "trajectories.jsonl.gz"
ID = re.compile(rf"\[[^\[\]]*; {TOOL_NAME} ([0-9a-f]{{12,24}})\]")
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]
WIRES: list[tuple[ProtocolAdapter, Callable[[Json], Json]]] = [
    (chat.ADAPTER, as_chat),
    (responses.ADAPTER, as_responses),
    (messages.ADAPTER, as_messages),
]
EVERY_WIRE = pytest.mark.parametrize(("wire", "written"), WIRES, ids=[wire.name for wire, _ in WIRES])


def strings(value: Any, at: Place = ()) -> Iterator[tuple[Place, str]]:
    """List all strings of a body with their places."""
    if isinstance(value, str):
        yield at, value
    elif is_array(value):
        for index, one in enumerate(value):
            yield from strings(one, (*at, index))
    elif is_object(value):
        for key, one in value.items():
            yield from strings(one, (*at, key))


def named(proxy: InProcessProxy, body: Json) -> dict[str, str]:
    """Send a body and return what its markers name, each with the text that it stands in."""
    sent = orjson.loads(proxy.send(orjson.dumps(body)).forwarded)
    before = dict(strings(body))
    changed = [(text, before[place]) for place, text in strings(sent) if place in before and text != before[place]]
    return {name: whole for text, whole in changed for name in ID.findall(text)}


def redeems(proxy: InProcessProxy, names: dict[str, str]) -> bool:
    """Say whether everything can be had back as it was."""
    found = {name: proxy.fetch_original(name) for name in names}
    return all(original and original in whole for original, whole in zip(found.values(), names.values(), strict=True))


@EVERY_WIRE
@pytest.mark.parametrize("recorded", [False, True], ids=["sample", "all"])
def test_every_marker_here_on_a_replica_and_after_a_restart(
    tmp_path: Path, wire: ProtocolAdapter, written: Callable[[Json], Json], recorded: bool
) -> None:
    if recorded and not RECORDED.exists():
        pytest.skip("the evaluation data ../shared/data is not here")
    names: dict[str, str] = {}
    with (
        InProcessProxy(tmp_path, adapter=wire, offer_tool=True) as proxy,
        InProcessProxy(tmp_path, adapter=wire) as replica,
    ):
        for conversation in run.read_conversations(RECORDED if recorded else None):
            body = written({"model": "gpt-4o", "messages": conversation["messages"], "tools": TOOLS})
            names |= named(proxy, body)
        assert len(names) > (100 if recorded else 5)
        assert redeems(proxy, names)
        assert redeems(replica, names)
    with InProcessProxy(tmp_path, adapter=wire) as restarted:
        assert redeems(restarted, names)
