"""The plot is valid SVG with colours that can be seen, and its numbers as text; intervals hold their mean."""

from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from clara_proxy.proxy.evaluation import plot
from clara_proxy.proxy.evaluation.records import Record
from clara_proxy.proxy.evaluation.summary import bootstrap_mean, summarise

SVG = "{http://www.w3.org/2000/svg}"


def make_record(method: str, ratio: float, case: int, f1: float | None, data: str = "own") -> Record:
    return Record(
        data=data,
        case=str(case),
        method=method,
        model="a/<model>" if method == "latent" else "",
        ratio=ratio,
        reader="r",
        version="1",
        tokens_before=1000,
        tokens=int(1000 / (ratio or 1)),
        kept=None if method == "latent" else f1 != 0,
        prediction="x",
        em=f1,
        f1=f1,
        compress_seconds=0.1,
        reader_seconds=0.2,
        compressor=method,
    )


def make_records(f1: Sequence[float | None]) -> list[Record]:
    sizes = [("full", 0.0), ("extract", 4.0), ("extract", 10.0), ("latent", 16.0)]
    return [
        make_record(method, ratio, case, value, data)
        for data in ("own", "other & more")
        for method, ratio in sizes
        for case, value in enumerate(f1)
    ]


@pytest.mark.parametrize("f1", [[1.0, 0.0, 0.5, 1.0], [0.0], [None, None]], ids=["mixed", "all zero", "no reader"])
def test_plot_is_valid_and_described(f1: list[float | None]) -> None:
    svg = plot.draw_plot(summarise(make_records(f1)))
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    texts = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert "own, " in " ".join(texts)
    description = root.findtext(f"{SVG}desc") or ""
    assert "other & more, extract at 10x: 100 tokens" in description
    assert not {"nan", "inf"} & set(svg.replace('"', " ").replace(",", " ").split())
    if f1 != [None, None]:
        assert "latent (<model>)" in texts


def test_empty_plot_is_valid() -> None:
    ElementTree.fromstring(plot.draw_plot([]))


def test_colours_stand_out_from_the_ground() -> None:
    for colour in plot.COLOURS:
        channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) >= 4.5, colour  # the labels of the points have it, too


def test_differences_are_paired() -> None:
    records = [make_record("full", 0, case, 1.0) for case in range(20)]
    records += [make_record("extract", 4, case, 0.5) for case in range(20)]
    full, extract = summarise(records)
    assert full.f1_difference is None
    assert extract.f1_difference is not None
    assert tuple(extract.f1_difference) == (-0.5, -0.5, -0.5, 20)
    assert (extract.share, extract.tokens, extract.questions) == (0.25, 250, 20)


def test_interval_holds_the_mean_and_narrows() -> None:
    few, many = bootstrap_mean([0.0, 1.0] * 10), bootstrap_mean([0.0, 1.0] * 500)
    assert few is not None
    assert many is not None
    assert few.low < 0.5 < few.high
    # For a share of one half, the normal approximation is 0.5 +- 1.96 * 0.5 / sqrt(n).
    assert few.high - few.low == pytest.approx(2 * 1.96 * 0.5 / 20**0.5, rel=0.15)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 1000**0.5, rel=0.15)
    assert bootstrap_mean([]) is None
