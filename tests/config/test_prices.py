import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.config.price_table import PriceTable
from clara_proxy.config.prices import Price, find_price, find_rewrite_price, get_table_version, read_price_table

TABLE = {
    "sample_spec": {"litellm_provider": "one of many", "max_input_tokens": "a number"},
    "alpha": {"litellm_provider": "openai", "input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6},
    "silent": {"litellm_provider": "openai", "input_cost_per_token": 1e-6},
    "free": {
        "litellm_provider": "ollama",
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0,
        "max_input_tokens": 9,
    },
    "picture": {"litellm_provider": "openai", "output_cost_per_image": 0.04, "nested": {"low": 0.1}},
    "long": {
        "litellm_provider": "vertex_ai-language-models",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "cache_read_input_token_cost": 1e-7,
        "max_input_tokens": 1_000_000,
        "input_cost_per_token_above_200k_tokens": 2e-6,
        "output_cost_per_token_above_200k_tokens": 3e-6,
    },
}


INDENTED = json.dumps(TABLE, indent=4)
LAYOUTS = [
    json.dumps(TABLE),
    INDENTED,
    json.dumps(TABLE, indent=1),
    INDENTED.replace('    "alpha"', '"alpha"'),
    INDENTED.replace('    "alpha"', '          "alpha"'),
    INDENTED.replace('        "nested"', '    "nested"'),
]
assert len({*LAYOUTS}) == len(LAYOUTS)


@pytest.fixture(params=LAYOUTS)
def table(tmp_path: Path, request: pytest.FixtureRequest) -> PriceTable:
    path = tmp_path / "prices.json"
    path.write_text(request.param)
    return read_price_table(path)


def test_missing_values_of_the_table_are_unknown(table: PriceTable) -> None:
    assert table["alpha"] == Price(input=1e-6, output=4e-6)
    assert table["silent"] == Price(input=1e-6, output=None)
    assert "picture" not in table
    assert "sample_spec" not in table


def test_a_price_of_zero_is_unknown_but_the_window_is_known(table: PriceTable) -> None:
    assert table["free"] == Price(context_window=9)


def test_a_bare_name_is_also_found_with_its_provider(table: PriceTable) -> None:
    assert table["openai/alpha"] == table["alpha"]
    assert table["vertex_ai/long"] == table["long"]


@given(tokens=st.integers(min_value=0, max_value=10**6))
def test_a_long_prompt_moves_the_whole_request_to_a_higher_tier(tokens: int) -> None:
    high_tier = Price(input=2e-6, output=3e-6, context_window=7)
    price = Price(input=1e-6, output=2e-6, tiers=((1_000, Price(input=1.5e-6)), (200_000, high_tier)))
    expected = 1e-6 if tokens <= 1_000 else 1.5e-6 if tokens <= 200_000 else 2e-6
    assert price.rates_for(tokens).input == expected


def test_a_tier_has_only_the_values_of_the_table(table: PriceTable) -> None:
    assert table["long"].rates_for(200_001) == Price(input=2e-6, output=3e-6, cache_read=None, context_window=1_000_000)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-pro", "deepseek-chat"])
def test_prices_of_common_models_are_known(model: str) -> None:
    price = find_price(model)
    assert price is not None
    assert price.input is not None
    assert price.output is not None
    assert 0 < price.input <= price.output < 0.001
    assert price.cache_read is not None
    assert price.cache_read < price.input
    assert price.context_window is not None
    assert price.context_window >= 100_000


@pytest.mark.parametrize(
    ("spelling", "plain"),
    [
        ("openai/gpt-4o", "gpt-4o"),
        ("gpt-4o-2031-01-31", "gpt-4o"),
        ("openai/gpt-4o-2031-01-31", "gpt-4o"),
        ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5-20310131", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20310131", "claude-sonnet-4-5"),
        ("models/gemini-2.5-pro", "gemini/gemini-2.5-pro"),
        ("google/gemini-2.5-pro", "gemini/gemini-2.5-pro"),
        ("mistral-large-latest", "mistral/mistral-large-latest"),
        ("ft:gpt-4o-mini-2024-07-18:acme:support:xyz", "ft:gpt-4o-mini-2024-07-18"),
    ],
)
def test_all_spellings_of_a_model_have_the_same_price(spelling: str, plain: str) -> None:
    assert find_price(plain) is not None
    assert find_price(spelling) == find_price(plain)


@pytest.mark.parametrize(
    "model",
    ["", "/", "gpt-4o-", "my-own-model", "azure/my-deployment-of-gpt-4o", "nobody/gpt-4o", "gpt-4o-99", "gpt-oss-120b"],
)
def test_unknown_models_have_no_price(model: str) -> None:
    assert find_price(model) is None


@given(st.text())
def test_any_name_is_accepted(model: str) -> None:
    assert find_price(model) is None or isinstance(find_price(model), Price)


def test_litellm_is_never_imported() -> None:
    code = (
        "import sys; from clara_proxy.config.prices import find_price; "
        "print(bool(find_price('gpt-4o')), 'litellm' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["True", "False"]


TIERED = {
    "litellm_provider": "openai",
    "input_cost_per_token": 4e-6,
    "output_cost_per_token": 2e-5,
    "cache_creation_input_token_cost": 5e-6,
    "cache_read_input_token_cost": 4e-7,
    "input_cost_per_token_above_272k_tokens": 8e-6,
    "output_cost_per_token_above_272k_tokens": 3e-5,
    "input_cost_per_token_flex": 2e-6,
    "output_cost_per_token_flex": 1e-5,
    "input_cost_per_token_above_272k_tokens_flex": 4e-6,
    "input_cost_per_token_priority": 8e-6,
    "output_cost_per_token_priority": 4e-5,
    "regional_processing_uplift_multiplier_eu": 1.1,
    "search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_high": 0.01},
    "input_cost_per_audio_token": 32e-6,
}


@pytest.fixture
def tiered(tmp_path: Path) -> Price:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"tiered": TIERED}))
    return read_price_table(path)["tiered"]


@pytest.mark.parametrize(
    ("tokens", "tier", "region", "rates"),
    [
        (1, "", "", (4e-6, 2e-5)),
        (1, "default", "us", (4e-6, 2e-5)),
        (300_000, "", "", (8e-6, 3e-5)),
        (1, "flex", "", (2e-6, 1e-5)),
        (300_000, "flex", "", (4e-6, None)),
        (1, "fast", "", (8e-6, 4e-5)),
        (1, "", "eu", (4.4e-6, 2.2e-5)),
        (1, "unheard-of", "", (None, None)),
    ],
)
def test_rates_depend_on_length_tier_and_region(
    tiered: Price, tokens: int, tier: str, region: str, rates: tuple[float, float | None]
) -> None:
    price = tiered.rates_for(tokens, tier, region)
    assert (price.input, price.output) == pytest.approx(rates)


def test_other_charges_are_read(tiered: Price) -> None:
    assert (tiered.web_search, tiered.audio_input, tiered.cache_write_12h) == (0.01, 32e-6, 1e-5)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gpt-5.6", 11.5), ("claude-opus-5-5", 24.0), ("gpt-5", 11.5), ("gpt-4o", 11.5), ("my-own-model", 11.5)],
)
def test_the_price_of_a_rewrite_follows_from_the_model(model: str, expected: float) -> None:
    assert find_rewrite_price(model) == pytest.approx(expected)


def test_the_table_has_a_version() -> None:
    assert re.fullmatch(r"litellm \d+\.\d+\.\d+", get_table_version())
