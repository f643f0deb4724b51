"""Two texts side by side: nothing is lost, nothing is made up, and what was kept is said to be kept."""

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
def test_the_blocks_are_both_texts_to_the_last_character(before: str, after: str) -> None:
    blocks = compare_texts(before, after).blocks
    assert "".join(block.before for block in blocks) == before
    assert "".join(block.after for block in blocks) == after
    for block in blocks:
        assert block.before or block.after
        assert block.kind != "written" or not block.before


@given(st.lists(st.text("abc xyz", min_size=1, max_size=20), min_size=1, max_size=12), st.data())
def test_pieces_in_order_are_kept_and_the_rest_is_left_out(lines: list[str], data: st.DataObject) -> None:
    lines = [f"{at}: {line}" for at, line in enumerate(lines)]
    chosen = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    sent = [line if keep else "[1 lines left out]" for line, keep in zip(lines, chosen, strict=True)]
    found = compare_texts("\n".join(lines), "\n".join(sent))
    kept = [line for block in found.blocks if block.kind == "kept" for line in block.before.split("\n") if line]
    assert any(chosen) <= (not found.is_rewritten)
    assert found.is_rewritten or kept == [line for line, keep in zip(lines, chosen, strict=True) if keep]


def test_a_piece_of_a_line_is_found_in_it() -> None:
    found = compare_texts("-rw-r--r-- 1 root .gitignore\n-rw-r--r-- 1 root setup.py\n", ".gitignore\nsetup.py\n")
    assert not found.is_rewritten
    assert [block.kind for block in found.blocks] == ["left-out", "kept", "left-out", "kept"]
    assert found.blocks[1] == Block("kept", ".gitignore\n", ".gitignore\n")


def test_what_was_laid_out_anew_has_its_words_marked() -> None:
    found = compare_texts('[{"id": 1, "name": "Ada", "secret": "x9"}]', "id|name\n1|Ada")
    assert found.is_rewritten
    gone = "".join(block.before for block in found.blocks if block.kind == "left-out")
    assert "secret" in gone
    assert "Ada" not in gone
    assert found.blocks[-1] == Block("written", "", "id|name\n1|Ada")


def test_a_models_words_are_said_to_be_written() -> None:
    found = compare_texts(LOG_TEXT, "In short: all is well.\n" + "\n".join(LOG_TEXT.split("\n")[:5]))
    assert found.blocks[0] == Block("written", "", "In short: all is well.\n")


@pytest.mark.parametrize("after", ["line 7 of the text", "other {}", "line {} of", "}}", "[{} lines left out]"])
def test_long_texts_of_any_kind_are_told_in_time(after: str) -> None:
    before = "\n".join(f"line {at} of the text" for at in range(20_000))  # with the square it would take minutes
    sent = "\n".join(after.format(at) for at in range(20_000))
    for text in (sent, sent.replace("\n", " "), before[:-20] + sent):
        blocks = compare_texts(before, text).blocks
        assert "".join(block.before for block in blocks) == before
        assert "".join(block.after for block in blocks) == text


@pytest.mark.skipif(not DATA.exists(), reason="needs the evaluation data beside the project")
def test_real_tool_outputs_are_mostly_told_line_by_line() -> None:
    outputs = [orjson.loads(line)["output"] for line in gzip.decompress(DATA.read_bytes()).splitlines()[::9]]
    told: list[bool] = []
    count = get_token_counter("gpt-4o").count
    for text in outputs:
        task = Task(text, "", max(1, count(text) // 3), count)
        condensed = registry.find_compressor(text).compress(task)
        if condensed is None:
            continue
        found = compare_texts(text, markers.render(condensed, None))
        assert "".join(block.before for block in found.blocks) == text
        told.append(not found.is_rewritten)
    assert len(told) > 20
    assert sum(told) / len(told) > 0.8
