from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.memo import Memo


def test_a_text_is_asked_about_once() -> None:
    asked: list[str] = []

    def work(text: str) -> str:
        asked.append(text)
        return text.upper()

    remembered = Memo(work, 10)
    assert [remembered(text) for text in ("a", "b", "a")] == ["A", "B", "A"]
    assert asked == ["a", "b"]


def test_nothing_at_all_is_an_answer_too() -> None:
    asked: list[str] = []
    remembered = Memo(asked.append, 10)
    assert (remembered("a"), remembered("a")) == (None, None)
    assert asked == ["a"]


@given(st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_whatever_is_forgotten_the_answers_are_right_and_few_are_held(texts: list[str], most: int) -> None:
    remembered = Memo(len, most)
    for text in texts:
        assert remembered(text) == len(text)
        assert 1 <= len(remembered) <= most


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_known_parts_what_was_asked_from_what_was_not(before: list[str], texts: list[str]) -> None:
    remembered = Memo(len, 1000)
    for text in before:
        remembered(text)
    values, unknown = remembered.split_known(texts)
    assert values == [len(text) for text in texts if text in before]
    assert unknown == [text for text in texts if text not in before]


def test_many_threads_may_ask() -> None:
    remembered = Memo(len, 7)
    texts = ["x" * number for number in range(40)] * 50
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(remembered, texts)) == [len(text) for text in texts]
    assert len(remembered) <= 7
