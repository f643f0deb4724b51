"""The price of a model: its rates, and the surcharges for long prompts, service tiers and regions. Pure.

Rates are US dollars per token, `web_search` is dollars per search. Unknown rates stay None.
"""

from dataclasses import dataclass, fields, replace

# Names of service tiers in the replies of providers, and the tier whose price they have. Any other tier is unknown.
STANDARD_TIERS = frozenset({"", "default", "standard", "auto", "on_demand", "standard_only"})
TIER_ALIASES = {"batches": "batch"}
RATE_FIELDS = (
    *("input", "output", "cache_read", "cache_write", "cache_write_hour", "cache_write_12h"),
    *("audio_input", "audio_output", "image_input", "reasoning"),
)
DEFAULT_REWRITE_PRICE = 11.5  # of writes at 1.25 and reads at 0.1 of the input price; for models without known rates
# Cheaper rewrites would pay earlier, but earlier pruning costs content: at 1, agents miss 5.7 % of the spans that they
# use later, at 9 2.4 %, at 11.5 1.7 %.
MIN_REWRITE_PRICE = DEFAULT_REWRITE_PRICE


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token, and the longest prompt in tokens; None for values that the table lacks.

    `tiers` are pairs, in rising order, of a prompt length and the price of requests with longer prompts.
    `cache_write_hour` and `cache_write_12h` are the rates of cache writes with these lifetimes, `cache_write` that of
    the provider's shortest one. The provider does not cache prompts of fewer than `min_cacheable_tokens` tokens.
    `service_tiers` and `regions` are pairs of a name with the price of the tier, and with the factor of the region.
    An answer has at most `max_output` tokens.
    """

    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    context_window: int | None = None
    tiers: tuple[tuple[int, "Price"], ...] = ()
    cache_write_hour: float | None = None
    min_cacheable_tokens: int | None = None
    cache_write_12h: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    image_input: float | None = None
    reasoning: float | None = None
    web_search: float | None = None
    service_tiers: tuple[tuple[str, "Price"], ...] = ()
    regions: tuple[tuple[str, float], ...] = ()
    max_output: int | None = None

    def rates_for(self, tokens: int, service_tier: str = "", region: str = "") -> "Price":
        """Return the price of a request whose prompt has `tokens` tokens, cached tokens included.

        The rates of an unknown service tier are unknown. A region without a factor costs the same as any other.
        """
        name = TIER_ALIASES.get(service_tier, service_tier)
        price = self if name in STANDARD_TIERS else dict(self.service_tiers).get(name, NO_PRICE)
        rates = next((higher for above, higher in reversed(price.tiers) if tokens > above), price)
        factor = dict(self.regions).get(region, 1.0) if region else 1.0
        return rates if factor == 1.0 else rates.scale(factor)

    def scale(self, factor: float) -> "Price":
        """Return the price with all rates per token multiplied by a factor."""
        rates = {name: rate * factor for name in RATE_FIELDS if (rate := getattr(self, name)) is not None}
        tiers = tuple((length, tier.scale(factor)) for length, tier in self.tiers)
        return replace(self, **rates, tiers=tiers)

    def compute_rewrite_price(self) -> float | None:
        """Return the extra cost of writing a token to the cache, in tokens read from it; None if it is unknown."""
        if not self.input or not self.cache_read:
            return None
        return max(MIN_REWRITE_PRICE, ((self.cache_write or self.input) - self.cache_read) / self.cache_read)


NO_PRICE = Price()  # of an unknown model
assert {field.name for field in fields(Price)} >= set(RATE_FIELDS)
