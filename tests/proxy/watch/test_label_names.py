"""Labels of names that clients choose: readable, and no more than so many."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.watch.label_names import (
    MAX_MODELS,
    NONE_LABEL,
    OTHER_LABEL,
    LabelLimiter,
    ModelLabels,
    replace_surrogates,
)


@given(names=st.lists(st.text(st.characters()), max_size=30), most=st.integers(0, 10))
def test_there_are_never_more_labels_and_the_first_ones_keep_theirs(names: list[str], most: int) -> None:
    known = LabelLimiter(most)
    labels = [known.get_label(name) for name in names]
    assert len(set(labels) - {OTHER_LABEL, NONE_LABEL}) <= most
    assert [known.get_label(name) for name in names] == labels
    kept = list(dict.fromkeys(name for name in names if name))[:most]
    assert [known.get_label(name) for name in kept] == [replace_surrogates(name) for name in kept]


@given(st.text(st.characters()))
def test_readable_text_can_be_written(text: str) -> None:
    assert replace_surrogates(text).encode().decode() == replace_surrogates(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert replace_surrogates(text) == text


def test_only_a_model_that_answered_gets_a_place() -> None:
    models = ModelLabels()
    asked = Row(id="1", at=1.0, model="m")
    assert models.get_row_label(asked._replace(outcome="upstream_error")) == OTHER_LABEL
    assert models.get_row_label(asked) == "m"
    assert models.get_row_label(asked._replace(outcome="upstream_error")) == "m"
    assert models.get_row_label(asked._replace(model="")) == NONE_LABEL
    assert [models.get_row_label(asked._replace(model=str(number))) for number in range(MAX_MODELS)][-1] == OTHER_LABEL


def test_claras_own_answers_do_not_tell_where_the_model_lies() -> None:
    row = Row(id="1", at=1.0, model="/home/somebody/checkpoint", mode_used="latent", engine="clara", outcome="served")
    assert ModelLabels().get_row_label(row) == "clara"
