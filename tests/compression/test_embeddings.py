"""Static embeddings: normalized, independent of other texts, close for texts that mean the same."""

import numpy as np
import pytest

from clara_proxy.compression import embeddings

TEXTS = [
    "The physician was late.",
    "Rain fell on the old mill.",
    "OutOfMemoryError in load_config",
    "x" * 500,
    "",
    "東京",
]


def measure_similarity(first: str, second: str) -> float:
    one, other = embeddings.embed([first, second])
    return float(one @ other)


def test_embeddings_have_length_one_or_zero() -> None:
    vectors = embeddings.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embeddings.load_table().rows.shape[1])
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[:3] == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)
    assert lengths[4] == 0.0
    assert embeddings.embed([]).shape == (0, vectors.shape[1])


def test_an_embedding_does_not_depend_on_other_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*TEXTS, " ".join(TEXTS) * 40]
    together = embeddings.embed(texts)
    assert all((embeddings.embed([text])[0] == row).all() for text, row in zip(texts, together, strict=True))
    monkeypatch.setattr(embeddings, "MAX_STEPS", 3)
    assert np.allclose(embeddings.embed(texts), together, atol=1e-5)


@pytest.mark.parametrize(
    ("question", "related", "unrelated"),
    [
        ("Did a doctor come?", "The physician was late.", "The mill was late."),
        (
            "Why did the server run out of memory?",
            "The heap of the process was exhausted.",
            "The menu has three pages.",
        ),
        ("How much did it cost?", "They paid forty dollars for the ticket.", "They walked along the river at night."),
    ],
)
def test_texts_that_mean_the_same_are_close(question: str, related: str, unrelated: str) -> None:
    assert measure_similarity(question, related) > measure_similarity(question, unrelated) + 0.1


def test_words_in_camel_case_and_with_diacritics_have_tokens() -> None:
    assert embeddings.find_tokens("heapMemory") == embeddings.find_tokens("heap") + embeddings.find_tokens("memory")
    assert embeddings.find_tokens("café") == embeddings.find_tokens("cafe")
    assert embeddings.find_tokens("\U0001f600") == ()


def test_coverage_tells_english_from_other_languages() -> None:
    english = "The mayor opened the new bridge on Monday after years of delay."
    others = ["市长星期一为新桥揭幕。", "Мэр открыл новый мост в понедельник.", "افتتح العمدة الجسر الجديد يوم الاثنين"]
    german = "Die Bürgermeisterin eröffnete am Montag nach jahrelanger Verzögerung die neue Brücke."
    assert embeddings.measure_coverage(english) > 0.9
    assert max(map(embeddings.measure_coverage, [*others, german])) < 0.6


def test_neighbours_are_averaged_within_the_window() -> None:
    vectors = np.eye(4, dtype=np.float32)
    averaged = embeddings.average_neighbours(vectors, 1)
    assert averaged[0] == pytest.approx([2**-0.5, 2**-0.5, 0, 0])
    assert averaged[1] == pytest.approx([3**-0.5, 3**-0.5, 3**-0.5, 0])
