"""Source code: headers, raised errors, warning comments."""

import pytest

from .samples import CODE, compress_text


@pytest.mark.parametrize(
    "line", ["raise Refused(limit)", 'panic!("no tenant");', "throw new Refused();", "sys.exit(3)"]
)
def test_the_only_line_that_raises_an_error_is_kept(line: str) -> None:
    body = "".join(
        f"def step_{index}(limit):\n    part = load_{index}(limit)\n    return part + {index}\n\n"
        for index in range(80)
    )
    text = f"{body}def last(limit):\n    if not limit:\n        {line}\n    return limit\n\n{body}"
    out = compress_text("code", text, "What does step_9 load?", ratio=8)
    assert line in out
    assert "load_9(limit)" in out


def test_a_kept_line_follows_the_headers_above_it() -> None:
    out = compress_text("code", CODE, "Which line sets staged_7 in write_7?", ratio=9)
    expected_lines = ["class Store7(Base):", "def write_7(self", 'staged_7 = self.root / (key + ".new")']
    offsets = [out.find(line) for line in expected_lines]
    assert -1 not in offsets
    assert offsets == sorted(offsets)


def test_a_warning_comment_is_kept() -> None:
    names = [f"{verb}_{letter}" for verb in ("load", "save", "drop", "list", "move", "copy") for letter in "abcdefgh"]
    body = "".join(f"    part{index} = fetch_{index}(rate, limit)\n" for index in range(8))
    text = "\n\n".join(
        f"def {name}(rate, limit):\n{body}    return part{index % 8}" for index, name in enumerate(names)
    )
    commented = text.replace("    return part5\n", "    # FIXME: pays twice\n    return part5\n", 1)
    assert "pays twice" in compress_text("code", commented, "What does save_b return?", ratio=8)
