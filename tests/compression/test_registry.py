"""The registry: the order, the catch-all, and compressors of other distributions."""

from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import EntryPoint

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import CompressedPassage, Task


class Shouting:
    """Recognises what is all capitals; stands in for another distribution's compressor."""

    name = "shouting"

    def recognises(self, text: str) -> bool:
        return text.isupper()

    def compress(self, task: Task) -> CompressedPassage | None:
        return None


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def loaded(self: EntryPoint) -> type[Shouting]:
        return Shouting

    def installed(group: str) -> list[EntryPoint]:
        return [EntryPoint("shouting", "another:Shouting", group)] if group == "clara_proxy.compressors" else []

    monkeypatch.setattr(EntryPoint, "load", loaded)
    monkeypatch.setattr(metadata, "entry_points", installed)
    registry.list_compressors.cache_clear()
    yield
    registry.list_compressors.cache_clear()


def test_names_are_unique_and_the_catch_all_comes_last() -> None:
    names = [compressor.name for compressor in registry.list_compressors()]
    assert len(set(names)) == len(names)
    assert names[-1] == "lines"


def test_reports_are_asked_before_the_kinds_that_they_look_like() -> None:
    names = [compressor.name for compressor in registry.list_compressors()]
    assert names.index("report") < min(map(names.index, ("search", "code", "prose")))


@pytest.mark.parametrize("text", ["", "\n", "x", "\x00\ufffd", "{" * 9])
def test_there_is_always_a_compressor(text: str) -> None:
    assert registry.find_compressor(text).name == "lines"


def test_compressors_of_other_distributions_come_before_the_catch_all(extended: None) -> None:
    assert registry.find_compressor("STOP AT ONCE").name == "shouting"
    assert [compressor.name for compressor in registry.list_compressors()][-2:] == ["shouting", "lines"]
    assert registry.find_compressor('{"A": 1}').name == "json"
