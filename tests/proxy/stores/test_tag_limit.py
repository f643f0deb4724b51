"""The number of values of tags in the ledger is bounded."""

from clara_proxy.proxy.stores.ledger_dialect import SECONDS_PER_DAY
from clara_proxy.proxy.stores.ledger_row import Row, encode_labels, parse_json
from clara_proxy.proxy.stores.tag_limit import MAX_NAMES, MAX_VALUES, TagLimit


def apply(limit: TagLimit, tags: dict[str, str], at: float = 0.0) -> object:
    return parse_json(limit.apply(Row(id="r", at=at, tags=encode_labels(tags))).tags)


def test_further_values_of_a_day_become_other() -> None:
    limit = TagLimit()
    for number in range(MAX_VALUES):
        assert apply(limit, {"run": str(number)}) == {"run": str(number)}
    assert apply(limit, {"run": "new", "team": "a"}) == {"run": "other", "team": "a"}
    assert apply(limit, {"run": "7"}) == {"run": "7"}
    assert apply(limit, {"run": "new"}, SECONDS_PER_DAY) == {"run": "new"}


def test_further_tags_of_a_day_become_other() -> None:
    limit = TagLimit()
    names = {str(tag) for number in range(10 * MAX_NAMES) for tag in dict(apply(limit, {f"t{number}": "x"}) or {})}  # type: ignore[call-overload]  # pyright: ignore
    assert names == {f"t{number}" for number in range(MAX_NAMES)} | {"other"}
