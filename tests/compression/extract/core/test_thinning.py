"""Long texts lose most of their records before lines are scored: what stays, what is counted, where texts are cut."""

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Task
from clara_proxy.compression.extract.core import record_starts, thinning
from clara_proxy.compression.extract.core.lines import find_line_spans

from ..samples import count, count_left_out, list_pieces

LINES = [f"item {index} of the shelf holds {index % 7} boxes" for index in range(6_000)]


def find_line(text: str, offset: int) -> int:
    return text.find("\n", offset) + 1 or len(text)


def thin_lines(lines: list[str], question: str = "") -> Task:
    text = "\n".join(lines)
    return thinning.thin(Task(text, question, 50, count), lambda offset: find_line(text, offset))


def test_a_short_text_stays_whole() -> None:
    task = Task("\n".join(LINES[:100]), "", 50, count)
    assert thinning.thin(task, lambda offset: find_line(task.text, offset)) is task


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("the gardener was seen near the pond", ""),
        ("item 3333 of the shelf holds 98000000 boxes", ""),
        ("item 3333 failed: no route", ""),
        ("GET /items/3333 HTTP/1.1 502", ""),
        ("item 3333 of the shelf is teal", "Which one is teal?"),
    ],
)
def test_what_differs_fails_or_is_asked_for_stays(line: str, question: str) -> None:
    task = thin_lines([*LINES[:3_333], line, *LINES[3_334:]], question)
    assert line in task.text
    assert len(task.text) < 0.6 * len("\n".join(LINES))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_skips_count_what_the_text_lacks(end: str) -> None:
    lines = [line + " word" * (400 * (index % 1_000 == 500)) for index, line in enumerate(LINES)]
    text = end.join(line + end * (index % 3) for index, line in enumerate(lines))
    task = thinning.thin(Task(text, "item 2222", 50, count), lambda offset: find_line(text, offset))
    assert len(task.skips) > 1
    assert [offset for offset, _ in task.skips] == sorted(offset for offset, _ in task.skips)
    kept = len(find_line_spans(task.text))
    assert kept + sum(skipped for _, skipped in task.skips) == len(find_line_spans(text))


def test_gaps_count_the_skips() -> None:
    text = "\n".join(LINES)
    passage = registry.find_compressor(text).compress(Task(text, "", 300, count, fills_target=False))
    assert passage is not None
    kept = sum(piece.count("\n") + 1 for piece in list_pieces(passage))
    assert kept + count_left_out(passage) == passage.total == len(LINES)


@pytest.mark.parametrize("separator", ["\n", "\r\n"])
def test_a_text_is_cut_where_a_record_begins(separator: str) -> None:
    text = "".join(
        f"commit {index:040x}{separator}Author: A{separator}{separator}    Change {index}{separator}{separator}"
        for index in range(900)
    )
    starts = record_starts.RecordStarts(text)
    assert starts.is_known
    cuts = [starts.find_cut(offset) for offset in range(0, len(text), 777)]
    assert all(text.startswith("commit ", cut) or cut == len(text) for cut in cuts)


def test_lines_above_all_records_are_roots() -> None:
    text = "".join(
        f"group{number}:\n" + "".join(f"  id: {i}\n    size: {i}\n" for i in range(300)) for number in (1, 2)
    )
    starts = record_starts.RecordStarts(text)
    assert starts.is_known
    assert [text[root : root + 7] for root in starts.roots] == ["group2:"]
    assert text.startswith("  id: ", starts.find_cut(2_000))


def test_records_that_look_like_their_lines_are_not_cut() -> None:
    text = "".join(f"{'abc'[i % 3]}: {i}\n" + "  x: 1\n" * (i % 2) for i in range(9))
    assert not record_starts.RecordStarts(text).is_known  # too short to tell
