from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.memo import Memo


def test_result_is_computed_once_per_text() -> None:
    calls: list[str] = []

    def compute(text: str) -> str:
        calls.append(text)
        return text.upper()

    memo = Memo(compute, 10)
    assert [memo(text) for text in ("a", "b", "a")] == ["A", "B", "A"]
    assert calls == ["a", "b"]


def test_none_is_remembered() -> None:
    calls: list[str] = []
    memo = Memo(calls.append, 10)
    assert (memo("a"), memo("a")) == (None, None)
    assert calls == ["a"]


@given(st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_results_are_right_and_bounded_in_number(texts: list[str], max_entries: int) -> None:
    memo = Memo[str, int](len, max_entries)
    for text in texts:
        assert memo(text) == len(text)
        assert 1 <= len(memo) <= max_entries


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_split_known_separates_remembered_texts(before: list[str], texts: list[str]) -> None:
    memo = Memo[str, int](len, 1000)
    for text in before:
        memo(text)
    values, unknown = memo.split_known(texts)
    assert values == [len(text) for text in texts if text in before]
    assert unknown == [text for text in texts if text not in before]


def test_threads_may_share_a_memo() -> None:
    memo = Memo[str, int](len, 7)
    texts = ["x" * number for number in range(40)] * 50
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(memo, texts)) == [len(text) for text in texts]
    assert len(memo) <= 7
