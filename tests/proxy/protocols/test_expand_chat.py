"""The hidden tool on chat completions: details beyond the contract of `test_expand_contract`."""

import asyncio
from collections.abc import Iterator

import pytest

from clara_proxy.proxy.expand.handler import ExpandHandler
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.expand_apis import ChatApi
from clara_proxy.tests.proxy.protocols.expand_data import FINAL_TEXT
from clara_proxy.tests.running import Proxy


@pytest.fixture
def api(proxy: Proxy, upstream: FaultyUpstream) -> Iterator[ChatApi]:
    with ChatApi.create_client(proxy.url) as client:
        yield ChatApi(proxy, upstream, client)


def test_stream_has_the_id_of_the_first_round(api: ChatApi) -> None:
    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    chunks = list(api.client.chat.completions.create(**api.build_request(), stream=True))
    assert len(api.upstream.requests) == 2
    assert {chunk.id for chunk in chunks} == {"chatcmpl-1"}


def test_hidden_rounds_are_stored_before_the_end_of_the_stream(api: ChatApi, monkeypatch: pytest.MonkeyPatch) -> None:
    store_hidden = ExpandHandler.store_hidden

    async def store_slowly(self: ExpandHandler, prefix_hash: str, hidden: bytes) -> None:
        await asyncio.sleep(0.3)
        await store_hidden(self, prefix_hash, hidden)

    api.run_model(api.expand_once(then=[FINAL_TEXT]))
    monkeypatch.setattr(ExpandHandler, "store_hidden", store_slowly)
    request = api.build_request()
    for chunk in api.client.chat.completions.create(**request, stream=True):
        if chunk.choices and chunk.choices[0].finish_reason:
            break
    before = api.upstream.last_request.json["messages"]
    request["messages"] += [{"role": "assistant", "content": FINAL_TEXT}, {"role": "user", "content": "and now?"}]
    api.client.chat.completions.create(**request)
    assert api.upstream.last_request.json["messages"][: len(before)] == before
