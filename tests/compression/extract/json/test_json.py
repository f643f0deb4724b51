"""JSON: values stay unchanged, a complete output is lossless, and values that match the question are kept."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.compressor import Gap
from clara_proxy.compression.extract.json import records, tree, writer
from clara_proxy.compression.extract.json.compressor import JsonCompressor

from ..samples import BY_NAME, ROWS, TREE, compress_text, count_left_out, list_pieces, run_compressor
from .layout_reader import DECODER, Reader

NUMBERS = ["1", "1.0", "1e5", "1E+2", "-0", "-0.0", "12345678901234567890123", "0.10"]
STRINGS = [
    '""',
    '"a"',
    '"\\u00e9"',
    '"é"',
    '"\\/"',
    '"a, b"',
    '"{x}: [1]"',
    '"\\"quoted\\""',
    '"line\\nbreak"',
    '"[3]:"',
]
LITERALS = st.sampled_from([*NUMBERS, *STRINGS, "true", "false", "null", "{}", "[]"])
KEYS = st.sampled_from(["id", "name", "a.b", "x y", "", "0", "[1]", "$ref", "\\u0061", "naïve", "key:", "kind"])
BLANKS = st.sampled_from(["", " ", "\n  ", "\t", "\r\n"])


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    members = draw(st.lists(st.tuples(KEYS, values), max_size=5))
    blank = draw(BLANKS)
    return "{" + blank + f",{blank}".join(f'"{key}":{blank}{value}' for key, value in members) + blank + "}"


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    blank = draw(BLANKS)
    return "[" + blank + f",{blank}".join(draw(st.lists(values, max_size=5))) + blank + "]"


@st.composite
def tables(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = draw(st.lists(KEYS, min_size=1, max_size=5, unique=True))
    rows = [
        "{" + ", ".join(f'"{key}": {draw(values)}' for key in keys if draw(st.integers(0, 9))) + "}"
        for _ in range(draw(st.integers(2, 6)))
    ]
    if draw(st.booleans()):
        return "[" + ", ".join(rows) + "]"
    return "{" + ", ".join(f'"row {index}": {row}' for index, row in enumerate(rows)) + "}"


@st.composite
def sibling_tables(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = draw(st.lists(KEYS, min_size=2, max_size=4, unique=True))
    few = st.sampled_from(draw(st.lists(values, min_size=1, max_size=2)))
    row = st.tuples(*[few for _ in keys]).map(
        lambda cells: "{" + ",".join(f'"{key}":{cell}' for key, cell in zip(keys, cells, strict=True)) + "}"
    )
    table = st.lists(row, min_size=2, max_size=4).map(lambda rows: "[" + ",".join(rows) + "]")
    return "[" + ",".join(draw(st.lists(table, min_size=2, max_size=4))) + "]"


VALUES = st.recursive(LITERALS, lambda inner: objects(inner) | arrays(inner) | tables(inner), max_leaves=25)
TEXTS = (objects(VALUES) | arrays(VALUES) | tables(VALUES)).filter(tree.is_parsable)


def write_complete(text: str) -> list[str]:
    parsed = tree.parse_json(text)
    assert parsed is not None
    tables = records.find_tables(text, parsed.root)
    parts = writer.JsonWriter(writer.WriterContext(text, tables), None).write(
        parsed.root, is_json_lines=parsed.is_json_lines
    )
    assert not any(isinstance(part, Gap) for part in parts)
    return [part for part in parts if isinstance(part, str)]


@settings(max_examples=150)
@given(TEXTS | sibling_tables(LITERALS))
def test_the_complete_layout_reads_back_as_the_same_value(text: str) -> None:
    assert Reader(write_complete(text)).root() == DECODER.decode(text)


@settings(max_examples=60)
@given(st.lists(objects(LITERALS).map(lambda text: text.replace("\n", " ").replace("\r", " ")), min_size=2, max_size=5))
def test_json_lines_read_back_as_an_array(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert Reader(write_complete(text)).root() == [DECODER.decode(line) for line in lines]


@settings(max_examples=80)
@given(TEXTS, st.sampled_from(["", "name of id 1", "$[0].id", "naïve x y"]), st.sampled_from([2.0, 5.0, 50.0]))
def test_every_kept_value_is_a_literal_of_the_original(text: str, question: str, ratio: float) -> None:
    passage = run_compressor(JsonCompressor(), text, question, ratio)
    if passage is not None:
        whole = tree.minify(text, 0, len(text))
        for piece in list_pieces(passage):
            literals = re.findall(r'"(?:[^"\\]|\\.)*"|(?<![\w$@\[(.-])-?\d[\w.+-]*(?![\]\)])', piece)
            assert all(literal in whole for literal in literals)
        assert count_left_out(passage) <= passage.total


def test_similar_objects_become_a_table_with_one_header() -> None:
    text = '[{"id":1,"big":12345678901234567890,"at":{"x":1.0}},{"id":2,"big":12345678901234567890,"at":{"x":1e5}}]'
    assert write_complete(text) == ["[2]{id,big=12345678901234567890,at.x}:", "1,1.0", "2,1e5"]


def test_the_rows_of_an_object_begin_with_their_keys() -> None:
    assert write_complete('{"v":{"1.0":{"a":1},"1.1":{"a":2},"2 b":{"a":3,"c":null}}}') == [
        "v(3){a,c}:",
        '"1.0":1,',
        '"1.1":2,',
        '"2 b":3,null',
    ]


def test_objects_with_a_duplicate_key_are_not_a_table() -> None:
    assert write_complete('[{"a": 1, "a": 2}, {"a": 3, "a": 4}]') == ['[{"a":1,"a":2},{"a":3,"a":4}]']


def test_text_around_json_is_kept() -> None:
    text = f"<returncode>0</returncode>\n<output>\n{TREE}\n</output>"
    out = compress_text("json", text, "sha of 1.7.0")
    assert out.startswith("<returncode>0</returncode>\n<output>\n")
    assert out.endswith("\n</output>")
    assert f"{7 * 7919:08x}" in out


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what is n of user31?", '"user31"'),
        ("$[23].owner.n", '[23]:1023,"user23"'),
        ("anything odd?", '"failed"'),
        ("", "[0]:1000"),
    ],
)
def test_matching_rows_and_outliers_are_kept(question: str, answer: str) -> None:
    out = compress_text("json", ROWS, question, ratio=12)
    assert answer in out
    assert out.startswith("[40]{id,name,state,owner.login=")


def test_a_path_in_the_question_is_followed_in_a_wide_tree() -> None:
    assert '"1.9.0"' in compress_text("json", TREE, 'What is $.versions["1.9.0"].sha?', ratio=40)
    assert f'"{9 * 7919:08x}"' in compress_text("json", TREE, 'What is $.versions["1.9.0"].sha?', ratio=40)
    assert "2026-01-02T03:04:05Z" in compress_text("json", TREE, "jq .time.created", ratio=40)


def test_the_gap_of_a_whole_branch_names_it() -> None:
    assert re.search(r"\[\d+ values under versions left out\]", compress_text("json", TREE, "created time", ratio=400))


def test_gaps_and_kept_values_add_up() -> None:
    passage = run_compressor(JsonCompressor(), ROWS, "user31", 12)
    assert passage is not None
    rows = [piece for piece in list_pieces(passage) if piece.startswith("[") and "{" not in piece]
    assert count_left_out(passage) + 5 * len(rows) == passage.total == 5 * 40


@pytest.mark.parametrize(
    "text", ['{"a": 1,}', '{"a": NaN}', "[1, 2", "{'a': 1}", '{"a": 1} {"b": 2,}', "[1] A heading\n[2] Another"]
)
def test_text_that_a_strict_parser_rejects_is_not_recognised(text: str) -> None:
    assert not JsonCompressor().recognises(text)
    assert run_compressor(JsonCompressor(), text) is None


def test_a_value_nested_too_deeply_stays_one_value() -> None:
    deep = '{"a":[' * 60 + "1.50" + "]}" * 60
    text = json.dumps({"pad": "x" * 50}, indent=8)[:-2] + f',   "deep":   {deep}   }}'
    assert tree.is_parsable(text)
    assert DECODER.decode(write_complete(text)[0]) == DECODER.decode(text)


@settings(max_examples=60)
@given(TEXTS, st.sampled_from(["", "id name", "1007"]), st.sampled_from([1.5, 3.0, 20.0]))
def test_kept_values_are_in_their_order(text: str, question: str, ratio: float) -> None:
    numbers = iter(range(1001, 9999))
    text = re.sub(r"(?<=[:\[,\s])(?:true|false|null)(?=[,\s\]}])", lambda _: str(next(numbers)), text)
    passage = run_compressor(JsonCompressor(), text, question, ratio)
    kept = (
        [int(number) for piece in list_pieces(passage) for number in re.findall(r"(?<![\d.])1\d{3}(?![\d.])", piece)]
        if passage
        else []
    )
    assert kept == sorted(kept)


def test_a_key_common_to_all_rows_does_not_hide_the_matching_row() -> None:
    rows = [{"id": 7000 + index, "sarif_id": f"{index * 7919:08x}", "body": "lorem ipsum " * 40} for index in range(30)]
    out = compress_text("json", json.dumps(rows), 'what is "sarif_id" of the entry whose "id" is 7011?', ratio=40)
    assert f"{11 * 7919:08x}" in out


def test_neighbours_in_an_array_of_small_values_share_a_line() -> None:
    text = json.dumps(
        {"about": "temperatures " * 40, "values": [[index, index / 8] for index in range(2000)], "n": list(range(500))}
    )
    out = compress_text("json", text, "values of 1234", ratio=12)
    assert "[1234,154.25]" in out
    assert re.search(r"^ +\[\d+-\d+\]: \[", out, re.MULTILINE)
    assert compress_text("json", text, "$.values[1999]", ratio=12).find("[1999,249.875]") > 0
    assert compress_text("json", text, "$.n[487]", ratio=40).find("487") > 0


def test_the_matching_row_and_an_outlier_of_a_megabyte_are_kept() -> None:
    rows = [{"id": index, "name": f"user{index}", "state": "done", "n": index % 90} for index in range(16_000)]
    rows[9_321]["state"] = "halted"
    for text in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        out = compress_text("json", text, "user14007", ratio=50)
        assert '"user14007"' in out
        assert '"halted"' in out


@pytest.mark.parametrize("depth", [0, 1, tree.MAX_DEPTH - 1, tree.MAX_DEPTH, tree.MAX_DEPTH + 1])
def test_leaves_of_rows_read_at_once_equal_rows_read_one_by_one(depth: int) -> None:
    rows = ",".join(f'{{"id": {index}, "name": "n{index}"}}' for index in range(5))
    at_once = tree.parse_json("[" * depth + f"[{rows}]" + "]" * depth)
    one_by_one = tree.parse_json("[" * depth + f"[{rows}, []]" + "]" * depth)  # with an empty array: one by one
    assert at_once is not None
    assert one_by_one is not None
    if depth < tree.MAX_DEPTH:
        assert (at_once.root.leaf_count, one_by_one.root.leaf_count) == (10, 11)
    else:
        assert at_once.root.leaf_count == one_by_one.root.leaf_count == 1


def test_repeated_recognition_gives_the_same_result() -> None:
    for text in ('{"a": [1, 2]}', '{"a": 1}\n{"a": 2}', "no JSON", '[{"a": 1}'):
        results = [tree.is_parsable(text) for _ in range(2)]
        assert results == [tree.parse_json(text) is not None] * 2


@pytest.mark.parametrize("separator", ["\n", "\n\n", " ", ""])
@pytest.mark.parametrize("indent", [None, 2])
def test_values_in_a_row_are_one_table(separator: str, indent: int | None) -> None:
    rows = [
        {"id": 7000 + index, "name": f"part {index}", "state": "lost" if index == 77 else "here"} for index in range(99)
    ]
    text = separator.join(json.dumps(row, indent=indent) for row in rows)
    assert tree.is_parsable(text)
    assert '7077,"part 77","lost"' in compress_text("json", text, "Which part is lost?", ratio=4)


@pytest.mark.parametrize("text", ['{"a": 1} {"a": }', '{"a": NaN} {"a": 1}', '{"a": 1}'[:-1] * 2])
def test_other_text_between_values_is_no_json(text: str) -> None:
    assert not tree.is_parsable(text)


def test_numbers_of_the_outermost_object_are_kept() -> None:
    rows = [{"name": f"case {index}", "took": index * 31 % 97, "log": "x y z " * 90} for index in range(60)]
    text = json.dumps({"failed": 4, "passed": 56, "rows": rows, "finished": True})
    out = compress_text("json", text, "case 31", ratio=10)
    assert "failed: 4" in out
    assert "passed: 56" in out


def test_a_kept_value_brings_the_name_of_its_row() -> None:
    rows = [
        {
            "url": f"https://example.com/{index}",
            "number": 400 + index,
            "title": f"change {index}",
            "body": f"words {index} " * 90,
        }
        | {"checks": {"lint": "green", "build": "broken" if index == 23 else "green"}}
        for index in range(60)
    ]
    out = compress_text("json", json.dumps(rows), "Which change has a broken build?", ratio=10)
    assert '"broken"' in out
    assert re.search(r'number"?: ?423', out)
    assert re.search(r'title"?: ?"change 23"', out)


def test_tables_with_equal_columns_have_one_header() -> None:
    tables = [
        [{"product": "lamp", "price": 12, "tax": 7}, {"product": "rope", "price": 3, "tax": 7}],
        [{"product": "tea", "price": 5, "tax": 9}, {"product": "cup", "price": 4, "tax": 9}],
    ]
    assert write_complete(json.dumps(tables)) == [
        "[2]:",
        "[0][2]{product,price,tax}:",
        '"lamp",12,7',
        '"rope",3,7',
        "[1][2]{same columns}:",
        '"tea",5,9',
        '"cup",4,9',
    ]


def test_long_tables_keep_values_of_their_own_in_their_headers() -> None:
    tables = [[{"product": f"p{n}", "warehouse": f"warehouse {name}"} for n in range(60)] for name in "AB"]
    heads = [line for line in write_complete(json.dumps(tables)) if "{" in line]
    assert heads == [f'[{n}][60]{{product,warehouse="warehouse {name}"}}:' for n, name in enumerate("AB")]


@pytest.mark.parametrize(("field", "value"), [("score", "97.25"), ("state", '"held"')])
def test_an_odd_value_beside_other_short_values_of_its_row_is_kept(field: str, value: str) -> None:
    snippet = "The ledger of the northern office lists every parcel that the carrier took over, page"
    rows = [
        {"url": f"https://a.example/{n}", "snippet": f"{snippet} {n}. " * 9, "score": n % 7 / 10, "state": "ready"}
        for n in range(300)
    ]
    rows[23][field] = json.loads(value)
    passage = run_compressor(BY_NAME["json"], json.dumps(rows), "Which ships sank?", 100.0, fills_target=False)
    assert passage is not None
    out = "\n".join(list_pieces(passage))
    assert value in out
    assert "[23]" in out
