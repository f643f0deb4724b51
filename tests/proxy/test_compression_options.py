"""The options of a request take effect: ratio, budget, query, threshold and mode."""

from collections.abc import Generator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.compressor import Compressor
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.stores import accounting
from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import FakeCompressor, InProcessProxy, whole_request_settings
from clara_proxy.tests.proxy.invariants.compressors import long_chat, refuse


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path_factory.mktemp("options")) as proxy:
        yield proxy


@pytest.fixture
def chat_proxy(shared_proxy: InProcessProxy) -> InProcessProxy:
    """A proxy without outcomes of other tests."""
    shared_proxy.restart()
    return shared_proxy


@pytest.mark.parametrize("mode", ["answer", "summary", "latent"])
def test_unavailable_mode_is_rejected_by_name(chat_proxy: InProcessProxy, mode: str) -> None:
    error, row = chat_proxy.send_rejected(orjson.dumps(long_chat()), {"x-clara-mode": mode})
    assert (error.status, error.param) == (400, "x-clara-mode")
    assert mode in error.message
    assert accounting.find_inconsistencies(row) == []


def test_higher_ratio_sends_less_and_a_budget_less_still(chat_proxy: InProcessProxy) -> None:
    body = orjson.dumps(long_chat())
    low_ratio, high_ratio, budget = (
        chat_proxy.send(body, headers)
        for headers in (
            {"x-clara-ratio": "2"},
            {"x-clara-ratio": "8"},
            {"x-clara-ratio": "2", "x-clara-budget": "300"},
        )
    )
    assert low_ratio.row.tokens_received > 1.7 * low_ratio.row.tokens_sent
    assert low_ratio.row.tokens_sent > high_ratio.row.tokens_sent > budget.row.tokens_sent
    assert budget.row.tokens_sent <= 300
    assert "over-budget" not in budget.context.skip_counts


@whole_request_settings
@given(chats(), st.integers(1, 5000))
def test_exceeded_budget_is_reported(shared_proxy: InProcessProxy, body: Json, budget: int) -> None:
    sent = shared_proxy.send(orjson.dumps(body), {"x-clara-min-tokens": "60", "x-clara-budget": str(budget)})
    assert (sent.row.tokens_sent > budget) == ("over-budget" in sent.context.skip_counts)


def test_exceeded_budget_of_a_short_conversation_is_reported(chat_proxy: InProcessProxy) -> None:
    body = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello, who are you?"}]})
    sent = chat_proxy.send(body, {"x-clara-budget": "5"})
    assert sent.forwarded is body
    assert sent.context.skip_counts == {"too-short": 1, "over-budget": 1}


def test_query_replaces_the_question_of_every_passage(chat_proxy: InProcessProxy) -> None:
    compressor = FakeCompressor(refuse)

    def find_compressor(_: str) -> Compressor:
        return compressor

    chat_proxy.restart(find_compressor)
    body = orjson.dumps(long_chat())
    chat_proxy.send(body)
    chat_proxy.send(body, {"x-clara-query": "What took 89 ms?"})
    assert [task.question for task in compressor.tasks] == [
        "Which request was slow?\nshell make",
        "What took 89 ms?",
    ]


def test_passage_below_the_minimum_is_not_compressed(chat_proxy: InProcessProxy) -> None:
    body = orjson.dumps(long_chat())
    size = get_token_counter("gpt-4o").count(long_chat()["messages"][2]["content"])
    assert chat_proxy.send(body, {"x-clara-min-tokens": str(size)}).row.saved_tokens > 0
    sent = chat_proxy.send(body, {"x-clara-min-tokens": str(size + 1)})
    assert (sent.forwarded, sent.context.skip_counts) == (body, {"too-short": 2})
