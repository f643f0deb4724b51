"""Every content type is recognised, also inside the wrapper of a tool."""

import pytest

from clara_proxy.compression import registry

from .samples import CODE, SAMPLES, compress_text

NAMES = {"json-tree": "json", "listing": "search", "folder": "listing", "crash": "report", "tests": "report"}


@pytest.mark.parametrize(("kind", "name"), [(kind, NAMES.get(kind, kind)) for kind in SAMPLES])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_content_type_is_recognised_plain_and_wrapped_by_a_tool(kind: str, name: str, wrapped: bool) -> None:
    text = f"<returncode>0</returncode>\n<output>\n{SAMPLES[kind]}\n</output>" if wrapped else SAMPLES[kind]
    assert registry.find_compressor(text).name == name


@pytest.mark.parametrize("kind", SAMPLES)
def test_windows_line_ends_do_not_change_the_content_type(kind: str) -> None:
    text = SAMPLES[kind].replace("\n", "\r\n")
    assert registry.find_compressor(text).name == registry.find_compressor(SAMPLES[kind]).name


def test_a_list_of_failed_tests_is_a_report_and_not_a_log() -> None:
    text = "\n".join(f"ERROR tests/test_{index}.py::test_case_{index}" for index in range(40))
    assert registry.find_compressor(text).name == "report"


def test_code_with_line_numbers_is_recognised_as_code() -> None:
    numbered = "\n".join(f"{number:6}\t{line}" for number, line in enumerate(CODE.split("\n"), start=1))
    assert registry.find_compressor(numbered).name == "code"
    assert "class Store7(Base):" in compress_text("code", numbered, "Which line sets staged_7 in write_7?", ratio=9)


def test_a_list_of_dotted_settings_is_no_search_result() -> None:
    text = "\n".join(f"kern.part{index}.limit: {index}" for index in range(60))
    assert registry.find_compressor(text).name == "lines"


def test_an_archive_of_files_is_a_listing_and_not_a_log() -> None:
    text = "\n".join(f"-rw-r--r-- 0/0   13{index} 1985-10-26 08:15 notes/n{index}.html" for index in range(60))
    assert registry.find_compressor(text).name == "listing"
