"""The rules for one request's conversation: its options, the settings, and what is known of its model."""

from dataclasses import replace
from functools import lru_cache

from ...compression.policy import Rules
from ...config import prices
from ...config.settings import Settings
from ..http.request_options import RequestOptions

_KNOWN_RULES = 256  # rules without a question that are kept


class RequestRules:
    """Builds rules; most requests share theirs. With a pruner, `pruned_kinds` are as in `Rules`."""

    def __init__(self, settings: Settings, pruned_kinds: frozenset[str]) -> None:
        self._settings = settings
        self._pruned_kinds = pruned_kinds
        self._protected_tools, self._file_tools = frozenset(settings.protected_tools), frozenset(settings.file_tools)
        self._get_rules = lru_cache(_KNOWN_RULES)(self._create_rules)

    def build_rules(self, options: RequestOptions, model: str, mode: str, *, is_agentic: bool) -> Rules:
        """Return the rules of a request for a model; the client of an agentic one can fetch text back."""
        sizes = (options.ratio, options.min_tokens, options.budget)
        can_fetch = is_agentic or options.retrieve == "url"
        rules = self._get_rules(model, sizes, options.roles, can_fetch, mode == "prune")
        return replace(rules, query=options.query) if options.query else rules

    def _create_rules(
        self,
        model: str,
        sizes: tuple[float | None, int, int | None],
        roles: frozenset[str],
        can_fetch: bool,
        is_pruned: bool,
    ) -> Rules:
        ratio, min_tokens, budget = sizes
        return Rules(
            ratio=ratio,
            min_tokens=min_tokens,
            roles=roles,
            budget=budget,
            query=None,
            protected_tools=self._protected_tools,
            file_tools=self._file_tools,
            epoch_tokens=self._compute_epoch_tokens(model),
            epoch_price=self._find_epoch_price(model),
            can_fetch=can_fetch,
            pruned_kinds=self._pruned_kinds if is_pruned else frozenset(),
        )

    def _find_epoch_price(self, model: str) -> float:
        price = self._settings.epoch_price
        return prices.find_rewrite_price(model) if price is None else price

    def _compute_epoch_tokens(self, model: str) -> int:
        price = prices.find_price(model)
        window = price.context_window if price is not None and price.context_window else self._settings.window
        return int(self._settings.epoch_share * window)
