"""Terms of any script match other forms, other accents, and words without blanks between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.extract.core import bm25, terms

WORDS = st.text(st.characters(categories=("Ll", "Lu", "Lo", "Nd")), min_size=1, max_size=12)


def _score(question: str, sentences: list[str]) -> list[float]:
    text = "\n".join(sentences)
    ends = [sum(len(sentence) + 1 for sentence in sentences[: index + 1]) - 1 for index in range(len(sentences))]
    spans = [(end - len(sentence), end) for end, sentence in zip(ends, sentences, strict=True)]
    return bm25.score_spans(text, spans, bm25.parse_query(question))


@pytest.mark.parametrize(
    ("question_word", "written"),
    [
        ("beyonce", "Beyoncé sang."),
        ("MÜNCHEN", "Die Stadt München."),
        ("программы", "Он написал программу."),  # another case of the noun
        ("ΑΘΉΝΑ", "Η Αθήνα είναι πόλη."),
        ("كتاب", "كِتَابٌ قديم."),  # with its vowels written
        ("हिन्दी", "वह हिन्दी बोलता है।"),
        ("人口", "東京の人口は多い。"),
        ("กรุงเทพ", "เขาอยู่ที่กรุงเทพมานาน"),
        ("ភ្នំពេញ", "គាត់រស់នៅភ្នំពេញ។"),
        ("서울", "서울에서 살았다."),
        ("2022", "عام ٢٠٢٢ كان حاراً."),  # the same number in other digits
        ("linux", "使用Linux内核"),
        ("GPT-4", "使用GPT-4模型"),
        ("🚀", "It flew 🚀 away."),
    ],
)
def test_a_word_matches_in_any_script(question_word: str, written: str) -> None:
    other = ["It rained.", "雨だ。", "Шёл дождь.", "बारिश हुई।"]
    scores = _score(f"what about {question_word}", [*other[:2], written, *other[2:]])
    assert scores.index(max(scores)) == 2
    assert scores[2] > 0


def test_vowel_signs_belong_to_their_words() -> None:
    assert terms.choose_word_pattern("हिन्दी भाषा").findall("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert terms.choose_word_pattern("cafe\u0301 noir").findall("cafe\u0301 noir") == ["cafe\u0301", "noir"]


def test_the_exact_word_scores_more_than_another_form() -> None:
    scores = _score("программы", ["Много программы.", "Много программу.", "Много дождя."])
    assert scores[0] > scores[1] > scores[2] == 0


@given(word=WORDS, before=st.sampled_from(("", "a b ", "雨 ", "дождь ")), after=st.sampled_from(("", " c", " हिन्दी")))
def test_every_word_of_a_question_matches_itself(word: str, before: str, after: str) -> None:
    if any(sentence.lower() in bm25.STOP_WORDS for sentence in terms.choose_word_pattern(word).findall(word)):
        return
    assert _score(word, [before + word + after, "zzz"])[0] > 0


@given(st.text(max_size=60))
def test_terms_of_any_word_are_not_empty_and_deterministic(text: str) -> None:
    for word in terms.choose_word_pattern(text).findall(text):
        word_terms = terms.extract_terms(word)
        assert word_terms == terms.extract_terms(word)
        assert word_terms
        assert all(word_terms)
        assert len(word_terms) <= 2 * len(word) + 2


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Which pods are ready?", "pod"),
        ("How many CPUs are there?", "cpu"),
        ("Co říká deklarace o mučení?", "mučen"),
        ("शिक्षणाच्या हक्काबद्दल काय?", "शिक्षण"),
        ("What is the host name?", "hostname"),
        ("How much memory does the database take?", "size.db.mem"),
    ],
)
def test_other_forms_of_a_word_match(question: str, text: str) -> None:
    assert _score(question, [text, "zzz"])[0] > 0
