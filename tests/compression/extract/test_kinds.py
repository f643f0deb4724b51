"""What each kind of text is recognised as, and what stays of it."""

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Gap

from .samples import (
    BY_NAME,
    CODE,
    CRASH,
    DIFF,
    DOCUMENTS,
    FOLDER,
    LISTING,
    LOG,
    NOTES,
    PROSE,
    SAMPLES,
    SEARCH,
    TESTS,
    condense,
    pieces,
    shortened,
)

NAMES = {"json-tree": "json", "listing": "search", "folder": "listing", "crash": "report", "tests": "report"}


@pytest.mark.parametrize(("kind", "name"), [(kind, NAMES.get(kind, kind)) for kind in SAMPLES])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_kind_is_recognised_also_as_a_tool_wraps_it(kind: str, name: str, wrapped: bool) -> None:
    text = f"<returncode>0</returncode>\n<output>\n{SAMPLES[kind]}\n</output>" if wrapped else SAMPLES[kind]
    assert registry.find_compressor(text).name == name


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_recognises_windows_line_ends(kind: str) -> None:
    text = SAMPLES[kind].replace("\n", "\r\n")
    assert registry.find_compressor(text).name == registry.find_compressor(SAMPLES[kind]).name


def test_logs_keep_the_error_with_its_whole_trace_and_both_ends() -> None:
    out = shortened("log", LOG, "", ratio=15)
    assert "job 861 failed\njava.io.IOException: disk full\n\tat store.Disk.write" in out
    assert "Caused by: quota of 5 GB reached" in out
    assert out.startswith(LOG.split("\n", maxsplit=1)[0])
    assert LOG.rsplit("\n", maxsplit=1)[1] in out


def test_logs_keep_the_entry_that_is_asked_for_and_fold_its_like() -> None:
    condensed = condense(BY_NAME["log"], LOG, "How long did job 1407 take?", 15)
    assert condensed is not None
    assert any("processed job 1407 in" in piece for piece in pieces(condensed))
    assert any(isinstance(part, Gap) and part.unit == "similar lines" for part in condensed.parts)


def test_test_output_keeps_failures_reasons_and_summary() -> None:
    out = shortened("report", TESTS, "", ratio=12)
    for line in TESTS.split("\n"):
        if line.startswith(("E  ", "FAILED", "=", "tests/test_3.py:9")) and "session starts" not in line:
            assert line in out
    assert "similar lines left out" in out


def test_what_a_test_run_names_is_no_log() -> None:
    text = "\n".join(f"ERROR tests/test_{at}.py::test_case_{at}" for at in range(40))
    assert registry.find_compressor(text).name == "report"


def test_a_crash_keeps_where_it_began_where_it_broke_and_why() -> None:
    out = shortened("report", CRASH, "", ratio=8)
    assert "run.py" in out
    assert 'orders.py", line 88, in total\n    return sum(row.price for row in rows)' in out
    assert out.endswith("shop.errors.PriceMissing: row 17 has no price")
    assert "layer_9" not in out
    assert "^^^^" not in out


def test_a_frame_that_the_question_names_is_worth_more() -> None:
    assert "layer_7" in shortened("report", CRASH, "what does inner_7 do in layer_7?", ratio=5)


def test_a_diff_keeps_every_line_that_changed_under_its_headers() -> None:
    out = shortened("diff", DIFF, "", ratio=10)
    source = out.partition("package-lock.json")[0]
    for at in range(10, 60, 10):
        assert f"-    limit_{at} = {at}\n+    limit_{at} = {at + 1}" in source
        assert f"@@ -{at},9 +{at},9 @@ class Store{at}:" in source
    assert source.startswith("diff --git a/src/store.py b/src/store.py")
    assert "unchanged_20_0" not in out


def test_a_diff_says_of_generated_files_that_they_changed() -> None:
    out = shortened("diff", DIFF, "", ratio=4)
    assert "diff --git a/src/package-lock.json b/src/package-lock.json" in out
    assert "limit_30 = 31" not in out.partition("package-lock.json")[2]


def test_a_diff_keeps_the_context_that_is_asked_for() -> None:
    assert "unchanged_30_0" in shortened("diff", DIFF, "where is unchanged_30_0 defined?", ratio=2)


def test_a_folder_keeps_every_name_and_the_folders_in_it() -> None:
    condensed = condense(BY_NAME["listing"], FOLDER, "", 2)
    assert condensed is not None
    assert condensed.parts[0] == Gap(61, "files' modes, owners, sizes and times")
    out = "\n".join(pieces(condensed))
    assert all(f"\nmodule_{at}.py" in out for at in range(60))
    assert "latest -> module_59.py" in out
    assert "drwxr-xr-x 12 ann staff      4096 Jan 17  2024 vendored" in out


def test_of_a_large_folder_the_names_that_are_asked_for_stay() -> None:
    assert "module_37.py" in shortened("listing", FOLDER, "open module_37", ratio=12)


def test_lines_that_repeat_one_another_are_folded() -> None:
    assert "similar lines left out" in shortened("lines", NOTES, "", ratio=6)


def test_search_results_keep_what_is_asked_for_and_count_the_rest_by_file() -> None:
    condensed = condense(BY_NAME["search"], SEARCH, "where does web call join_all in line 35?", 9)
    assert condensed is not None
    assert any("src/web/merge.py:35:" in piece for piece in pieces(condensed))
    assert any(isinstance(part, Gap) and "files" in part.unit for part in condensed.parts)


def test_listings_keep_the_path_that_is_asked_for() -> None:
    assert "./pkg/part4/module_52.py" in shortened("search", LISTING, "open module_52", ratio=9)


@pytest.mark.parametrize(
    "line", ["raise Refused(limit)", 'panic!("no tenant");', "throw new Refused();", "sys.exit(3)"]
)
def test_code_keeps_the_one_line_in_which_it_gives_up(line: str) -> None:
    body = "".join(
        f"def step_{at}(limit):\n    part = load_{at}(limit)\n    return part + {at}\n\n" for at in range(80)
    )
    text = f"{body}def last(limit):\n    if not limit:\n        {line}\n    return limit\n\n{body}"
    out = shortened("code", text, "What does step_9 load?", ratio=8)
    assert line in out
    assert "load_9(limit)" in out


def test_code_keeps_the_line_with_the_headers_it_stands_under() -> None:
    out = shortened("code", CODE, "Which line sets staged_7 in write_7?", ratio=9)
    wanted = ["class Store7(Base):", "def write_7(self", 'staged_7 = self.root / (key + ".new")']
    places = [out.find(one) for one in wanted]
    assert -1 not in places
    assert places == sorted(places)


def test_code_with_line_numbers_is_code() -> None:
    listed = "\n".join(f"{number:6}\t{line}" for number, line in enumerate(CODE.split("\n"), start=1))
    assert registry.find_compressor(listed).name == "code"
    assert "class Store7(Base):" in shortened("code", listed, "Which line sets staged_7 in write_7?", ratio=9)


def test_prose_keeps_the_answer_with_its_heading() -> None:
    out = shortened("prose", PROSE, "What does the badger of valley 5 eat?", ratio=12)
    assert "eats honeycomb in the morning." in out
    assert "# Chapter 5" in out
    assert out.index("# Chapter 5") < out.index("honeycomb")


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (
            "今日は天気がいいですね。" * 9 + "東京の人口は千四百万人です。" + "明日は雨が降るでしょう。" * 9,
            "東京の人口は?",
            "千四百万人",
        ),
        (
            "Het weer is mooi vandaag. " * 9 + "Amsterdam heeft 900 duizend inwoners. " + "Morgen regent het. " * 9,
            "inwoners Amsterdam",
            "900",
        ),
    ],
)
def test_prose_in_other_languages(text: str, question: str, answer: str) -> None:
    assert registry.find_compressor(text).name == "prose"
    assert answer in shortened("prose", text, question, ratio=6)


FORMS = {
    "bracket": "[{number}] {title}\n{body}\n",
    "lost in the middle": "Document [{number}](Title: {title}) {body}",
    "named": "Passage {number}: {title}. {body}\n",
    "heading": "### Source {number}\n{body}\n",
    "tag": '<document index="{number}">\n<title>{title}</title>\n{body}\n</document>',
}


@pytest.mark.parametrize("form", FORMS)
def test_documents_keep_their_numbers_and_titles(form: str) -> None:
    bodies = [line.split(") ", 1)[1] for line in DOCUMENTS.split("\n")]
    titles = [body.split(" ")[0] for body in bodies]
    text = "\n".join(
        FORMS[form].format(number=at, title=title, body=body)
        for at, (title, body) in enumerate(zip(titles, bodies, strict=True), start=1)
    )
    assert registry.find_compressor(text).name == "documents"
    out = shortened("documents", text, "When was Delph founded?", ratio=4)
    head = FORMS[form].partition("{body}")[0].format(number=4, title="Delph").strip()
    assert head in out
    assert out.index(head) < out.index("It was founded in 1519.")
    assert "1201" not in out
    assert form != "tag" or "</document>" in out[out.index("1519") :]


def test_documents_say_how_many_were_left_out() -> None:
    assert "sentences of 3 documents left out" in shortened("documents", DOCUMENTS, "When was Delph founded?", ratio=4)


def test_a_document_named_by_the_best_one_is_worth_more() -> None:
    other = "It has a harbour. Its people speak two languages. The old bridge fell in a storm. Nobody rebuilt it."
    text = "\n".join(
        f"Document [{number}](Title: {title}) {body}"
        for number, (title, body) in enumerate(
            (
                ("Aron Pell", f"Aron Pell is a painter. He was born in Quimby. {other}"),
                ("Belmont", f"Belmont is a town of 300 people. {other}"),
                ("Carrow", f"Carrow is a town of 400 people. {other}"),
                ("Quimby", f"Quimby is a town of 500 people. {other}"),
            ),
            start=1,
        )
    )
    assert "Quimby is a town of 500 people." in shortened(
        "documents", text, "How many people live in the birthplace of Aron Pell?", 2.5
    )


def test_one_endless_line_is_cut_into_pieces() -> None:
    text = "alpha beta gamma " * 3000 + "the needle is 4711 " + "delta epsilon " * 3000
    assert "needle is 4711" in shortened("lines", text, "needle", ratio=20)


def test_blank_lines_at_the_end_are_dropped_without_a_word() -> None:
    condensed = condense(BY_NAME["lines"], TESTS + "\n" * 500, "", 3)
    assert condensed is not None
    assert isinstance(condensed.parts[-1], str)
    assert condensed.parts[-1].endswith("in 0.42s =========================")


def test_an_authors_warning_stays_in_a_search() -> None:
    found = [f"./app/part{at % 40}.py:{at}:    timeout = {at}" for at in range(400)]
    found[217] = "./app/part17.py:217:    # FIXME: after a timeout it pays twice"
    assert "it pays twice" in shortened("search", "\n".join(found), "grep -rn timeout .", ratio=20)


def test_an_authors_warning_stays_in_code() -> None:
    names = [f"{what}_{which}" for what in ("load", "save", "drop", "list", "move", "copy") for which in "abcdefgh"]
    body = "".join(f"    part{at} = fetch_{at}(rate, limit)\n" for at in range(8))
    text = "\n\n".join(f"def {name}(rate, limit):\n{body}    return part{at % 8}" for at, name in enumerate(names))
    noted = text.replace("    return part5\n", "    # FIXME: pays twice\n    return part5\n", 1)
    assert "pays twice" in shortened("code", noted, "What does save_b return?", ratio=8)
