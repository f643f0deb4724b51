"""A conversation is folded from its beginning on; what is remembered of it changes nothing but the time it takes."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import dedup
from clara_proxy.compression.dedup import Step

FILE = [f"    value_{at} = compute(argument_{at}, other={at * 7})" for at in range(30)]
TEXT = "\n".join(FILE)
READ = '{"command":"cat a.py"}'
pieces = st.lists(st.sampled_from([TEXT, "\n".join(FILE[:12]), "\n".join(FILE[9:]), "ok"]), max_size=3).map("\n".join)
steps = st.lists(st.builds(Step, pieces, st.sampled_from(["", READ, "not json"]), st.booleans()), max_size=9)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    dedup.forget()
    yield
    dedup.forget()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_law_1_what_comes_later_changes_nothing_and_neither_does_memory(walked: list[Step]) -> None:
    dedup.forget()
    whole = dedup.fold(walked)
    assert len(whole) == len(walked)
    for upto in range(len(walked) + 1):
        assert dedup.fold(walked[:upto]) == whole[:upto]
    dedup.forget()
    assert dedup.fold(walked) == whole


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_what_may_not_be_folded_is_not(walked: list[Step]) -> None:
    for step, folded in zip(walked, dedup.fold(walked), strict=True):
        assert step.folds or folded is None


def test_conversations_that_begin_alike_go_their_own_ways() -> None:
    one = [Step(TEXT), Step(TEXT, READ, folds=True)]
    other = [Step(TEXT), Step("nothing"), Step(TEXT, READ, folds=True)]
    for walked in (one, other, one, other):
        assert [folded is not None for folded in dedup.fold(walked)] == [False] * (len(walked) - 1) + [True]


def test_the_third_time_the_same_call_gets_the_same_answer_whole() -> None:
    asked = Step(TEXT, READ, folds=True)
    assert [one is not None for one in dedup.fold([asked] * 5)] == [False, True, False, True, False]
    others = [Step(TEXT, f'{{"n":{at}}}', folds=True) for at in range(4)]
    assert [one is not None for one in dedup.fold(others)] == [False, True, True, True]


def test_what_a_call_says_has_been_shown() -> None:
    wrote = Step("ok", '{"path":"a.py","file_text":"' + "\\n".join(FILE) + '"}')
    assert dedup.fold([wrote, Step(TEXT, READ, folds=True)])[1] is not None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "MOST_LINES", 100)
    for at in range(20):
        dedup.fold([Step(f"{at}\n{TEXT}")])
        assert dedup.held() <= 100
    assert dedup.held() > 0
