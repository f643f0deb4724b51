"""Two questions match if they are equal word for word, except for spelling and politeness."""

import pytest

from clara_proxy.proxy.cache.questions import is_comparable, is_same_question, rank_candidates

SAME = [
    ("How do I bleed a radiator?", "sorry, how do i bleed the radiator ?!"),
    ("In a spreadsheet, how do I merge two cells?", "How do I merge two cells in a spreadsheet?"),
    ("What is the baggage allowance for students?", "What's the bagage allowance for students, please"),
    ("Was ist der Unterschied zwischen Bit und Byte?", "was ist der unterschied zwischen bit und byte"),
]
DIFFERENT = [
    ("explain the reaction of nitrite with acid", "explain the reaction of nitrate with acid"),
    ("what is sulfite used for", "what is sulfate used for"),
    ("is the medication adsorbed in the stomach", "is the medication absorbed in the stomach"),
    ("what is arteritis in adults", "what is arthritis in adults"),
    ("what is prostrate cancer", "what is prostate cancer"),
    ("what is thymine in biology", "what is thiamine in biology"),
    ("how do I book a hostel room", "how do I book a hotel room"),
    ("Can I withdraw my pension at 55?", "Can I withdraw my pension at 50?"),
    ("What is -5 plus 3 in total?", "What is 5 plus 3 in total?"),
    ("Are dogs allowed in the park?", "Are dogs not allowed in the park?"),
    ("Is it legal to own a drone?", "Is it illegal to own a drone?"),
    ("How do I lock my card?", "How do I unlock my card?"),
    ("How long is the flight from Oslo to Rome?", "How long is the flight from Rome to Oslo?"),
    ("What's the capital of Australia?", "What's the capital of Austria?"),
    ("Does a dog ever chase a cat?", "Does a cat ever chase a dog?"),
    ("Translate 'Stop it' into French", "Translate 'stop it' into French"),
    ("What does parse_args return here?", "What does parseArgs return here?"),
    ("How do I clean a Polish vase?", "How do I clean a polish vase?"),
    ("Explain templates in C++ to me", "Explain templates in C# to me"),
    ("Is it safe to take clonidine daily?", "Is it safe to take clonidins daily?"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_spelling_and_politeness_do_not_matter(first: str, second: str) -> None:
    assert is_same_question(first, second)
    assert is_same_question(second, first)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_numbers_names_negation_and_order_matter(first: str, second: str) -> None:
    assert not is_same_question(first, second)
    assert not is_same_question(second, first)


@pytest.mark.parametrize(
    "text",
    [
        "What is the weather like in Oslo?",
        "Wer ist aktuell der Bundeskanzler?",
        "¿Quién es el presidente ahora mismo?",
        "现在的总统是谁 please tell me",
        "Why?",
        "word " * 200,
    ],
)
def test_questions_about_the_present_and_long_texts_are_not_compared(text: str) -> None:
    assert not is_comparable(text)


def test_the_most_similar_candidates_come_first() -> None:
    candidates = ["How do I bake bread?", "How do I bleed a radiator?", "Where is my parcel?"]
    assert rank_candidates("how to bleed radiators", candidates, 2)[0] == 1
