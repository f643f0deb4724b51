"""Labels made of names that clients choose: encodable, and limited in number."""

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


@given(names=st.lists(st.text(st.characters()), max_size=30), limit=st.integers(0, 10))
def test_labels_are_limited_and_stable(names: list[str], limit: int) -> None:
    limiter = LabelLimiter(limit)
    labels = [limiter.get_label(name) for name in names]
    assert len(set(labels) - {OTHER_LABEL, NONE_LABEL}) <= limit
    assert [limiter.get_label(name) for name in names] == labels
    first = list(dict.fromkeys(name for name in names if name))[:limit]
    assert [limiter.get_label(name) for name in first] == [replace_surrogates(name) for name in first]


@given(st.text(st.characters()))
def test_replaced_text_can_be_encoded(text: str) -> None:
    assert replace_surrogates(text).encode().decode() == replace_surrogates(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert replace_surrogates(text) == text


def test_only_models_that_answered_get_a_label() -> None:
    models = ModelLabels()
    row = Row(id="1", at=1.0, model="m")
    assert models.get_row_label(row._replace(outcome="upstream_error")) == OTHER_LABEL
    assert models.get_row_label(row) == "m"
    assert models.get_row_label(row._replace(outcome="upstream_error")) == "m"
    assert models.get_row_label(row._replace(model="")) == NONE_LABEL
    assert [models.get_row_label(row._replace(model=str(number))) for number in range(MAX_MODELS)][-1] == OTHER_LABEL


def test_label_of_a_local_answer_hides_the_model_folder() -> None:
    row = Row(id="1", at=1.0, model="/home/someone/checkpoint", mode_used="latent", engine="clara", outcome="served")
    assert ModelLabels().get_row_label(row) == "clara"
