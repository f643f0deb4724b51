"""A conversation is folded from its beginning on; what is remembered of it changes nothing but the time it takes."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import dedup
from clara_proxy.compression.dedup import DedupStep

FILE = [f"    value_{at} = compute(argument_{at}, other={at * 7})" for at in range(30)]
TEXT = "\n".join(FILE)
READ = '{"command":"cat a.py"}'
pieces = st.lists(st.sampled_from([TEXT, "\n".join(FILE[:12]), "\n".join(FILE[9:]), "ok"]), max_size=3).map("\n".join)
steps = st.lists(st.builds(DedupStep, pieces, st.sampled_from(["", READ, "not json"]), st.booleans()), max_size=9)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    dedup.clear_conversations()
    yield
    dedup.clear_conversations()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_law_1_what_comes_later_changes_nothing_and_neither_does_memory(walked: list[DedupStep]) -> None:
    dedup.clear_conversations()
    whole = dedup.dedupe_steps(walked)
    assert len(whole) == len(walked)
    for upto in range(len(walked) + 1):
        assert dedup.dedupe_steps(walked[:upto]) == whole[:upto]
    dedup.clear_conversations()
    assert dedup.dedupe_steps(walked) == whole


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_what_may_not_be_folded_is_not(walked: list[DedupStep]) -> None:
    for step, folded in zip(walked, dedup.dedupe_steps(walked), strict=True):
        assert step.can_dedupe or folded is None


def test_conversations_that_begin_alike_go_their_own_ways() -> None:
    one = [DedupStep(TEXT), DedupStep(TEXT, READ, can_dedupe=True)]
    other = [DedupStep(TEXT), DedupStep("nothing"), DedupStep(TEXT, READ, can_dedupe=True)]
    for walked in (one, other, one, other):
        assert [folded is not None for folded in dedup.dedupe_steps(walked)] == [False] * (len(walked) - 1) + [True]


def test_the_third_time_the_same_call_gets_the_same_answer_whole() -> None:
    asked = DedupStep(TEXT, READ, can_dedupe=True)
    assert [one is not None for one in dedup.dedupe_steps([asked] * 5)] == [False, True, False, True, False]
    others = [DedupStep(TEXT, f'{{"n":{at}}}', can_dedupe=True) for at in range(4)]
    assert [one is not None for one in dedup.dedupe_steps(others)] == [False, True, True, True]


def test_what_a_call_says_has_been_shown() -> None:
    wrote = DedupStep("ok", '{"path":"a.py","file_text":"' + "\\n".join(FILE) + '"}')
    assert dedup.dedupe_steps([wrote, DedupStep(TEXT, READ, can_dedupe=True)])[1] is not None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "MAX_REMEMBERED_LINES", 100)
    for at in range(20):
        dedup.dedupe_steps([DedupStep(f"{at}\n{TEXT}")])
        assert dedup.count_remembered_lines() <= 100
    assert dedup.count_remembered_lines() > 0
