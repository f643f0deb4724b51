"""Weights: all of them are printed, and a changed weight changes what a compressor keeps."""

from dataclasses import fields, replace

from clara_proxy.compression import registry
from clara_proxy.compression.extract.reports import DEFAULT_REPORT_WEIGHTS, ReportCompressor
from clara_proxy.compression.extract.weights import CONTENT_TYPES, describe_weights

from .samples import CRASH, list_pieces, run_compressor


def test_every_built_in_compressor_uses_the_default_weights_of_its_type() -> None:
    compressors = (*registry.BUILT_IN_COMPRESSORS, registry.FALLBACK_COMPRESSOR)
    assert {compressor.name: vars(compressor)["weights"] for compressor in compressors} == {
        name: weights() for name, weights in CONTENT_TYPES.items()
    }


def test_the_table_contains_every_weight_with_its_value_and_meaning() -> None:
    rows = [row.split("  ") for row in describe_weights().split("\n")]
    cells = {(row[0], cell.strip()) for row in rows for cell in row[1:]}
    for name, weights in CONTENT_TYPES.items():
        for item in fields(weights):
            sections = {section for section, _ in cells if section in ("all", name) or name in section.split(", ")}
            assert any((section, item.name) in cells for section in sections)
            assert any((section, str(item.default)) in cells for section in sections)
            assert item.metadata["meaning"]
            assert item.metadata["unit"]


def test_a_changed_weight_changes_the_selection() -> None:
    def compress(compressor: ReportCompressor) -> str:
        passage = run_compressor(compressor, CRASH, "", 9)
        assert passage is not None
        return "\n".join(list_pieces(passage))

    weights = replace(DEFAULT_REPORT_WEIGHTS, min_target=0)
    by_default = compress(ReportCompressor(weights))
    assert "orders.py" in by_default
    assert "site-packages" not in by_default
    assert "site-packages" in compress(ReportCompressor(replace(weights, library_factor=3.0)))
