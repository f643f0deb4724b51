import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.cache import Cache


def test_what_was_put_can_be_had() -> None:
    cache = Cache[str](100)
    cache.put("a", "1", 10)
    assert (cache.get("a"), cache.get("b")) == ("1", None)


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache[str](30)
    for key in "abc":
        cache.put(key, key, 10)
    assert cache.get("a") == "a"
    cache.put("d", "d", 10)
    assert [cache.get(key) for key in "abcd"] == ["a", None, "c", "d"]


def test_a_value_that_is_replaced_gives_its_room_back() -> None:
    cache = Cache[int](30)
    for number in range(100):
        cache.put("a", number, 25)
    cache.put("b", 7, 5)
    assert (cache.get("a"), cache.get("b")) == (99, 7)


def test_what_is_too_large_alone_drives_nothing_else_out() -> None:
    cache = Cache[str](30)
    cache.put("a", "a", 10)
    cache.put("b", "b", 31)
    assert (cache.get("a"), cache.get("b")) == ("a", None)
    cache.put("a", "larger", 31)
    assert cache.get("a") is None
    cache.put("c", "c", 30)
    assert cache.get("c") == "c"


@pytest.mark.parametrize("limit", [0, -1])
def test_without_room_nothing_is_kept(limit: int) -> None:
    cache = Cache[str](limit)
    cache.put("a", "1", 1)
    assert cache.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40))), st.integers(0, 60))
def test_what_is_held_never_exceeds_the_limit(puts: list[tuple[int, int]], limit: int) -> None:
    cache = Cache[int](limit)
    sizes: dict[int, int] = {}
    for key, size in puts:
        cache.put(key, key, size)
        sizes[key] = size
        assert (cache.get(key) is not None) == (size <= limit)
        assert sum(sizes[one] for one in sizes if cache.get(one) is not None) <= limit
