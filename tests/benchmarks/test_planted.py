"""Planted outputs: enough and long enough, each fact exactly once, the same for the same seed."""

from collections.abc import Callable
from random import Random

import pytest

from clara_proxy.benchmarks import plants_traces
from clara_proxy.benchmarks.plant import Plant
from clara_proxy.benchmarks.planted import PLANTS, format_table, measure_plant, summarize_rows
from clara_proxy.compression.tokens import get_token_counter

EVERY_PLANT = pytest.mark.parametrize("make", PLANTS, ids=lambda make: make.__name__)


def test_there_are_enough_plants() -> None:
    assert len(PLANTS) >= 13


@EVERY_PLANT
def test_each_plant_is_long_and_contains_its_facts_once(make: Callable[[Random], Plant]) -> None:
    plant = make(Random(5))
    assert 7_000 <= get_token_counter("gpt-4o").count(plant.text) <= 140_000
    assert [plant.text.count(fact) for fact in (plant.answer, *plant.unasked_facts)] == [1, 1, 1]
    assert not [fact for fact in (plant.answer, *plant.unasked_facts) if fact in plant.question]


@EVERY_PLANT
def test_a_seed_always_makes_the_same_plant(make: Callable[[Random], Plant]) -> None:
    assert make(Random(1)) == make(Random(1))
    assert make(Random(1)).text != make(Random(2)).text


def test_a_result_counts_the_kept_facts() -> None:
    plant = Plant(
        "notes", "\n".join(f"entry {index}: nothing" for index in range(900)), "entry 411?", "entry 411", ("no", "x9")
    )
    row = measure_plant(plant, 10.0)
    assert row.has_answer
    assert row.unasked_kept == 1  # "no" is everywhere, "x9" nowhere
    assert row.kept_share <= 0.11
    assert summarize_rows([row])["unasked"] == 0.5
    assert "notes" in "\n".join(format_table([row]))


@pytest.mark.parametrize("language", plants_traces.LANGUAGES, ids=lambda language: language.__name__)
def test_the_traces_of_every_language_contain_their_message(language: plants_traces.TraceFunction) -> None:
    kind, message = plants_traces.ASKED
    trace = language(Random(3), kind, message)
    assert message in trace
    assert kind in trace
    assert trace.count("\n") >= 5
