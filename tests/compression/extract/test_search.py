"""Search results and lists of paths."""

from clara_proxy.compression.compressor import Gap

from .samples import BY_NAME, LISTING, SEARCH, compress_text, list_pieces, run_compressor


def test_a_result_in_the_question_is_kept_and_files_are_counted() -> None:
    passage = run_compressor(BY_NAME["search"], SEARCH, "where does web call join_all in line 35?", 9)
    assert passage is not None
    assert any("src/web/merge.py:35:" in piece for piece in list_pieces(passage))
    assert any(isinstance(part, Gap) and "files" in part.unit for part in passage.parts)


def test_a_path_in_the_question_is_kept() -> None:
    assert "./pkg/part4/module_52.py" in compress_text("search", LISTING, "open module_52", ratio=9)


def test_a_warning_comment_is_kept() -> None:
    results = [f"./app/part{index % 40}.py:{index}:    timeout = {index}" for index in range(400)]
    results[217] = "./app/part17.py:217:    # FIXME: after a timeout it pays twice"
    assert "it pays twice" in compress_text("search", "\n".join(results), "grep -rn timeout .", ratio=20)
