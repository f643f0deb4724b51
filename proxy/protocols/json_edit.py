"""Edits to parsed JSON: strings replaced, elements dropped from arrays and inserted into them.

`apply_edits` copies the containers on the way to an edit and shares everything else with the original, which does not
change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import json_codec
from .json_codec import DuplicateKeyObject
from .json_types import Json, is_array, is_object

Path = tuple[str | int, ...]
END = -1


class JsonEditError(ValueError):
    """The JSON value has no string or array at the path of an edit."""


@dataclass(frozen=True, slots=True)
class StringEdit:
    """The text of a string before and after."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ArrayEdit:
    """Changes to an array: drop `drop_count` elements from its beginning, and insert others before an element.

    Indexes count the elements of the original array; `END` inserts behind the last one.
    """

    drop_count: int = 0
    insertions: Mapping[int, Sequence[Json]] = field(default_factory=dict[int, Sequence[Json]])


class BodyChanges(NamedTuple):
    """Changes to a request body, and the number of tokens that they add."""

    string_edits: Mapping[Path, StringEdit]
    array_edits: Mapping[Path, ArrayEdit]
    tokens: int


NO_CHANGES = BodyChanges({}, {}, 0)


def join_changes(first: BodyChanges, second: BodyChanges) -> BodyChanges:
    """Return both changes as one. Where both edit a string, the first extends it and the second replaces its old text.

    Insertions at the same position keep this order.
    """
    array_edits = dict(first.array_edits)
    for path, edit in second.array_edits.items():
        array_edits[path] = merge_array_edits(array_edits.get(path), edit)
    string_edits = join_string_edits(first.string_edits, second.string_edits)
    return BodyChanges(string_edits, array_edits, first.tokens + second.tokens)


def join_string_edits(
    extensions: Mapping[Path, StringEdit], replacements: Mapping[Path, StringEdit]
) -> dict[Path, StringEdit]:
    """Return all edits; a replaced text keeps what `extensions` appends to it."""
    joined = {**extensions, **replacements}
    for path in extensions.keys() & replacements.keys():
        extension, replacement = extensions[path], replacements[path]
        if extension.new.startswith(extension.old):
            joined[path] = (
                replacement
                if extension == replacement
                else StringEdit(replacement.old, replacement.new + extension.new[len(extension.old) :])
            )
    return joined


def merge_array_edits(first: ArrayEdit | None, second: ArrayEdit) -> ArrayEdit:
    """Return two edits of one array as one."""
    if first is None:
        return second
    insertions = {
        index: [*first.insertions.get(index, ()), *second.insertions.get(index, ())]
        for index in {*first.insertions, *second.insertions}
    }
    return ArrayEdit(max(first.drop_count, second.drop_count), insertions)


def add_fields(text: bytes, fields: Json) -> bytes:
    """Return a JSON object with new fields before its own: the same bytes without new fields.

    The object must have fields already. This copies the text, and parses and writes nothing again.
    """
    return json_codec.dumps(fields)[:-1] + b"," + text.lstrip()[1:] if fields else text


def apply_edits(
    value: Json, string_edits: Mapping[Path, StringEdit], array_edits: Mapping[Path, ArrayEdit] | None = None
) -> Json:
    """Return a copy of a JSON object with the strings and arrays at these paths changed.

    Raises:
        JsonEditError: a path does not lead to a string or an array, a key on it is repeated, or the array has too few
            elements.
    """
    editor = _Editor(value)
    for path, string_edit in string_edits.items():
        editor.edit_string(path, string_edit)
    for path in sorted(array_edits or (), key=len, reverse=True):  # inner arrays first: indexes are the original's
        editor.edit_array(path, (array_edits or {})[path])
    return editor.value


class _Editor:
    """A copy on write of one JSON value."""

    def __init__(self, value: Json) -> None:
        self.value = json_codec.merge(value)
        self._copy_ids = {id(self.value)}

    def edit_string(self, path: Path, edit: StringEdit) -> None:
        container, step = self._copy_parents(path), path[-1]
        text = _get_child(container, step)
        if not isinstance(text, str):
            raise JsonEditError(f"no string at {path}")
        if text != edit.old and edit.old.endswith(edit.new):  # lone surrogates read as other characters
            container[step] = text[len(edit.old) - len(edit.new) :]
        elif text != edit.old and edit.new.startswith(edit.old):
            container[step] = text + edit.new[len(edit.old) :]
        else:
            container[step] = edit.new

    def edit_array(self, path: Path, edit: ArrayEdit) -> None:
        container = self._copy_parents((*path, 0))
        if not is_array(container):
            raise JsonEditError(f"no array at {path}")
        length = len(container)
        if edit.drop_count > length or max(edit.insertions, default=0) > length:
            raise JsonEditError(f"the array at {path} has only {length} elements")
        elements: list[Json] = []
        for index in range(length + 1):
            elements += edit.insertions.get(index, ())
            elements += container[index : index + 1] if index >= edit.drop_count else ()
        container[:] = [*elements, *edit.insertions.get(END, ())]

    def _copy_parents(self, path: Path) -> Any:
        """Copy the containers on the way to a path, once each, and return the innermost one."""
        container: Any = self.value
        for step in path[:-1]:
            child = _get_child(container, step)
            if id(child) not in self._copy_ids:
                child = container[step] = _copy_container(child)
                self._copy_ids.add(id(child))
            container = child
        return container


def _copy_container(value: object) -> Json | list[Any]:
    if is_object(value):
        return json_codec.merge(value)
    if is_array(value):
        return list(value)
    raise JsonEditError("neither an object nor an array on the way to an edit")


def _get_child(container: object, step: str | int) -> object:
    if isinstance(container, DuplicateKeyObject) and step in container.shadowed_keys:
        raise JsonEditError("a key on the way to an edit is repeated, and readers may use either value")
    if is_object(container) and step in container:
        return container[str(step)]
    if is_array(container) and isinstance(step, int) and 0 <= step < len(container):
        return container[step]
    raise JsonEditError(f"nothing at {step!r}")
