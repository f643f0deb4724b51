"""Labels of names that clients choose: readable, and no more than so many."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.watch.label_names import MODELS, NONE, OTHER, Models, Names, readable


@given(names=st.lists(st.text(st.characters()), max_size=30), most=st.integers(0, 10))
def test_there_are_never_more_labels_and_the_first_ones_keep_theirs(names: list[str], most: int) -> None:
    known = Names(most)
    labels = [known.of(name) for name in names]
    assert len(set(labels) - {OTHER, NONE}) <= most
    assert [known.of(name) for name in names] == labels
    kept = list(dict.fromkeys(name for name in names if name))[:most]
    assert [known.of(name) for name in kept] == [readable(name) for name in kept]


@given(st.text(st.characters()))
def test_readable_text_can_be_written(text: str) -> None:
    assert readable(text).encode().decode() == readable(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert readable(text) == text


def test_only_a_model_that_answered_gets_a_place() -> None:
    models = Models()
    asked = Row(id="1", at=1.0, model="m")
    assert models.label(asked._replace(outcome="upstream_error")) == OTHER
    assert models.label(asked) == "m"
    assert models.label(asked._replace(outcome="upstream_error")) == "m"
    assert models.label(asked._replace(model="")) == NONE
    assert [models.label(asked._replace(model=str(number))) for number in range(MODELS)][-1] == OTHER


def test_claras_own_answers_do_not_tell_where_the_model_lies() -> None:
    row = Row(id="1", at=1.0, model="/home/somebody/checkpoint", mode_used="latent", engine="clara", outcome="served")
    assert Models().label(row) == "clara"
