"""Comparisons of two texts: complete, exact, and correct about verbatim parts."""

import gzip
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import markers, registry
from clara_proxy.compression.compressor import Task
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.dashboard.side_by_side import Block, compare_texts
from clara_proxy.tests.running import LOG_TEXT

DATA = Path(__file__).parents[4] / "shared" / "data" / "tool_outputs.jsonl.gz"
LINE = st.sampled_from(
    ["", " ", "a", "}", "one line", "another line", "[3 lines left out]", "x" * 30, "\r", "é\u2028b"]
)
TEXTS = st.lists(LINE, max_size=12).map("\n".join) | st.text(max_size=80)


@given(TEXTS, TEXTS)
def test_blocks_add_up_to_both_texts(before: str, after: str) -> None:
    blocks = compare_texts(before, after).blocks
    assert "".join(block.before for block in blocks) == before
    assert "".join(block.after for block in blocks) == after
    for block in blocks:
        assert block.before or block.after
        assert block.kind != "written" or not block.before


@given(st.lists(st.text("abc xyz", min_size=1, max_size=20), min_size=1, max_size=12), st.data())
def test_verbatim_lines_are_kept_and_others_left_out(lines: list[str], data: st.DataObject) -> None:
    lines = [f"{number}: {line}" for number, line in enumerate(lines)]
    selection = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    sent = [line if keep else "[1 line left out]" for line, keep in zip(lines, selection, strict=True)]
    comparison = compare_texts("\n".join(lines), "\n".join(sent))
    kept = [line for block in comparison.blocks if block.kind == "kept" for line in block.before.split("\n") if line]
    assert any(selection) <= (not comparison.is_rewritten)
    assert comparison.is_rewritten or kept == [line for line, keep in zip(lines, selection, strict=True) if keep]


def test_part_of_a_line_is_found() -> None:
    comparison = compare_texts("-rw-r--r-- 1 root .gitignore\n-rw-r--r-- 1 root setup.py\n", ".gitignore\nsetup.py\n")
    assert not comparison.is_rewritten
    assert [block.kind for block in comparison.blocks] == ["left-out", "kept", "left-out", "kept"]
    assert comparison.blocks[1] == Block("kept", ".gitignore\n", ".gitignore\n")


def test_missing_words_of_a_rewritten_text_are_marked() -> None:
    comparison = compare_texts('[{"id": 1, "name": "Ada", "secret": "x9"}]', "id|name\n1|Ada")
    assert comparison.is_rewritten
    missing = "".join(block.before for block in comparison.blocks if block.kind == "left-out")
    assert "secret" in missing
    assert "Ada" not in missing
    assert comparison.blocks[-1] == Block("written", "", "id|name\n1|Ada")


def test_text_of_a_model_is_marked_as_written() -> None:
    comparison = compare_texts(LOG_TEXT, "In short: all is well.\n" + "\n".join(LOG_TEXT.split("\n")[:5]))
    assert comparison.blocks[0] == Block("written", "", "In short: all is well.\n")


@pytest.mark.parametrize("after", ["line 7 of the text", "other {}", "line {} of", "}}", "[{} lines left out]"])
def test_long_texts_are_compared_in_linear_time(after: str) -> None:
    before = "\n".join(
        f"line {number} of the text" for number in range(20_000)
    )  # a quadratic algorithm would take minutes
    sent = "\n".join(after.format(number) for number in range(20_000))
    for text in (sent, sent.replace("\n", " "), before[:-20] + sent):
        blocks = compare_texts(before, text).blocks
        assert "".join(block.before for block in blocks) == before
        assert "".join(block.after for block in blocks) == text


@pytest.mark.skipif(not DATA.exists(), reason="needs the evaluation data beside the project")
def test_real_tool_outputs_are_mostly_compared_by_line() -> None:
    outputs = [orjson.loads(line)["output"] for line in gzip.decompress(DATA.read_bytes()).splitlines()[::9]]
    verbatim: list[bool] = []
    count = get_token_counter("gpt-4o").count
    for text in outputs:
        task = Task(text, "", max(1, count(text) // 3), count)
        compressed = registry.find_compressor(text).compress(task)
        if compressed is None:
            continue
        comparison = compare_texts(text, markers.render(compressed, None))
        assert "".join(block.before for block in comparison.blocks) == text
        verbatim.append(not comparison.is_rewritten)
    assert len(verbatim) > 20
    assert sum(verbatim) / len(verbatim) > 0.8
