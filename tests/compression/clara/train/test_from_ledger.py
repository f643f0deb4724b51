"""Training records from kept passages: lines that were used later, and restatements of all windows."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.train.example_records import DOCUMENT_COUNT, split_windows
from clara_proxy.compression.clara.train.from_ledger import KeptPassage, restatement_records, usage_records
from clara_proxy.compression.clara.train.training_data import parse_example

FILLER = "".join(f"{number}: nothing of note happens in this row, as in all the others\n" for number in range(60))
LINE = "src/web/session_pool.py: def make_session()"
SEARCH = KeptPassage(f"{FILLER}{LINE}\n{FILLER}", "Where is make_session defined?\ngrep make_session")
READ = KeptPassage(f"{FILLER}class Pool\n{FILLER}", "Where is it?\nread_file src/web/session_pool.py")


def test_the_answer_is_the_line_that_a_later_call_used() -> None:
    (record,) = usage_records([[SEARCH, READ]])
    assert record["answer"] == LINE
    assert record["question"] == SEARCH.question
    assert len(record["docs"]) == DOCUMENT_COUNT
    assert all(LINE in record["docs"][index] for index in record["pos_index"])
    assert record["pos_index"]


def test_text_from_before_the_passage_gives_no_record() -> None:
    assert not list(usage_records([[SEARCH._replace(question="Look into src/web/session_pool.py"), READ]]))
    listing = KeptPassage(f"{FILLER}src/web/session_pool.py\n", "list")
    (record,) = usage_records([[listing, SEARCH._replace(question="grep it"), READ]])
    assert record["question"] == "list"  # the first passage with the name


def test_plain_words_and_frequent_names_give_no_record() -> None:
    later = READ._replace(question="read_file nothing happens in session")
    assert not list(usage_records([[SEARCH._replace(question="list"), later]]))
    frequent = KeptPassage("row_number 1\n" * 400, "list")
    assert not list(usage_records([[frequent, READ._replace(question="grep row_number")]]))


def test_a_passage_of_a_growing_conversation_gives_one_record() -> None:
    for requests in ([[SEARCH, READ], [SEARCH]], [[SEARCH], [SEARCH, READ]], [[SEARCH, READ], [SEARCH, READ]]):
        (record,) = usage_records(requests)
        assert record["answer"] == LINE


def test_without_a_question_or_a_later_passage_there_is_no_record() -> None:
    assert not list(usage_records([[SEARCH._replace(question=""), READ]]))
    assert not list(usage_records([[SEARCH]]))


def test_records_never_mix_requests() -> None:
    assert not list(usage_records([[READ], [SEARCH]]))
    short = KeptPassage(f"{LINE}\n", "list")
    assert not list(usage_records([[short, READ], [SEARCH]]))  # too few windows of its own


def test_a_long_question_keeps_its_beginning_and_the_call() -> None:
    long_question = SEARCH._replace(question=f"Where is it defined? {'more words ' * 200}\ngrep make_session")
    (record,) = usage_records([[long_question, READ]])
    assert record["question"].startswith("Where is it defined?")
    assert record["question"].endswith("grep make_session")
    assert len(record["question"]) < 700


def test_every_window_is_restated_once() -> None:
    records = list(restatement_records([[SEARCH, READ], [SEARCH]]))
    assert "".join(record["docs"][0] for record in records).count(LINE) == 1
    assert {record["docs"][0] for record in records} == {*split_windows(SEARCH.text), *split_windows(READ.text)}
    for record in records:
        assert parse_example(record).paraphrase
        assert record["answers"] == record["docs"]


TEXT = st.lists(st.sampled_from(["src/a_file.py", "make_it", "a row of words", "4711-X", "", "x" * 800]), max_size=40)
PASSAGE = st.builds(KeptPassage, *[TEXT.map("\n".join)] * 2)


@given(st.lists(st.lists(PASSAGE, max_size=4), max_size=3))
def test_every_record_is_valid_and_verbatim(requests: list[list[KeptPassage]]) -> None:
    texts = {passage.text for passages in requests for passage in passages}
    for record in usage_records(requests):
        parse_example(record)
        assert len(record["docs"]) == DOCUMENT_COUNT
        relevant = [record["docs"][index] for index in record["pos_index"]]
        assert all(any(line in document for document in relevant) for line in record["answer"].split("\n"))
        assert all(any(window in text for text in texts) for window in record["docs"])
    for record in restatement_records(requests):
        parse_example(record)
