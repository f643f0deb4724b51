import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import registry, sizes
from clara_proxy.tests.compression.extract.samples import CODE, LOG

KINDS = [compressor.name for compressor in registry.list_compressors()]


@pytest.mark.parametrize("kind", [*KINDS, "another distribution's"])
@given(st.integers(0, 10**6), st.integers(0, 10**5))
def test_more_gets_more_and_a_smaller_share(kind: str, tokens: int, more: int) -> None:
    small, large = sizes.compute_kind_target(kind, tokens), sizes.compute_kind_target(kind, tokens + more)
    assert small is None or 1 <= small <= tokens
    assert small is None or (large is not None and small <= large)
    if small is not None and large is not None:
        assert large / (tokens + more) <= small / tokens + 1 / tokens


def test_code_stays_and_long_outputs_do_not() -> None:
    assert sizes.compute_kind_target("code", 10**6) is None
    assert all(sizes.compute_kind_target(kind, 10**6) for kind in KINDS if kind != "code")


def test_small_json_is_laid_out_anew_and_other_small_outputs_stay() -> None:
    assert sizes.compute_kind_target("json", 200) == 200
    assert all(sizes.compute_kind_target(kind, 50) is None for kind in KINDS if kind != "json")


def test_laws_are_about_kinds_that_there_are() -> None:
    assert set(sizes.SIZE_CURVES) <= set(KINDS)


def test_a_kind_is_looked_for_once() -> None:
    before = len(sizes.find_compressor_cached)
    texts = [f"{CODE}\n# once", f"{LOG}\nonce"]
    assert [sizes.classify_content(text) for text in texts * 3] == ["code", "log"] * 3
    assert len(sizes.find_compressor_cached) == before + 2
