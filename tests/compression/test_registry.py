"""The registry: order, fallback, and compressors of other distributions."""

from collections.abc import Iterator
from importlib import metadata
from importlib.metadata import EntryPoint

import pytest

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import CompressedPassage, Task


class UpperCaseCompressor:
    """A compressor of another distribution that recognises upper-case text."""

    name = "upper-case"

    def recognises(self, text: str) -> bool:
        return text.isupper()

    def compress(self, task: Task) -> CompressedPassage | None:
        return None


@pytest.fixture
def other_distribution(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def load(self: EntryPoint) -> type[UpperCaseCompressor]:
        return UpperCaseCompressor

    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint("upper-case", "another:Compressor", group)] if group == "clara_proxy.compressors" else []

    monkeypatch.setattr(EntryPoint, "load", load)
    monkeypatch.setattr(metadata, "entry_points", entry_points)
    registry.list_compressors.cache_clear()
    yield
    registry.list_compressors.cache_clear()


def test_names_are_unique_and_the_fallback_comes_last() -> None:
    names = [compressor.name for compressor in registry.list_compressors()]
    assert len(set(names)) == len(names)
    assert names[-1] == "lines"


def test_reports_come_before_similar_kinds() -> None:
    names = [compressor.name for compressor in registry.list_compressors()]
    assert names.index("report") < min(map(names.index, ("search", "code", "prose")))


@pytest.mark.parametrize("text", ["", "\n", "x", "\x00\ufffd", "{" * 9])
def test_every_text_has_a_compressor(text: str) -> None:
    assert registry.find_compressor(text).name == "lines"


def test_other_distributions_come_before_the_fallback(other_distribution: None) -> None:
    assert registry.find_compressor("STOP AT ONCE").name == "upper-case"
    assert [compressor.name for compressor in registry.list_compressors()][-2:] == ["upper-case", "lines"]
    assert registry.find_compressor('{"A": 1}').name == "json"
