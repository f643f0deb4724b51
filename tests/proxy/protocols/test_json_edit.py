"""Edits to parsed JSON change the strings and arrays at their paths, and share everything else."""

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.protocols.json_codec import loads
from clara_proxy.proxy.protocols.json_edit import (
    END,
    ArrayEdit,
    JsonEditError,
    Path,
    StringEdit,
    add_fields,
    apply_edits,
)
from clara_proxy.proxy.protocols.json_types import Json

BODY: Json = {"list": ["x", {"k": "x"}], "number": 1, "object": {"k": "x", "l": ["x"]}, "other": {"deep": [1]}}


def insert(value: Json, array_edits: dict[Path, ArrayEdit], string_edits: dict[Path, StringEdit] | None = None) -> Json:
    before = copy.deepcopy(value)
    changed = apply_edits(value, string_edits or {}, array_edits)
    assert value == before  # the original does not change
    return changed


def test_strings_change_at_their_paths() -> None:
    edits: dict[Path, StringEdit] = {
        ("list", 1, "k"): StringEdit("x", "y"),
        ("object", "l", 0): StringEdit("x", 'z"\n\\'),
        ("list", 0): StringEdit("x", ""),
    }
    before = copy.deepcopy(BODY)
    changed = apply_edits(BODY, edits)
    assert changed == {**BODY, "list": ["", {"k": "y"}], "object": {"k": "x", "l": ['z"\n\\']}}
    assert before == BODY


def test_only_the_way_to_an_edit_is_copied() -> None:
    changed = apply_edits(BODY, {("list", 1, "k"): StringEdit("x", "y")})
    assert changed["other"] is BODY["other"]
    assert changed["object"] is BODY["object"]
    assert changed["list"] is not BODY["list"]


@pytest.mark.parametrize(
    "path",
    [("absent",), ("list", 2), ("list", -1), ("list", "k"), ("number",), ("number", 0), ("list", 0, 0), ("object",)],
)
def test_a_path_to_something_else_than_a_string_is_an_error(path: Path) -> None:
    with pytest.raises(JsonEditError):
        apply_edits(BODY, {path: StringEdit("x", "y")})


def test_an_error_does_not_repeat_the_text() -> None:
    with pytest.raises(JsonEditError) as error:
        apply_edits({"a": ["a secret"]}, {("a", 1): StringEdit("a secret", "y")})
    assert "secret" not in str(error.value)


def test_an_edit_on_a_repeated_key_is_an_error() -> None:
    value: Any = loads(b'{"a":"first","a":"second","b":{"c":1,"c":2},"d":"x"}')
    with pytest.raises(JsonEditError):
        apply_edits(value, {("a",): StringEdit("second", "y")})
    with pytest.raises(JsonEditError):
        insert(loads(b'{"a":[],"a":[]}'), {("a",): ArrayEdit(insertions={0: [{}]})})  # type: ignore[arg-type]
    assert apply_edits(value, {("d",): StringEdit("x", "y")}).shadowed == value.shadowed  # type: ignore[attr-defined]


def test_a_suffix_keeps_a_lone_surrogate() -> None:
    value: Any = loads(b'{"a":"hidden \\ud83d text"}')
    changed = apply_edits(value, {("a",): StringEdit("hidden � text", "� text")})
    assert changed == {"a": "\ud83d text"}


def test_elements_are_inserted_before_others_and_at_the_end() -> None:
    value: Json = {"a": [{"b": 1}, 2], "c": []}
    assert insert(value, {("a",): ArrayEdit(insertions={0: [{"n": 0}]})}) == {"a": [{"n": 0}, {"b": 1}, 2], "c": []}
    many = ArrayEdit(insertions={1: [{"n": 1}, {"n": 2}], END: [{"n": 4}], 2: [{"n": 3}]})
    assert insert(value, {("a",): many})["a"] == [{"b": 1}, {"n": 1}, {"n": 2}, 2, {"n": 3}, {"n": 4}]
    assert insert(value, {("c",): ArrayEdit(insertions={END: [{"n": 0}], 0: []})})["c"] == [{"n": 0}]
    assert insert(value, {}) == value


def test_elements_are_dropped_from_the_beginning() -> None:
    value: Json = {"a": [1, [2, "x"], {"k": "v"}]}
    assert insert(value, {("a",): ArrayEdit(drop_count=2)}) == {"a": [{"k": "v"}]}
    assert insert(value, {("a",): ArrayEdit(drop_count=3, insertions={END: [{"n": 9}]})}) == {"a": [{"n": 9}]}
    assert insert(value, {("a",): ArrayEdit(drop_count=3)}) == {"a": []}
    edits: dict[Path, StringEdit] = {
        ("a", 1, 1): StringEdit("x", "dropped with the rest"),
        ("a", 2, "k"): StringEdit("v", "w"),
    }
    assert insert(value, {("a",): ArrayEdit(drop_count=2)}, edits) == {"a": [{"k": "w"}]}


def test_an_inner_array_is_addressed_by_the_original_indexes() -> None:
    value: Json = {"a": [{"l": [1]}, {"l": [2]}]}
    edits: dict[Path, ArrayEdit] = {
        ("a",): ArrayEdit(insertions={0: [{"n": 0}], 1: [{"n": 1}]}),
        ("a", 1, "l"): ArrayEdit(insertions={END: [{"n": 3}]}),
    }
    assert insert(value, edits) == {"a": [{"n": 0}, {"l": [1]}, {"n": 1}, {"l": [2, {"n": 3}]}]}


@pytest.mark.parametrize(
    "edit",
    [ArrayEdit(drop_count=2), ArrayEdit(insertions={2: [{}]}), ArrayEdit(drop_count=9, insertions={0: [{}]})],
)
def test_an_array_that_is_too_short_is_an_error(edit: ArrayEdit) -> None:
    with pytest.raises(JsonEditError):
        insert({"a": [1]}, {("a",): edit})


@pytest.mark.parametrize("path", [("b",), ("a", 0), (), ("a", "x"), ("s",)])
def test_a_path_to_something_else_than_an_array_is_an_error(path: Path) -> None:
    with pytest.raises(JsonEditError):
        insert({"a": [{"x": 1}], "b": {"c": []}, "s": "abc"}, {path: ArrayEdit(insertions={0: [{}]})})


def test_fields_are_added_at_the_beginning_of_the_text() -> None:
    assert add_fields(b' \n{ "a" : 1e400 }', {"b": {"c": True}}) == b'{"b":{"c":true}, "a" : 1e400 }'
    text = b'{"a":1}'
    assert add_fields(text, {}) is text


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(values, max_size=5), st.lists(st.tuples(st.integers(0, 5), values), max_size=4), st.integers(0, 5), values
)
def test_an_array_edit_equals_list_operations(
    array: list[object], pairs: list[tuple[int, object]], drop_count: int, other: object
) -> None:
    drop_count = min(drop_count, len(array))
    insertions: dict[int, list[Any]] = {}
    for position, value in pairs:
        insertions.setdefault(min(max(position, drop_count), len(array)), []).append(value)
    expected = [
        value
        for index in range(drop_count, len(array) + 1)
        for value in [*insertions.get(index, []), *array[index : index + 1]]
    ]
    body: Json = {"x": other, "list": array, "y": other}
    changed = insert(body, {("list",): ArrayEdit(drop_count, insertions)})
    assert changed == {"x": other, "list": expected, "y": other}
    assert orjson.dumps(changed)
