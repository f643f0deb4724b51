"""Sentences of any script, and what a report says that nobody asked about."""

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.extract import prose

from .samples import PROSE, shortened

TEXTS = {  # a sentence that is repeated, one that is asked for, the question, and what must stay
    "Hindi": ("आज मौसम अच्छा है। ", "दिल्ली की जनसंख्या तीन करोड़ है। ", "दिल्ली की जनसंख्या कितनी है?", "तीन करोड़"),
    "Arabic": ("الطقس جميل اليوم. ", "يبلغ عدد سكان القاهرة عشرة ملايين. ", "كم عدد سكان القاهرة؟", "عشرة ملايين"),
    "Urdu": ("آج موسم اچھا ہے۔ ", "لاہور کی آبادی ایک کروڑ ہے۔ ", "لاہور کی آبادی", "ایک کروڑ"),
    "Russian": ("Сегодня хорошая погода. ", "Население Москвы составляет 13 миллионов. ", "население москвы", "13"),
    "Khmer": ("ថ្ងៃនេះអាកាសធាតុល្អ។", "ភ្នំពេញមានប្រជាជនពីរលាន។", "ប្រជាជនភ្នំពេញ", "ពីរលាន"),
    "Chinese": ("今天天气很好。", "北京的人口是两千万。", "北京有多少人口?", "两千万"),
}


@pytest.mark.parametrize("language", TEXTS)
def test_sentences_end_and_answers_stay_in_any_script(language: str) -> None:
    same, asked, question, answer = TEXTS[language]
    text = (same * 12 + asked + same * 12).strip()
    assert len(prose.find_sentences(text)) == 25
    assert registry.find_compressor(text).name == "prose"
    assert answer in shortened("prose", text, question, ratio=6)


def test_a_semicolon_and_a_small_letter_end_no_sentence() -> None:
    assert len(prose.find_sentences("Это т. е. так. Потом иначе.")) == 2
    assert len(prose.find_sentences("هذا أول؛ وهذا ثان. ثم ثالث.")) == 2


def test_a_failure_that_nobody_asked_about_stays() -> None:
    unasked = "The backup generator failed and two wards were evacuated."
    text = PROSE.replace("# Chapter 3\n\n", f"# Chapter 3\n\n{unasked} ", 1)
    assert unasked in text
    out = shortened("prose", text, "What does the badger of valley 5 eat?", ratio=3)
    assert unasked in out
    assert "honeycomb" in out


def test_failures_that_are_the_subject_do_not_crowd_out_what_is_asked() -> None:
    text = (
        "The pump failed again in an unexpected way. " * 60 + "The engineer was Ada Quill. " + "It rained a lot. " * 40
    )
    assert "Ada Quill" in shortened("prose", text, "Who was the engineer?", ratio=8)
