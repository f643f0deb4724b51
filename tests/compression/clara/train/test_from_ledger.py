"""Training lines from kept passages: what was used later where that shows, and the passages themselves."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.train import data, kept, trajectories
from clara_proxy.compression.clara.train.kept import Kept

FILLER = "".join(f"{number}: nothing of note happens in this row, as in all the others\n" for number in range(60))
WHERE = "src/web/session_pool.py: def make_session()"
FOUND = Kept(f"{FILLER}{WHERE}\n{FILLER}", "Where is make_session defined?\ngrep make_session")
READ = Kept(f"{FILLER}class Pool\n{FILLER}", "Where is it?\nread_file src/web/session_pool.py")


def test_the_answer_is_the_line_of_which_a_later_call_was_made() -> None:
    (made,) = kept.records([[FOUND, READ]])
    assert made["answer"] == WHERE
    assert made["question"] == FOUND.question
    assert len(made["docs"]) == trajectories.DOCUMENTS
    assert all(WHERE in made["docs"][place] for place in made["pos_index"])
    assert made["pos_index"]


def test_what_stood_before_is_no_discovery() -> None:
    assert not list(kept.records([[FOUND._replace(question="Look into src/web/session_pool.py"), READ]]))
    listing = Kept(f"{FILLER}src/web/session_pool.py\n", "list")
    (made,) = kept.records([[listing, FOUND._replace(question="grep it"), READ]])
    assert made["question"] == "list"  # there it was new


def test_plain_words_and_what_stands_everywhere_point_nowhere() -> None:
    later = READ._replace(question="read_file nothing happens in session")
    assert not list(kept.records([[FOUND._replace(question="list"), later]]))
    everywhere = Kept("row_number 1\n" * 400, "list")
    assert not list(kept.records([[everywhere, READ._replace(question="grep row_number")]]))


def test_a_passage_of_a_growing_conversation_gives_one_line() -> None:
    for requests in ([[FOUND, READ], [FOUND]], [[FOUND], [FOUND, READ]], [[FOUND, READ], [FOUND, READ]]):
        (made,) = kept.records(requests)
        assert made["answer"] == WHERE


def test_without_a_question_or_a_later_passage_there_is_no_line() -> None:
    assert not list(kept.records([[FOUND._replace(question=""), READ]]))
    assert not list(kept.records([[FOUND]]))


def test_requests_are_never_put_together() -> None:
    assert not list(kept.records([[READ], [FOUND]]))
    short = Kept(f"{WHERE}\n", "list")
    assert not list(kept.records([[short, READ], [FOUND]]))  # too few windows of its own


def test_a_long_question_keeps_its_beginning_and_the_call() -> None:
    asked = FOUND._replace(question=f"Where is it defined? {'more words ' * 200}\ngrep make_session")
    (made,) = kept.records([[asked, READ]])
    assert made["question"].startswith("Where is it defined?")
    assert made["question"].endswith("grep make_session")
    assert len(made["question"]) < 700


def test_every_window_is_restated_once() -> None:
    made = list(kept.restatements([[FOUND, READ], [FOUND]]))
    assert "".join(record["docs"][0] for record in made).count(WHERE) == 1
    assert {record["docs"][0] for record in made} == {
        *trajectories.windows(FOUND.before),
        *trajectories.windows(READ.before),
    }
    for record in made:
        assert data.item(record).paraphrase
        assert record["answers"] == record["docs"]


TEXT = st.lists(st.sampled_from(["src/a_file.py", "make_it", "a row of words", "4711-X", "", "x" * 800]), max_size=40)
PASSAGE = st.builds(Kept, *[TEXT.map("\n".join)] * 2)


@given(st.lists(st.lists(PASSAGE, max_size=4), max_size=3))
def test_every_line_can_be_trained_on_and_is_verbatim(requests: list[list[Kept]]) -> None:
    befores = {passage.before for passages in requests for passage in passages}
    for made in kept.records(requests):
        data.item(made)
        assert len(made["docs"]) == trajectories.DOCUMENTS
        helpful = [made["docs"][place] for place in made["pos_index"]]
        assert all(any(line in document for document in helpful) for line in made["answer"].split("\n"))
        assert all(any(window in before for before in befores) for window in made["docs"])
    for made in kept.restatements(requests):
        data.item(made)
