"""Prose: sentences of any script, and failures that the question does not mention."""

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.extract.core.sentences import find_sentences

from .samples import PROSE, compress_text

TEXTS = {  # a repeated sentence, the sentence with the answer, the question, the answer
    "Hindi": ("आज मौसम अच्छा है। ", "दिल्ली की जनसंख्या तीन करोड़ है। ", "दिल्ली की जनसंख्या कितनी है?", "तीन करोड़"),
    "Arabic": ("الطقس جميل اليوم. ", "يبلغ عدد سكان القاهرة عشرة ملايين. ", "كم عدد سكان القاهرة؟", "عشرة ملايين"),
    "Urdu": ("آج موسم اچھا ہے۔ ", "لاہور کی آبادی ایک کروڑ ہے۔ ", "لاہور کی آبادی", "ایک کروڑ"),
    "Russian": ("Сегодня хорошая погода. ", "Население Москвы составляет 13 миллионов. ", "население москвы", "13"),
    "Khmer": ("ថ្ងៃនេះអាកាសធាតុល្អ។", "ភ្នំពេញមានប្រជាជនពីរលាន។", "ប្រជាជនភ្នំពេញ", "ពីរលាន"),
    "Chinese": ("今天天气很好。", "北京的人口是两千万。", "北京有多少人口?", "两千万"),
}


@pytest.mark.parametrize("language", TEXTS)
def test_sentences_are_found_and_answers_kept_in_any_script(language: str) -> None:
    filler, sentence, question, answer = TEXTS[language]
    text = (filler * 12 + sentence + filler * 12).strip()
    assert len(find_sentences(text)) == 25
    assert registry.find_compressor(text).name == "prose"
    assert answer in compress_text("prose", text, question, ratio=6)


def test_a_semicolon_or_a_small_letter_does_not_end_a_sentence() -> None:
    assert len(find_sentences("Это т. е. так. Потом иначе.")) == 2
    assert len(find_sentences("هذا أول؛ وهذا ثان. ثم ثالث.")) == 2


def test_a_failure_not_in_the_question_is_kept() -> None:
    failure = "The backup generator failed and two wards were evacuated."
    text = PROSE.replace("# Chapter 3\n\n", f"# Chapter 3\n\n{failure} ", 1)
    assert failure in text
    out = compress_text("prose", text, "What does the badger of valley 5 eat?", ratio=3)
    assert failure in out
    assert "honeycomb" in out


def test_many_failures_do_not_crowd_out_the_answer() -> None:
    text = (
        "The pump failed again in an unexpected way. " * 60 + "The engineer was Ada Quill. " + "It rained a lot. " * 40
    )
    assert "Ada Quill" in compress_text("prose", text, "Who was the engineer?", ratio=8)


def test_the_answer_is_kept_with_its_heading() -> None:
    out = compress_text("prose", PROSE, "What does the badger of valley 5 eat?", ratio=12)
    assert "eats honeycomb in the morning." in out
    assert "# Chapter 5" in out
    assert out.index("# Chapter 5") < out.index("honeycomb")


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (
            "今日は天気がいいですね。" * 9 + "東京の人口は千四百万人です。" + "明日は雨が降るでしょう。" * 9,
            "東京の人口は?",
            "千四百万人",
        ),
        (
            "Het weer is mooi vandaag. " * 9 + "Amsterdam heeft 900 duizend inwoners. " + "Morgen regent het. " * 9,
            "inwoners Amsterdam",
            "900",
        ),
    ],
)
def test_the_answer_is_kept_in_other_languages(text: str, question: str, answer: str) -> None:
    assert registry.find_compressor(text).name == "prose"
    assert answer in compress_text("prose", text, question, ratio=6)


SPEAKERS = ("Priya", "Jonas", "Mei Lin")
SMALL_TALK = ("The plan looks fine to me.", "Please send the slides again.", "Thursday works for everybody here.")


@pytest.mark.parametrize(
    "turn",
    [
        "{name}: {text}",
        "[{hour}:{minute:02}] {name}: {text}",
        "<{name}> {text}",
        "{name} ({hour}:{minute:02})\n{text}\n",
    ],
)
def test_a_sentence_of_a_transcript_brings_its_speaker(turn: str) -> None:
    def write_turn(index: int) -> str:
        text = f"We waited {index} days. " + " ".join(SMALL_TALK)
        if index == 41:
            text = "We waited a while. The vault code was changed by hand. It is kept in the red binder now."
        return turn.format(name=SPEAKERS[index % 3], text=text, hour=10 + index // 60, minute=index % 60)

    transcript = "\n".join(map(write_turn, range(80)))
    out = compress_text("prose", transcript, "Who knows where the red binder is?", 6)
    before = out[: out.index("red binder")]
    assert max(SPEAKERS, key=before.rfind) == SPEAKERS[41 % 3]


def test_a_sentence_of_a_mail_brings_its_header() -> None:
    def write_mail(index: int) -> str:
        fact = "The crates leave from dock nine on 4 June." if index == 7 else "Nothing new from the yard today."
        return (
            f"From: Clerk {index} <clerk{index}@example.com>\nTo: yard@example.com\nDate: Tue, {index + 1} May 2024\n"
            f"Subject: Week {index}\n\nDear all,\n\n" + " ".join(SMALL_TALK) + f" {fact}\n\nRegards,\nClerk {index}\n"
        )

    out = compress_text("prose", "\n-----\n\n".join(map(write_mail, range(15))), "When do the crates leave?", 4)
    before = out[: out.index("dock nine")]
    assert before[before.rindex("From: ") :].startswith("From: Clerk 7 ")


def test_equal_sentences_of_numbered_records_all_count() -> None:
    def write_review(index: int) -> str:
        fact = " The lift was out of order." if index % 25 == 4 else ""
        return f"Review {index}: The room was fine and breakfast was {SMALL_TALK[index % 3].split()[0].lower()}.{fact}"

    out = compress_text("prose", "\n\n".join(map(write_review, range(150))), "Which reviews mention the lift?", 4)
    assert [index for index in range(150) if f"{write_review(index)}\n" in f"{out}\n" and index % 25 == 4] == [
        *range(4, 150, 25)
    ]
