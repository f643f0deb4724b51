"""Long listings of folders."""

import pytest

from clara_proxy.compression.compressor import Gap
from clara_proxy.compression.markers import render

from .samples import BY_NAME, FOLDER, compress_text, list_pieces, run_compressor


def test_every_name_is_kept_without_its_columns() -> None:
    passage = run_compressor(BY_NAME["listing"], FOLDER, "", 2)
    assert passage is not None
    assert passage.parts[0] == Gap(61, "files' modes, owners, sizes and times")
    out = "\n".join(list_pieces(passage))
    assert all(f"\nmodule_{index}.py" in out for index in range(60))
    assert "latest -> module_59.py" in out
    assert "drwxr-xr-x 12 ann staff      4096 Jan 17  2024 vendored" in out


def test_names_in_the_question_are_kept_at_a_small_target() -> None:
    assert "module_37.py" in compress_text("listing", FOLDER, "open module_37", ratio=12)


FOLDERS = "\n\n".join(
    f"./{folder}:\ntotal 96\n"
    + "\n".join(
        f"-rw-r--r-- 1 ann staff {400 + 7 * index} Mar  3 10:{index:02} {folder}-{index}.txt" for index in range(30)
    )
    + f"\n-rw-r--r-- 1 ann staff {size} Mar  4 11:00 data.bin"
    for folder, size in (("alpha", 5120), ("beta", 73400320), ("gamma", 6000))
)


def test_sizes_are_kept_if_the_question_asks_for_them() -> None:
    passage = run_compressor(BY_NAME["listing"], FOLDERS, "How large is beta/data.bin?", 8)
    assert passage is not None
    assert "./beta:" in render(passage, None)
    assert "73400320 Mar  4 11:00 data.bin" in render(passage, None)


def test_the_largest_file_is_kept_below_its_folder() -> None:
    passage = run_compressor(BY_NAME["listing"], FOLDERS, "Which file is the largest?", 20)
    assert passage is not None
    text = render(passage, None)
    assert 0 <= text.find("./beta:") < text.find("73400320")


def test_columns_left_out_are_not_counted_as_lines() -> None:
    passage = run_compressor(BY_NAME["listing"], FOLDERS, "Where is gamma-7.txt?", 8)
    assert passage is not None
    line_count = sum(map(bool, FOLDERS.split("\n")))
    assert f" of {line_count} lines left out; fetch it]" in render(passage, "fetch it")


AGES = "total 400\n" + "\n".join(
    f"{mode}  1 ann staff {900 + index} {date} tool-{index}"
    for index, (mode, date) in enumerate(
        [("-rwxr-xr-x", f"Mar {1 + index % 28:2}  202{index % 4}") for index in range(60)]
        + [("lrwxrwxrwx", "Jan  5 07:10"), ("-rwxr-xr-x", "Dec 30 23:59"), ("-rwxr-xr-x", "Apr  2  2017")]
    )
)


@pytest.mark.parametrize(
    ("question", "entry"),
    [
        ("Which tool was installed last?", "Jan  5 07:10 tool-60"),
        ("Which is the newest tool?", "Jan  5 07:10 tool-60"),
        ("Which is the oldest tool?", "Apr  2  2017 tool-62"),
    ],
)
def test_the_newest_and_the_oldest_entry_are_kept(question: str, entry: str) -> None:
    passage = run_compressor(BY_NAME["listing"], AGES, question, 12)
    assert passage is not None
    assert entry in render(passage, None)
