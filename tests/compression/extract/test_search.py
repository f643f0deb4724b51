"""Search results and lists of paths."""

import pytest

from clara_proxy.compression import registry
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


def make_diagnostics(style: str) -> str:
    """Return the output of a checker with 30 results in each of nine files."""
    parts: list[str] = []
    for file in range(9):
        path = f"src/part{file}/view{file}.ts"
        parts += [path] if style == "heading" else []
        for line in range(1, 31):
            message = f"error Name 'missing{file}x{line}' is not defined"
            parts.append(
                {
                    "heading": f"  {line}:9  {message}  no-undef",
                    "colon": f"{path}:{line}:9: {message} [no-undef]",
                    "parentheses": f"{path}({line},9): {message}.",
                    "pretty": f"{path}:{line}: {message} in\nthis  [no-undef]\n    use(missing{line})\n        ^~~",
                }[style]
            )
        parts += [""] if style == "heading" else []
    return "\n".join([*parts, "", "Found 270 errors in 9 files"])


@pytest.mark.parametrize("style", ["heading", "colon", "parentheses", "pretty"])
@pytest.mark.parametrize("ratio", [4, 12])
def test_all_results_of_a_named_file_are_kept_with_the_summary(style: str, ratio: float) -> None:
    text = make_diagnostics(style)
    assert registry.find_compressor(text).name == "search"
    out = compress_text("search", text, "Fix the type errors in view4.ts", ratio=ratio)
    assert all(f"'missing4x{line}'" in out for line in range(1, 31))
    assert "Found 270 errors in 9 files" in out
    assert "src/part4/view4.ts" in out


def test_a_result_below_a_heading_brings_its_file() -> None:
    out = compress_text("search", make_diagnostics("heading"), "where is missing7x13?", ratio=20)
    assert out.index("src/part7/view7.ts") < out.index("'missing7x13'")
    assert "src/part8" not in out[out.index("src/part7") : out.index("'missing7x13'")]


def test_a_result_brings_the_lines_that_continue_it() -> None:
    out = compress_text("search", make_diagnostics("pretty"), "where is missing7x13?", ratio=20)
    assert "'missing7x13' is not defined in\nthis  [no-undef]\n    use(missing13)\n        ^~~" in out


def test_lines_of_context_belong_to_the_file_of_their_match() -> None:
    text = "\n--\n".join(
        f"app/wire-{index}-b.py-{index}-    before = {index}\n"
        f"app/wire-{index}-b.py:{index + 1}:    raise Refused({index})\n"
        f"app/wire-{index}-b.py-{index + 2}-    after = {index}"
        for index in range(60)
    )
    passage = run_compressor(BY_NAME["search"], text, "where is Refused raised?", 3)
    assert passage is not None
    out = "\n".join(list_pieces(passage))
    assert out.count("raise Refused") > 2 * out.count("before =")
    assert all(
        int(part.unit.split()[2]) < 60 for part in passage.parts if isinstance(part, Gap) and "files" in part.unit
    )


@pytest.mark.parametrize(
    ("usual", "rare", "summary"),
    [
        ("C0116: Missing docstring (missing-docstring)", "E1101: Has no 'commit_all' (no-member)", "Rated at 6.41/10"),
        ("C: Layout/LineLength: Line is too long.", "W: Lint/UselessAssignment: Unused.", "60 offenses detected"),
        ("warning: unused variable 'a'", "warning: uninitialized use of 'total'", "61 warnings generated."),
    ],
)
def test_a_message_of_a_rare_rule_and_the_summary_are_kept(usual: str, rare: str, summary: str) -> None:
    messages = [f"shop/part{index // 4}.py:{index}:4: {usual}" for index in range(60)]
    messages.insert(37, f"shop/part9.py:31:8: {rare}")
    out = compress_text("search", "\n".join([*messages, "", summary]), "Is anything plainly broken?", ratio=8)
    assert f"part9.py:31:8: {rare}" in out
    assert out.endswith(summary)


def test_a_note_stays_with_its_error() -> None:
    warnings = [f"src/a{index}.cc:{index}:5: warning: unused variable 'tmp{index}'" for index in range(60)]
    error = ["src/money.h:31:15: error: no member named 'half'", "src/ledger.cc:212:9: note: requested here"]
    out = compress_text("search", "\n".join([*warnings[:30], *error, *warnings[30:]]), "Why does it break?", ratio=8)
    assert "\n".join(error) in out
