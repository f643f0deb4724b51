"""Odd values: rare ones among few, far ones among numbers, and never most of them."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract.core.outliers import find_extremes, find_outliers


def test_a_rare_category_is_odd_and_categories_of_equal_size_are_not() -> None:
    assert find_outliers(["paid"] * 30 + ["lost"] + ["open"] * 20) == [30]
    assert find_outliers([f"day {at % 20}" for at in range(100)]) == []


def test_a_number_far_from_all_others_is_odd_and_a_running_number_is_not() -> None:
    assert find_outliers([str(at) for at in range(50)]) == []
    assert find_outliers([*(str(at) for at in range(50)), "99999", "51"]) == [50]


def test_few_values_and_words_are_never_odd() -> None:
    assert find_outliers(["1", "1", "1", "900"]) == []
    assert find_outliers([f"word{at}" for at in range(40)]) == []


def test_places_without_a_value_are_passed_over() -> None:
    assert find_outliers(["", *["a"] * 30, "", "b"]) == [32]


def test_extremes_are_the_first_least_and_greatest() -> None:
    assert find_extremes(["3", "", "1", "9", "1", "4", "5", "6", "7", "8", "2"]) == [2, 3]
    assert find_extremes(["x"] * 20) == []


@given(st.lists(st.one_of(st.floats().map(str), st.sampled_from(["", "a", "b", "nan", "1e999"])), max_size=60))
def test_anything_may_come_and_most_is_never_odd(values: list[str]) -> None:
    found = find_outliers(values)
    assert found == sorted(set(found))
    assert len(found) <= len(values) / 2
    assert all(values[at] for at in found)
    assert len(find_extremes(values)) <= 2
