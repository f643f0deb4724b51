import time

import orjson
import pytest

from clara_proxy.proxy.json_splice import Edit, Path, SpliceError, replace


def changed(text: str, edits: dict[Path, tuple[str, str]]) -> str:
    return replace(text.encode(), {path: Edit(*edit) for path, edit in edits.items()}).decode()


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
    edits: dict[Path, Edit] = {(tricky, 1, "other"): Edit("old", tricky), ("last",): Edit("old", tricky)}
    expected = {tricky: [tricky, {"k": tricky, "other": tricky}], "last": tricky}
    assert orjson.loads(replace(orjson.dumps(body), edits)) == expected


def test_keys_may_be_written_with_escapes() -> None:
    assert changed('{"\\u0061":{"b\\n":"\\ud83d\\ude00"}}', {("a", "b\n"): ("😀", "x")}) == '{"\\u0061":{"b\\n":"x"}}'


def test_a_number_is_not_the_name_of_a_key_nor_the_other_way_round() -> None:
    with pytest.raises(SpliceError):
        changed('{"0":"x"}', {(0,): ("x", "y")})
    with pytest.raises(SpliceError):
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
    with pytest.raises(SpliceError):
        changed(text, {path: ("x", "y")})


def test_another_text_than_expected_is_an_error_that_does_not_repeat_it() -> None:
    with pytest.raises(SpliceError) as caught:
        changed('{"a":"a secret"}', {("a",): ("another secret", "y")})
    assert "secret" not in str(caught.value)


def test_of_two_keys_with_one_name_none_is_changed_unless_both_are_meant() -> None:
    with pytest.raises(SpliceError):
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
    assert replace(text, {("b",): Edit("x", "y")}) == text[:-3] + b'y"}'
    assert time.perf_counter() - started < 5
