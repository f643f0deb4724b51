"""A request gets each stored text once, and no more text than the model's context holds."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.expand.handler import MAX_CALLS_PER_ROUND, ExpandHandler
from clara_proxy.proxy.protocols.expand_call import ExpandCall
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.tests.running import LOG_TEXT

OWNER = "owner"
VOCABULARY = get_token_counter("gpt-4o")
SHOWN = "This text is already shown above."


@pytest.fixture
async def originals(tmp_path: Path) -> AsyncIterator[Originals]:
    store = Originals(tmp_path / "originals.sqlite3", 3600)
    await store.start()
    yield store
    await store.stop()


@pytest.fixture
async def name(originals: Originals) -> str:
    return (await originals.put(OWNER, [LOG_TEXT]))[0]


def call(name: str, **more: str) -> ExpandCall:
    return ExpandCall("c", json.dumps({"id": name, **more}))


async def test_a_text_is_answered_once_a_round_and_once_a_request(originals: Originals, name: str) -> None:
    handler = ExpandHandler(originals, OWNER, VOCABULARY)
    first = await handler.answer_calls([call(name)] * 40)
    assert first[:MAX_CALLS_PER_ROUND] == [LOG_TEXT] + [SHOWN] * (MAX_CALLS_PER_ROUND - 1)
    assert len(first) == 40
    assert await handler.answer_calls([call(f"clara:{name}"), call(name, lines="1-3")]) == [SHOWN, SHOWN]
    assert handler.fetched_tokens < VOCABULARY.count(LOG_TEXT) + 500
    assert await ExpandHandler(originals, OWNER, VOCABULARY).answer_calls([call(name)]) == [LOG_TEXT]


async def test_different_lines_of_a_text_are_answered_until_it_was_shown_once(originals: Originals, name: str) -> None:
    handler = ExpandHandler(originals, OWNER, VOCABULARY)
    lines = LOG_TEXT.split("\n")
    pages = await handler.answer_calls([call(name, lines="1-200"), call(name, lines="201-399")])
    assert pages == ["\n".join(lines[:200]), "\n".join(lines[200:399])]
    repeated = [call(name, lines=f"{start}-399") for start in range(1, 9)]
    assert await handler.answer_calls(repeated) == [SHOWN] * 8
    assert handler.fetched_tokens < VOCABULARY.count(LOG_TEXT) + 500


async def test_results_fit_into_the_context(originals: Originals) -> None:
    names = await originals.put(OWNER, [f"{number}\n{LOG_TEXT}" for number in range(8)])
    handler = ExpandHandler(originals, OWNER, VOCABULARY)
    handler.free_tokens = 3 * VOCABULARY.count(LOG_TEXT)
    results = await handler.answer_calls([call(name) for name in names])
    assert sum(LOG_TEXT in result for result in results) == 2
    assert all("has no room for it" in result for result in results[2:])
    assert sum(map(VOCABULARY.count, results)) <= 3 * VOCABULARY.count(LOG_TEXT) + 300
    assert LOG_TEXT.split("\n")[0] in (await handler.answer_calls([call(names[7], lines="1-9")]))[0]
