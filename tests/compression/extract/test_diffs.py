"""Diffs: changed lines, their headers, and the size of a diff with many changes."""

import pytest

from .samples import DIFF, compress_text, count


def _hunk(index: int, *, extra_line: str = "") -> str:
    removed = "\n".join(f"-    return self.total_{index}_{line} + tax_{line}" for line in range(6))
    added = "\n".join(f"+    return self.amount_{index}_{line} * rate_{line}" for line in range(6))
    header = f"@@ -{index},8 +{index},8 @@ def bill_{index}(self):"
    return f"{header}\n     first = {index}\n{removed}\n{added}{extra_line}\n     last = {index}"


def _file(name: str) -> str:
    header = f"diff --git a/{name} b/{name}\nindex 83db48f..bf269f4 100644\n--- a/{name}\n+++ b/{name}\n"
    return header + "\n".join(_hunk(index) for index in range(10, 400, 10))


REWRITTEN = "\n".join(_file(f"src/part_{index}.py") for index in range(6))
COMMITS = "\n".join(
    f"commit {index * 7919 + 4096:040x}\nAuthor: Ann <ann@example.org>\nDate:   Mon Mar {index + 1} 10:00:00 2026\n\n"
    f"    Count the tax once in part {index}\n\n    It was counted twice before.\n\n{_file(f'src/part_{index}.py')}"
    for index in range(6)
)


@pytest.mark.parametrize("ratio", [1.5, 2.0, 4.0, 6.0])
def test_a_rewritten_file_meets_the_target(ratio: float) -> None:
    out = compress_text("diff", REWRITTEN, "", ratio=ratio)
    assert 0.85 < count(out) * ratio / count(REWRITTEN) <= 1.02


def test_a_short_diff_stays_above_the_target() -> None:
    short = _file("src/part.py")[:2_000]
    assert count(compress_text("diff", short, "", ratio=20)) > 0.3 * count(short)


def test_every_changed_line_is_kept_if_it_fits() -> None:
    context = "\n".join(f"     same = {line}" for line in range(400))
    text = f"{_file('src/part.py')[:1_500]}\n{context}"
    out = compress_text("diff", text, "", ratio=2.5)
    assert not [
        line for line in text.split("\n") if line[0] in "+-" and line[:3] not in {"+++", "---"} and line not in out
    ]


@pytest.mark.parametrize("ratio", [2, 4, 10])
def test_a_removed_line_is_kept_with_the_one_that_replaces_it_or_neither(ratio: float) -> None:
    kept = set(compress_text("diff", REWRITTEN, "", ratio=ratio).split("\n"))
    for index in range(10, 400, 10):
        for line in range(6):
            removed, added = (
                f"-    return self.total_{index}_{line} + tax_{line}",
                f"+    return self.amount_{index}_{line} * rate_{line}",
            )
            assert (removed in kept) == (added in kept)


def test_every_file_is_named_and_shows_a_change() -> None:
    files = [_file(f"src/part_{index}.py").replace("return self", f"return shop{index}") for index in range(6)]
    out = compress_text("diff", "\n".join(files), "", ratio=10)
    parts = out.split("diff --git ")[1:]
    assert len(parts) == 6
    assert all("\n-    return" in part and "\n+    return" in part for part in parts)


def test_what_differs_in_a_long_line_is_kept_on_both_sides() -> None:
    old = "-" + ", ".join(f'"route_{index}": {{"retries": {index % 5}, "open": true}}' for index in range(200))
    new = "+" + old[1:].replace('"route_131": {"retries": 1', '"route_131": {"retries": 17')
    context = "\n".join(f"     same = {line}" for line in range(60))
    text = f"diff --git a/web/routes.json b/web/routes.json\n@@ -1,62 +1,62 @@\n{context}\n{old}\n{new}\n{context}"
    out = compress_text("diff", text, "", ratio=8)
    assert '"retries": 17' in out
    assert out.count('"route_131": {"retries": 1') == 2
    assert out.index('\n-"route_0"') < out.index('"route_131"') < out.index('\n+"route_0"') < out.rindex('"route_131"')


def test_a_line_named_in_the_question_is_kept() -> None:
    assert "self.amount_170_3" in compress_text("diff", REWRITTEN, "why is amount_170_3 multiplied?", ratio=6)


def test_new_wordings_are_preferred_to_repeats() -> None:
    text = _file("src/a.py") + "".join(
        f"\n{_hunk(index, extra_line=chr(10) + '-    log(1)')}" for index in range(400, 800, 10)
    )
    out = compress_text("diff", text, "", ratio=4)
    assert out.count("-    log(1)") < out.count("-    return")


def test_hashes_and_subjects_of_commits_are_kept() -> None:
    out = compress_text("diff", COMMITS, "", ratio=6)
    assert all(f"commit {index * 7919 + 4096:040x}" in out for index in range(6))
    assert all(f"Count the tax once in part {index}" in out for index in range(6))


def test_a_line_follows_the_header_of_its_own_commit() -> None:
    last_commit = COMMITS.index(f"commit {5 * 7919 + 4096:040x}")
    text = COMMITS[:last_commit] + COMMITS[last_commit:].replace("self.amount_170_3", "self.refund_17")
    out = compress_text("diff", text, "where is refund_17?", 12)
    hash_, file, line = (
        out.index(part)
        for part in (text[last_commit : last_commit + 47], "diff --git a/src/part_5.py", "self.refund_17")
    )
    assert hash_ < file < line


def test_the_list_of_changed_files_is_kept() -> None:
    statistics = "\n".join(f" src/part_{index}.py | 12 ++++++------" for index in range(6))
    text = f"{statistics}\n 6 files changed, 36 insertions(+), 36 deletions(-)\n\n{REWRITTEN}"
    out = compress_text("diff", text, "", ratio=6)
    assert "6 files changed" in out
    assert all(f"src/part_{index}.py | 12" in out for index in range(6))


def test_changed_lines_are_kept_with_their_headers() -> None:
    out = compress_text("diff", DIFF, "", ratio=10)
    source = out.partition("package-lock.json")[0]
    for index in range(10, 60, 10):
        assert f"-    limit_{index} = {index}\n+    limit_{index} = {index + 1}" in source
        assert f"@@ -{index},9 +{index},9 @@ class Store{index}:" in source
    assert source.startswith("diff --git a/src/store.py b/src/store.py")
    assert "unchanged_20_0" not in out


def test_a_generated_file_keeps_only_its_header() -> None:
    out = compress_text("diff", DIFF, "", ratio=4)
    assert "diff --git a/src/package-lock.json b/src/package-lock.json" in out
    assert "limit_30 = 31" not in out.partition("package-lock.json")[2]


def test_context_named_in_the_question_is_kept() -> None:
    assert "unchanged_30_0" in compress_text("diff", DIFF, "where is unchanged_30_0 defined?", ratio=2)
