import json
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.protocols.json_edit import (
    END,
    LONG_TEXT_BYTES,
    ArrayEdit,
    JsonEditError,
    Path,
    StringEdit,
    append_elements,
    apply_edits,
)


def changed(text: str, edits: dict[Path, tuple[str, str]]) -> str:
    return apply_edits(text.encode(), {path: StringEdit(*edit) for path, edit in edits.items()}).decode()


def test_only_the_string_changes_and_not_a_blank_beside_it() -> None:
    text = '{ "a" :\t[1.50, "x"  ,{"b": "y"}],\r\n "x": "x" , "é": "\\u00e9"}'
    assert changed(text, {("a", 1): ("x", "new")}) == text.replace('1.50, "x"', '1.50, "new"')
    assert changed(text, {("a", 2, "b"): ("y", 'a "quote"\n')}) == text.replace('"y"', '"a \\"quote\\"\\n"')
    assert changed(text, {("x",): ("x", "")}) == text.replace('"x": "x"', '"x": ""')
    assert changed(text, {("é",): ("é", "漢字")}) == text.replace('"\\u00e9"', '"漢字"')


def test_several_strings_at_once_whatever_their_order() -> None:
    text = '[["a","b"],{"k":["c",{"k":"d"}]},"e"]'
    edits: dict[Path, tuple[str, str]] = {
        (2,): ("e", "5"),
        (1, "k", 1, "k"): ("d", "4"),
        (0, 1): ("b", "2"),
        (1, "k", 0): ("c", "3"),
        (0, 0): ("a", "1"),
    }
    assert changed(text, edits) == '[["1","2"],{"k":["3",{"k":"4"}]},"5"]'


def test_numbers_words_and_empty_containers_count_as_places() -> None:
    text = '{"a":[null,true,-1e5,[],{},"x"],"b":{}}'
    assert changed(text, {("a", 5): ("x", "y")}) == text.replace("x", "y")


@pytest.mark.parametrize("tricky", ['"', "\\", '\\"', "],[", '{"k":', "\n\t\x00", "\u2028", "😀", "</s>", ""])
def test_strings_that_look_like_structure(tricky: str) -> None:
    body = {tricky: [tricky, {"k": tricky, "other": "old"}], "last": "old"}
    edits: dict[Path, StringEdit] = {
        (tricky, 1, "other"): StringEdit("old", tricky),
        ("last",): StringEdit("old", tricky),
    }
    expected = {tricky: [tricky, {"k": tricky, "other": tricky}], "last": tricky}
    assert orjson.loads(apply_edits(orjson.dumps(body), edits)) == expected


def test_keys_may_be_written_with_escapes() -> None:
    assert changed('{"\\u0061":{"b\\n":"\\ud83d\\ude00"}}', {("a", "b\n"): ("😀", "x")}) == '{"\\u0061":{"b\\n":"x"}}'


def test_a_number_is_not_the_name_of_a_key_nor_the_other_way_round() -> None:
    with pytest.raises(JsonEditError):
        changed('{"0":"x"}', {(0,): ("x", "y")})
    with pytest.raises(JsonEditError):
        changed('["x"]', {("0",): ("x", "y")})


def test_nothing_to_do_gives_the_same_bytes() -> None:
    text = '{"a": "\\u00e9\\/", "a2" : 1}'
    assert changed(text, {}) == text
    assert changed(text, {("a",): ("é/", "é/")}) == text


@pytest.mark.parametrize(
    "path",
    [
        ("b",),
        ("a", 0),
        ("a", "b", "c"),
        ("a", "b", 0),
        ("list", 2),
        ("list", -1),
        ("number",),
        ("object",),
        ("list",),
    ],
)
def test_a_path_that_leads_to_no_string_is_an_error(path: Path) -> None:
    text = '{"a":{"b":"x"},"list":["x",{"k":"x"}],"number":1,"object":{"k":"x","l":["x"]}}'
    with pytest.raises(JsonEditError):
        changed(text, {path: ("x", "y")})


def test_another_text_than_expected_is_an_error_that_does_not_repeat_it() -> None:
    with pytest.raises(JsonEditError) as caught:
        changed('{"a":"a secret"}', {("a",): ("another secret", "y")})
    assert "secret" not in str(caught.value)


def test_of_two_keys_with_one_name_none_is_changed_unless_both_are_meant() -> None:
    with pytest.raises(JsonEditError):
        changed('{"a":"first","a":"second"}', {("a",): ("second", "y")})
    assert changed('{"a":"same","a":"same"}', {("a",): ("same", "y")}) == '{"a":"y","a":"y"}'


def test_deep_input_is_walked_without_recursion() -> None:
    deep = "[" * 100_000 + '"x"' + "]" * 100_000
    text = '{"deep":' + deep + ',"a":"x"}'
    assert changed(text, {("a",): ("x", "y")}) == text.replace('"a":"x"', '"a":"y"')
    path = (0,) * 100_000
    assert changed(deep, {path: ("x", "y")}) == deep.replace("x", "y")


def test_a_long_string_of_escapes_takes_linear_time() -> None:
    text = orjson.dumps({"a": '\\"' * 2_000_000, "b": "x"})
    started = time.perf_counter()
    assert apply_edits(text, {("b",): StringEdit("x", "y")}) == text[:-3] + b'y"}'
    assert time.perf_counter() - started < 5


def woven(text: str, weaves: dict[Path, ArrayEdit], edits: dict[Path, StringEdit] | None = None) -> str:
    return apply_edits(text.encode(), edits or {}, weaves).decode()


def test_elements_come_in_before_others_and_at_the_end() -> None:
    text = '{"a": [ {"b":1} , 2],  "c":[]}'
    assert woven(text, {("a",): ArrayEdit(insertions={0: [b"0"]})}) == '{"a": [0, {"b":1} , 2],  "c":[]}'
    assert (
        woven(text, {("a",): ArrayEdit(insertions={1: [b"x", b"y"], END: [b"z"]})})
        == '{"a": [ {"b":1} ,x,y, 2,z],  "c":[]}'
    )
    assert woven(text, {("c",): ArrayEdit(insertions={END: [b"0"], 0: []})}) == '{"a": [ {"b":1} , 2],  "c":[0]}'
    assert append_elements(text.encode(), ("c",), [b"1", b"2"]) == b'{"a": [ {"b":1} , 2],  "c":[1,2]}'
    assert woven(text, {}) == text


def test_elements_are_cut_from_the_beginning() -> None:
    text = '{"a":[1, [2,"x"],{"k":"v"}]}'
    assert orjson.loads(woven(text, {("a",): ArrayEdit(drop_count=2)})) == {"a": [{"k": "v"}]}
    assert orjson.loads(woven(text, {("a",): ArrayEdit(drop_count=3, insertions={END: [b"9"]})})) == {"a": [9]}
    assert orjson.loads(woven(text, {("a",): ArrayEdit(drop_count=3)})) == {"a": []}
    edits: dict[Path, StringEdit] = {
        ("a", 1, 1): StringEdit("x", "gone with the rest"),
        ("a", 2, "k"): StringEdit("v", "w"),
    }
    assert orjson.loads(woven(text, {("a",): ArrayEdit(drop_count=2)}, edits)) == {"a": [{"k": "w"}]}


@pytest.mark.parametrize(
    "weave",
    [ArrayEdit(drop_count=2), ArrayEdit(insertions={2: [b"1"]}), ArrayEdit(drop_count=9, insertions={0: [b"1"]})],
)
def test_an_array_that_is_too_short_changes_nothing(weave: ArrayEdit) -> None:
    with pytest.raises(JsonEditError):
        woven('{"a":[1]}', {("a",): weave})


@pytest.mark.parametrize("path", [("b",), ("a", 0), (), ("a", "x")])
def test_what_is_no_array_is_not_woven_into(path: Path) -> None:
    with pytest.raises(JsonEditError):
        woven('{"a":[{"x":1}],"b":{"c":[]}}', {path: ArrayEdit(insertions={0: [b"1"]})})


@pytest.mark.parametrize("filler", ["x", '"tools":[', '\\"tools\\":[', "]}", '{"tools": [1]}'])
@pytest.mark.parametrize("nested", [None, {"tools": [1]}, [{"tools": []}], "tools"])
def test_an_array_at_the_end_of_a_long_text(filler: str, nested: object) -> None:
    body = {
        "messages": [{"content": filler * LONG_TEXT_BYTES}, nested],
        "tools": [{"a": nested}],
        "z": nested,
        "y": filler,
    }
    for dumps in (orjson.dumps(body), json.dumps(body, indent=1).encode()):
        made = append_elements(dumps, ("tools",), [b"7"])
        assert orjson.loads(made) == {**body, "tools": [{"a": nested}, 7]}
        assert len(made) == len(dumps) + 2


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(values, max_size=5), st.lists(st.tuples(st.integers(0, 5), values), max_size=4), st.integers(0, 5), values
)
def test_weaving_is_what_a_list_would_do(
    listed: list[object], into: list[tuple[int, object]], cut: int, other: object
) -> None:
    cut = min(cut, len(listed))
    grouped: dict[int, list[object]] = {}
    for place, value in into:
        grouped.setdefault(min(max(place, cut), len(listed)), []).append(value)
    weave = ArrayEdit(cut, {place: [orjson.dumps(one) for one in some] for place, some in grouped.items()})
    expected = [one for at in range(cut, len(listed) + 1) for one in [*grouped.get(at, []), *listed[at : at + 1]]]
    whole = {"x": other, "list": listed, "y": other}
    for body in (orjson.dumps(whole), json.dumps(whole, indent=2).encode()):
        assert orjson.loads(apply_edits(body, {}, {("list",): weave})) == {"x": other, "list": expected, "y": other}
