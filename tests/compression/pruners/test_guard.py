"""The guard keeps numbers, literals and negations beside kept words, and words are pruned without being cut."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.compressor import Gap, Task
from clara_proxy.compression.markers import render
from clara_proxy.compression.pruners.guard import add_guarded, split_pieces
from clara_proxy.compression.pruners.jobs import UnitScores
from clara_proxy.compression.pruners.word_pruning import SentenceLayout, WordPruner, prune_words


def guard(sentence: str, *kept: str) -> str:
    words = sentence.split()
    flags = add_guarded(words, [word in kept for word in words])
    return " ".join(word for word, flag in zip(words, flags, strict=True) if flag)


@pytest.mark.parametrize(
    ("sentence", "kept", "expected"),
    [
        ("the pump did not start today", ["start"], "not start"),
        ("the pump did not really start today", ["start"], "not really start"),
        ("the pump didn't start", ["start"], "didn't start"),
        ("it was never easy to mend the pump", ["mend"], "never easy to mend"),
        ("start it without the pump", ["start"], "start"),  # "without" denies what is left out
        ("the pump started, not", ["started,"], "started, not"),
        ("mended in May 1931 by 12 people", ["May"], "May 1931 12"),
        ("open the file src/app.py of the mill", ["file"], "file src/app.py"),
        ("see RFC-9110 at https://example.com/a now", ["see"], "see RFC-9110"),
        ("the user_id and session_id of the mill", ["and"], "user_id and session_id"),
        ("no one checked the old pump", ["pump"], "pump"),  # five words before
        ("no one checked the pump", ["checked"], "no one checked"),
        ("die Pumpe startet nicht mehr", ["startet"], "startet nicht mehr"),
        ("the mill of the town", ["mill"], "mill"),
        ("in 1931 it was not old", [], ""),
    ],
)
def test_guard_adds_what_neighbours_need(sentence: str, kept: list[str], expected: str) -> None:
    assert guard(sentence, *kept) == expected


def test_words_are_runs_without_the_marks_around_them() -> None:
    text = '(The "pump", v1.2.3, isn\'t old: see src/app.py or $4,512!) \u6c34\u8eca\u3002 \u2014'
    pieces = split_pieces(text, (0, len(text)))
    words = [text[piece.start : piece.end] for piece in pieces if piece.is_word]
    assert words == [
        "The", "pump", "v1.2.3", "isn't", "old", "see", "src/app.py", "or", "$4,512", "\u6c34\u8eca",
    ]  # fmt: skip
    assert "".join(text[piece.start : piece.end] for piece in pieces) == "".join(text.split())


def build_pruner(text: str, spans: list[tuple[int, int]], kept: str, parents: list[int] | None = None) -> WordPruner:
    words = [piece for span in spans for piece in split_pieces(text, span)]
    scores = [float(text[piece.start : piece.end] in kept.split()) for piece in words]
    scored = UnitScores([(piece.start, piece.end) for piece in words], scores, [1.0], 0.5)
    return WordPruner(SentenceLayout(text, spans, parents or [-1] * len(spans)), scored)


TEXT = "# Pumps\nThe old pump failed in 1931. No one\nchecked the valve, ever. It did not start."
SPANS = [(0, 7), (8, 36), (37, 68), (69, 86)]


def test_pruned_words_keep_their_blanks_lines_and_full_stops() -> None:
    pruner = build_pruner(TEXT, SPANS, "pump failed valve start", [-1, 0, 0, 0])
    assert render(pruner.prune(0.5), "GET /x") == (
        "# Pumps\npump failed 1931. No one\nchecked the valve. not start.\n[6 of 17 words left out; GET /x]"
    )


def test_sentence_without_a_kept_word_is_left_out_with_its_numbers() -> None:
    pruner = build_pruner(TEXT, SPANS, "start")
    assert render(pruner.prune(0.5), None) == "[...]\nnot start.\n[15 of 17 words left out]"
    last = build_pruner(TEXT, SPANS, "Pumps").prune(0.5)
    assert render(last, None) == "# Pumps\n[...]\n[16 of 17 words left out]"
    assert [part.left_out for part in last.parts if isinstance(part, Gap)] == [16]


def test_target_is_filled_with_the_best_words() -> None:
    words = [piece for span in SPANS for piece in split_pieces(TEXT, span)]
    scored = UnitScores(
        [(piece.start, piece.end) for piece in words], [1 / (2 + index) for index in range(len(words))], [1.0], 0.5
    )
    pruner = WordPruner(SentenceLayout(TEXT, SPANS, [-1] * 4), scored)
    sizes = [
        len(render(outcome, None).split())
        for target in (14, 18, 40)
        if (outcome := prune_words(Task(TEXT, "", target, lambda text: len(text.split())), pruner, 0.5))
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] <= 14
    assert sizes[-1] > sizes[0]


VOCABULARY = "the pump is not old v1.2 4,512 (new) never don't src/a.py 12% \u6c34 and, start; no"
SENTENCES = st.lists(st.sampled_from(VOCABULARY.split()), min_size=1, max_size=14).map(" ".join)


def list_words(text: str) -> list[str]:
    return [text[piece.start : piece.end] for piece in split_pieces(text, (0, len(text))) if piece.is_word]


@given(SENTENCES, st.randoms(use_true_random=False), st.floats(0.05, 0.95))
@settings(max_examples=60, deadline=None)
def test_words_of_a_kept_sentence_are_whole_and_its_numbers_complete(
    sentence: str, random: Random, threshold: float
) -> None:
    text = f"{sentence}."
    words = split_pieces(text, (0, len(text)))
    scored = UnitScores([(piece.start, piece.end) for piece in words], [random.random() for _ in words], [1.0], 0.5)
    parts = WordPruner(SentenceLayout(text, [(0, len(text))], [-1]), scored).prune(threshold).parts
    shown = list_words("".join(part for part in parts if isinstance(part, str)))
    remaining = iter(list_words(text))
    assert all(word in remaining for word in shown)  # whole words, in order
    if shown:
        numbers = [word for word in list_words(text) if any(map(str.isdigit, word))]
        assert [word for word in shown if any(map(str.isdigit, word))] == numbers
