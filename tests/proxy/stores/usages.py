"""Hypothesis strategies for bills and prices."""

from hypothesis import strategies as st

from clara_proxy.config.prices import Price
from clara_proxy.proxy.stores.usage import Usage

COUNT = st.integers(min_value=0, max_value=2_000_000)
RATE = st.floats(min_value=1e-9, max_value=1e-4)
PRICES = st.builds(
    Price, input=RATE, output=RATE, cache_read=st.none() | RATE, cache_write=st.none() | RATE, cache_write_hour=RATE
)
KEYS = [
    "prompt_tokens",
    "input_tokens",
    "output_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "cached_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens_details",
    "reasoning_tokens",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    cache_read, cache_write, plain = draw(st.none() | COUNT), draw(st.none() | COUNT), draw(COUNT)
    reasoning, rest = draw(st.none() | COUNT), draw(COUNT)
    prompt = plain + (cache_read or 0) + (cache_write or 0)
    hour = draw(st.none() | st.integers(0, cache_write)) if cache_write is not None else None
    return Usage(prompt, rest + (reasoning or 0), reasoning, cache_read, cache_write, hour)
