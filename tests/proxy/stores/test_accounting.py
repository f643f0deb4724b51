import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.accounting import apply_bill, find_inconsistencies, mark_as_shadow
from clara_proxy.proxy.stores.ledger_row import COUNTED_OUTCOMES, Outcome, Passage, Row, encode_labels, encode_passages
from clara_proxy.proxy.stores.usage import Usage, compute_cost, read_usage
from clara_proxy.tests.proxy.stores.usages import COUNT, JSON, PRICES, usages

RATES = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
USAGE = Usage(100, 10, None, 60, 20)
OUTCOMES: list[Outcome] = ["ok", "cancelled", "served", "rejected", "upstream_error", "failed"]
TEXT = st.text(st.characters(codec=None))


@st.composite
def passages(draw: st.DrawFn) -> Passage:
    after, less = draw(COUNT), draw(COUNT)
    kind = draw(st.sampled_from(["json", "log"]))
    return Passage(kind, draw(TEXT), after + less, after, "" if less else "short")


@st.composite
def rows(draw: st.DrawFn) -> Row:
    seen = draw(st.lists(passages(), max_size=5))
    sent = draw(COUNT) + sum(passage.after for passage in seen)
    received = sent + sum(passage.before - passage.after for passage in seen)
    row = Row(
        id="r1",
        at=1.0,
        model="m",
        mode_used="extract",
        outcome=draw(st.sampled_from(OUTCOMES)),
        tokens_received=received,
        tokens_sent=sent,
        passages=encode_passages(seen),
        tags=encode_labels(draw(st.dictionaries(TEXT, TEXT, max_size=3))),
        skipped=encode_labels(draw(st.dictionaries(TEXT, st.integers(1, 99), max_size=3))),
    )
    return apply_bill(row, draw(st.none() | usages()), draw(st.none() | PRICES), draw(st.none() | usages()))


# savings


def priced(without: Usage | None, usage: Usage | None = USAGE, price: Price | None = RATES, **known: Any) -> Row:
    row = Row("r", 1.0, mode_used="extract", tokens_received=130, tokens_sent=100)._replace(**known)
    return apply_bill(row, usage, price, without)


def test_what_was_saved_is_what_it_would_have_cost_less_what_it_cost() -> None:
    row = priced(Usage(130, 10, None, 90, 20))
    assert row.cost == 20 * 2.0 + 60 * 0.5 + 20 * 3.0 + 10 * 8.0
    assert row.cost_without == 20 * 2.0 + 90 * 0.5 + 20 * 3.0 + 10 * 8.0
    assert row.saved_cost == 30 * 0.5
    assert (row.without_input, row.without_output, row.without_cache_read, row.without_cache_write) == (130, 10, 90, 20)


def test_a_saving_may_be_a_loss() -> None:
    row = priced(Usage(130, 10, None, 128))  # it would have been cached nearly whole
    assert row.saved_cost == (2 * 2.0 + 128 * 0.5) - (20 * 2.0 + 60 * 0.5 + 20 * 3.0)
    assert (row.saved_cost or 0.0) < 0
    assert find_inconsistencies(row) == []


@pytest.mark.parametrize(
    ("usage", "without", "price"),
    [(None, None, RATES), (USAGE, None, RATES), (USAGE, Usage(130, 10), None), (USAGE, Usage(), RATES)],
)
def test_savings_are_unknown_without_a_bill_a_price_or_what_it_would_have_been(
    usage: Usage | None, without: Usage | None, price: Price | None
) -> None:
    assert priced(without, usage, price).saved_cost is None


@given(usages(), PRICES, st.sampled_from(["off", "observe", "extract"]))
def test_a_request_that_went_up_as_it_came_saved_nothing(usage: Usage, price: Price, mode: str) -> None:
    row = priced(None, usage, price, tokens_received=100, mode_used=mode)
    assert (row.saved_cost, row.cost_without) == (None if row.cost is None else 0.0, row.cost)
    assert find_inconsistencies(row) == []


@given(usages(), st.none() | usages(), PRICES)
def test_a_row_s_money_adds_up(usage: Usage, without: Usage | None, price: Price) -> None:
    row = priced(without, usage, price)
    if row.saved_cost is not None:
        assert row.cost is not None
        assert row.cost_without is not None
        assert math.isclose(row.saved_cost + row.cost, row.cost_without, abs_tol=1e-9)
    assert row.cost == compute_cost(usage, price)
    assert find_inconsistencies(row) == []


def test_a_long_prompt_is_billed_at_its_own_tier() -> None:
    price = Price(input=1.0, output=2.0, tiers=((200, Price(input=3.0, output=4.0)),))
    row = priced(Usage(230, 10), Usage(200, 10), price)
    assert (row.price_input, row.cost, row.cost_without) == (1.0, 200 * 1.0 + 10 * 2.0, 230 * 3.0 + 10 * 4.0)
    assert find_inconsistencies(row) == []
    assert find_inconsistencies(row._replace(cost_without=9.0, saved_cost=9.0 - 220.0)) != []


def test_several_short_prompts_are_not_one_long_one() -> None:
    price = Price(input=1.0, output=2.0, tiers=((200, Price(input=3.0, output=4.0)),))
    assert apply_bill(Row("r", 1.0), Usage(300, 10), price, longest_prompt=160).price_input == 1.0


def test_what_only_the_proxy_asked_is_all_a_loss() -> None:
    row = mark_as_shadow(apply_bill(Row("r", 1.0), USAGE, RATES), "another", {"tools": 1.0})
    assert (row.cost_without, row.saved_cost) == (0.0, -(row.cost or 0.0))
    assert row == apply_bill(Row("r", 1.0, shadow_of="another", agreement='{"tools":1.0}'), USAGE, RATES)
    assert find_inconsistencies(row) == []


@given(JSON, JSON, PRICES)
def test_whatever_a_provider_says_the_row_adds_up(said: object, more: object, price: Price) -> None:
    assert find_inconsistencies(apply_bill(Row("r", 1.0), read_usage(said, more), price)) == []


# the row


@given(rows())
def test_a_settled_row_adds_up(row: Row) -> None:
    assert find_inconsistencies(row) == []
    assert row.tokens_sent + row.saved_tokens == row.tokens_received


@given(rows())
def test_nothing_is_saved_by_a_request_that_came_to_nothing(row: Row) -> None:
    assert row.saved_cost is None or row.outcome in COUNTED_OUTCOMES


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"saved_tokens": 31}, "saved_tokens is not received - sent"),
        ({"tokens_sent": -1}, "tokens_sent is negative"),
        ({"latency_ms": -1.0}, "latency_ms is negative"),
        ({"price_input": -1.0}, "price_input is negative"),
        ({"overhead_ms": 5.0}, "overhead_ms exceeds latency_ms"),
        ({"billed_cache_read": 101}, "more cached than billed input"),
        ({"billed_reasoning": 11}, "more reasoning than billed output"),
        ({"cost": 9.0}, "cost is not what tokens and prices make"),
        ({"cost": None}, "cost is not what tokens and prices make"),
        ({"price_output": 9.0}, "cost is not what tokens and prices make"),
        ({"saved_cost": 9.0}, "saved_cost is not cost_without - cost"),
        ({"saved_cost": None}, "saved_cost is not cost_without - cost"),
        ({"cost_without": 9.0}, "cost_without is not what tokens and prices make"),
        ({"without_input": 9}, "cost_without is not what tokens and prices make"),
        ({"without_cache_read": 131}, "more cached than input without us"),
        ({"outcome": "failed"}, "money was saved by a request that came to nothing"),
        ({"mode_used": "off"}, "mode off saved money"),
        ({"mode_used": "observe"}, "mode observe sent something else than it received"),
        ({"passages": "{}"}, "passages is not a JSON list of passages"),
        ({"passages": '[{"kind":"log"}]'}, "passages is not a JSON list of passages"),
        ({"passages": encode_passages([Passage("log", "", 50, 30)])}, "passages do not add up to what was saved"),
        ({"passages": encode_passages([Passage("log", "", 50, 60)])}, "a passage grew"),
        ({"passages": encode_passages([Passage("log", "", 50, 20, "late")])}, "a passage that was left alone changed"),
        ({"skipped": "[]"}, "skipped is not a JSON object of counts"),
        ({"skipped": '{"late":0}'}, "skipped is not a JSON object of counts"),
        ({"tags": '{"team":1}'}, "tags is not a JSON object of texts"),
        ({"tags": "{"}, "tags is not a JSON object of texts"),
    ],
)
def test_check_names_what_is_wrong(change: dict[str, Any], complaint: str) -> None:
    seen = encode_passages([Passage("log", "bash", 50, 20), Passage("json", "", 9, 9, "short")])
    row = Row("r", 1.0, mode_used="extract", tokens_received=130, tokens_sent=100, passages=seen)
    row = apply_bill(row, Usage(100, 10, 4, 60), RATES, Usage(130, 10, None, 90))
    assert find_inconsistencies(row) == []
    assert complaint in find_inconsistencies(row._replace(**change))


def test_observing_saves_nothing_and_says_what_it_would_have_sent() -> None:
    row = Row("r", 1.0, mode_used="observe", tokens_received=130, tokens_sent=130, would_send=100)
    row = apply_bill(
        row._replace(passages=encode_passages([Passage("log", "bash", 50, 20)])), Usage(130, 1), Price(2.0, 2.0)
    )
    assert find_inconsistencies(row) == []
    assert (row.saved_tokens, row.saved_cost) == (0, 0.0)


@given(TEXT)
def test_any_text_can_be_written_down(text: str) -> None:
    for written in (
        encode_passages([Passage(text, text, 1, 1, text)]),
        encode_labels({text: text}),
        encode_labels({text: 1}),
    ):
        assert orjson.loads(written.encode())
