"""Outliers: rare values among few, far numbers, and never most values."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract.core import outliers
from clara_proxy.compression.extract.core.outliers import OutlierWeights


def find_outliers(values: list[str]) -> list[int]:
    return outliers.find_outliers(values, OutlierWeights())


def find_extremes(values: list[str]) -> list[int]:
    return outliers.find_extremes(values, OutlierWeights())


def test_a_rare_category_is_an_outlier() -> None:
    assert find_outliers(["paid"] * 30 + ["lost"] + ["open"] * 20) == [30]
    assert find_outliers([f"day {index % 20}" for index in range(100)]) == []


def test_a_far_number_is_an_outlier_and_a_running_number_is_not() -> None:
    assert find_outliers([str(index) for index in range(50)]) == []
    assert find_outliers([*(str(index) for index in range(50)), "99999", "51"]) == [50]


def test_few_values_and_distinct_words_have_no_outliers() -> None:
    assert find_outliers(["1", "1", "1", "900"]) == []
    assert find_outliers([f"word{index}" for index in range(40)]) == []


def test_missing_values_are_skipped() -> None:
    assert find_outliers(["", *["a"] * 30, "", "b"]) == [32]


def test_extremes_are_the_first_least_and_greatest_numbers() -> None:
    assert find_extremes(["3", "", "1", "9", "1", "4", "5", "6", "7", "8", "2"]) == [2, 3]
    assert find_extremes(["x"] * 20) == []


@given(st.lists(st.one_of(st.floats().map(str), st.sampled_from(["", "a", "b", "nan", "1e999"])), max_size=60))
def test_outliers_of_any_values_are_ordered_and_few(values: list[str]) -> None:
    indices = find_outliers(values)
    assert indices == sorted(set(indices))
    assert len(indices) <= len(values) / 2
    assert all(values[index] for index in indices)
    assert len(find_extremes(values)) <= 2


def test_a_few_words_among_numbers_are_odd() -> None:
    prefixes = [str(7919 * index % 9973) for index in range(34)]
    assert find_outliers([*prefixes[:9], "Idle (Admin)", *prefixes[9:], "Active"]) == [9, 35]
    assert find_outliers(["12", "Active", "Idle (Admin)", "7", "31", "5", "81", "90", "3"]) == []
