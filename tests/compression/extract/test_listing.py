"""Long listings of folders."""

from clara_proxy.compression.compressor import Gap

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
