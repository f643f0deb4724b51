"""Diffs that are nearly all change: what stays of them when less is asked for than changed."""

import pytest

from .samples import count, shortened


def _hunk(at: int, *, again: str = "") -> str:
    removed = "\n".join(f"-    return self.total_{at}_{line} + tax_{line}" for line in range(6))
    added = "\n".join(f"+    return self.amount_{at}_{line} * rate_{line}" for line in range(6))
    return f"@@ -{at},8 +{at},8 @@ def bill_{at}(self):\n     first = {at}\n{removed}\n{added}{again}\n     last = {at}"


def _file(name: str) -> str:
    head = f"diff --git a/{name} b/{name}\nindex 83db48f..bf269f4 100644\n--- a/{name}\n+++ b/{name}\n"
    return head + "\n".join(_hunk(at) for at in range(10, 400, 10))


REWRITTEN = "\n".join(_file(f"src/part_{at}.py") for at in range(6))
LOG = "\n".join(
    f"commit {at * 7919 + 4096:040x}\nAuthor: Ann <ann@example.org>\nDate:   Mon Mar {at + 1} 10:00:00 2026\n\n"
    f"    Count the tax once in part {at}\n\n    It was counted twice before.\n\n{_file(f'src/part_{at}.py')}"
    for at in range(6)
)


@pytest.mark.parametrize("ratio", [1.5, 2.0, 4.0, 6.0])
def test_a_rewritten_file_gets_down_to_the_size_asked_for(ratio: float) -> None:
    out = shortened("diff", REWRITTEN, "", ratio=ratio)
    assert 0.85 < count(out) * ratio / count(REWRITTEN) <= 1.02


def test_of_a_short_one_more_stays_than_was_asked_for() -> None:
    short = _file("src/part.py")[:2_000]
    assert count(shortened("diff", short, "", ratio=20)) > 0.3 * count(short)


def test_every_changed_line_stays_where_that_fits() -> None:
    around = "\n".join(f"     same = {line}" for line in range(400))
    text = f"{_file('src/part.py')[:1_500]}\n{around}"
    out = shortened("diff", text, "", ratio=2.5)
    assert not [
        line for line in text.split("\n") if line[0] in "+-" and line[:3] not in {"+++", "---"} and line not in out
    ]


def test_what_was_removed_goes_before_what_was_added() -> None:
    out = shortened("diff", REWRITTEN, "", ratio=4)
    assert out.count("\n-") > 3 * out.count("\n+")


def test_what_the_question_names_stays() -> None:
    assert "self.amount_170_3" in shortened("diff", REWRITTEN, "why is amount_170_3 multiplied?", ratio=6)


def test_the_same_words_are_shown_once_before_others() -> None:
    text = _file("src/a.py") + "".join(f"\n{_hunk(at, again=chr(10) + '-    log(1)')}" for at in range(400, 800, 10))
    out = shortened("diff", text, "", ratio=4)
    assert out.count("-    log(1)") < out.count("-    return")


def test_commits_keep_their_hashes_and_subjects() -> None:
    out = shortened("diff", LOG, "", ratio=6)
    assert all(f"commit {at * 7919 + 4096:040x}" in out for at in range(6))
    assert all(f"Count the tax once in part {at}" in out for at in range(6))


def test_a_line_comes_under_its_own_commit() -> None:
    last = LOG.index(f"commit {5 * 7919 + 4096:040x}")
    text = LOG[:last] + LOG[last:].replace("self.amount_170_3", "self.refund_17")
    out = shortened("diff", text, "where is refund_17?", 12)
    hash_, file, line = (
        out.index(one) for one in (text[last : last + 47], "diff --git a/src/part_5.py", "self.refund_17")
    )
    assert hash_ < file < line


def test_a_list_of_what_changed_stays() -> None:
    listed = "\n".join(f" src/part_{at}.py | 12 ++++++------" for at in range(6))
    text = f"{listed}\n 6 files changed, 36 insertions(+), 36 deletions(-)\n\n{REWRITTEN}"
    out = shortened("diff", text, "", ratio=6)
    assert "6 files changed" in out
    assert all(f"src/part_{at}.py | 12" in out for at in range(6))
