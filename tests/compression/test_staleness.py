"""When epochs end: by size, and by what reading on has cost; from the past alone, and never back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import ages, staleness
from clara_proxy.compression.staleness import MessageTokens

PRICE = 11.5


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 2000))
def test_epochs_never_fall_and_depend_on_the_past_alone(sizes: list[int], limit: int) -> None:
    ends = [staleness.window_limit(sizes[:upto], limit) for upto in range(len(sizes) + 1)]
    assert ends == sorted(ends)
    assert all(end <= upto for upto, end in enumerate(ends))
    if sum(sizes) > limit:
        assert ends[-1] > 0


@st.composite
def conversations(draw: st.DrawFn) -> list[MessageTokens]:
    made: list[MessageTokens] = []
    for at in range(draw(st.integers(0, 40))):
        tokens = draw(st.integers(1, 500))
        spare = draw(st.integers(0, tokens)) if at % 2 else 0
        made.append(MessageTokens(tokens, spare, at + draw(st.integers(1, 12)), starts_reply=at % 2 == 0 and at > 0))
    return made


def known(messages: list[MessageTokens], upto: int) -> list[MessageTokens]:
    """Return the beginning of a conversation, in which what gets ripe later is not known to be ever so."""
    return [one if one.stale_after <= upto else one._replace(stale_after=ages.NEVER) for one in messages[:upto]]


@given(conversations(), st.floats(0.1, 20))
def test_what_is_old_goes_when_it_has_paid_never_back_and_by_the_past_alone(
    messages: list[MessageTokens], price: float
) -> None:
    ends = [staleness.last_prune(known(messages, upto), price) for upto in range(len(messages) + 1)]
    assert ends == sorted(ends)
    for upto, (before, end) in enumerate(zip([0, *ends], ends, strict=False)):
        assert end < upto or end == 0
        assert end in (before, upto - 1)  # an epoch ends where the model has spoken, or not at all
        assert end == 0 or messages[end].starts_reply


@given(conversations(), st.floats(0.1, 20))
def test_no_epoch_ends_before_reading_on_has_cost_as_much_as_it_costs(
    messages: list[MessageTokens], price: float
) -> None:
    """Counted anew, request by request."""
    gone: set[int] = set()
    wasted = ended = 0
    for at, one in enumerate(messages):
        old = {index for index in range(at) if messages[index].stale_after <= at and messages[index].prunable} - gone
        if not one.starts_reply or not old:
            continue
        spare = sum(messages[index].prunable for index in old)
        wasted += spare
        after = sum(
            messages[index].tokens - (messages[index].prunable if index in gone | old else 0)
            for index in range(min(old), at)
        )
        if wasted >= price * after:
            ended, wasted, gone = at, 0, gone | old
    assert staleness.last_prune(messages, price) == ended


def test_an_old_output_goes_after_as_many_requests_as_it_takes() -> None:
    task, output = MessageTokens(100, 0, 0, starts_reply=False), MessageTokens(1000, 980, 2, starts_reply=False)
    answers = [MessageTokens(20, 0, 0, starts_reply=True)] * 40
    # After it stand 20 tokens of its own that stay, and 20 more with each answer: at the third that may count these
    # are 60, then 80, and so on.
    ends = [staleness.last_prune([task, output, *answers[:count]], PRICE) for count in range(len(answers))]
    read = next(count for count in range(1, 40) if 980 * count >= PRICE * (20 + 20 * (count - 1)))
    assert [bool(end) for end in ends] == [count >= read for count in range(len(answers))]
    assert ends[-1] == 1 + read


@pytest.mark.parametrize("spare", [0, 980])
def test_where_the_models_words_never_follow_nothing_goes(spare: int) -> None:
    outputs = [MessageTokens(1000, spare, 1, starts_reply=False)] * 50
    assert staleness.last_prune(outputs, PRICE) == 0
