"""Public reports of wrong usage or cost in gateways: the same usage here has the right tokens and the right price."""

from typing import Any, NamedTuple

import pytest

from clara_proxy.config import prices
from clara_proxy.proxy.protocols.usage_fields import merge_usages, read_facts
from clara_proxy.proxy.stores.reply_bill import ReplyFacts, read_bill
from clara_proxy.proxy.stores.usage import Usage, compute_cost, read_usage

Json = dict[str, Any]
SONNET = "claude-sonnet-4-5"  # 3, 15, reads 0.3, writes 3.75 and 6 dollars per million tokens


class Report(NamedTuple):
    """A public report: the usage of the events of a reply, and its price in dollars per million requests."""

    name: str
    model: str
    usages: list[Json]
    price: float
    tier: str | None = None


def anthropic(fresh: int, output: int, *, read: int | None = None, write: int | None = None, **more: Any) -> Json:
    """Return a usage of Anthropic's API."""
    cached = {"cache_read_input_tokens": read, "cache_creation_input_tokens": write}
    return {"input_tokens": fresh, "output_tokens": output, **cached, **more}


REPORTS = [
    Report(
        "BerriAI/litellm#9812: written tokens are charged twice",
        SONNET,
        [anthropic(3, 550, read=0, write=12304)],
        3 * 3 + 12304 * 3.75 + 550 * 15,
    ),
    Report(
        "BerriAI/litellm#11364: a 0 in the details hides the cache reads",
        SONNET,
        [
            {
                "prompt_tokens": 30946,
                "completion_tokens": 102,
                "total_tokens": 31048,
                "prompt_tokens_details": {"cached_tokens": 0},
                "cache_read_input_tokens": 30940,
                "cache_creation_input_tokens": 460,
            }
        ],
        6 * 3 + 30940 * 0.3 + 460 * 3.75 + 102 * 15,
    ),
    Report(
        "tensorzero/tensorzero#5481: cumulative output is added up",
        SONNET,
        [anthropic(25, 1), {"output_tokens": 15}],
        25 * 3 + 15 * 15,
    ),
    Report(
        "envoyproxy/ai-gateway#2290: input in the last event is lost",
        SONNET,
        [anthropic(0, 0), anthropic(4522, 5, write=4511)],
        4522 * 3 + 4511 * 3.75 + 5 * 15,
    ),
    Report(
        "vercel/ai#17326: zeros in the first event",
        "claude-haiku-4-5",
        [anthropic(0, 0), anthropic(13, 7)],
        13 * 1 + 7 * 5,
    ),
    Report(
        "dativo-io/talon#211: output in the last event is lost",
        SONNET,
        [anthropic(700, 2), anthropic(0, 90)],
        700 * 3 + 90 * 15,
    ),
    Report(
        "tontinton/maki#1065: reads in the last event are lost",
        SONNET,
        [anthropic(84, 1, write=0), anthropic(84, 9, read=5000)],
        84 * 3 + 5000 * 0.3 + 9 * 15,
    ),
    Report(
        "BerriAI/litellm#13810: flex costs half",
        "gpt-5-nano",
        [{"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}],
        1000 * 0.025 + 100 * 0.2,
        "flex",
    ),
    Report(
        "BerriAI/litellm#31837: the served tier counts, not the requested one",
        "gpt-5.5",
        [{"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100}],
        1000 * 5 + 100 * 30,
        "default",
    ),
    Report(
        "BYK/loreai#445: writes for an hour cost more",
        SONNET,
        [
            anthropic(
                10, 1, write=1000, cache_creation={"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600}
            )
        ],
        10 * 3 + 400 * 3.75 + 600 * 6 + 15,
    ),
    Report(
        "clbrge/mohdel v0.114.0: Gemini's cached input at the full price",
        "gemini-2.5-pro",
        [
            {
                "promptTokenCount": 10_000,
                "cachedContentTokenCount": 9_000,
                "candidatesTokenCount": 50,
                "thoughtsTokenCount": 150,
                "totalTokenCount": 10_200,
            }
        ],
        1_000 * 1.25 + 9_000 * 0.125 + 200 * 10,
    ),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: report.name)
def test_the_usage_of_a_public_report_has_the_right_price(report: Report) -> None:
    usage: Json = {}
    for part in report.usages:
        usage = merge_usages(usage, part)
    bill = read_bill(usage, (), read_facts({"service_tier": report.tier}, ReplyFacts()))
    assert bill is not None
    priced = bill.price(report.model, prices.find_price)
    assert priced.parts == ()
    assert compute_cost(priced.usage, priced.rates) == pytest.approx(report.price / 1e6)


def test_bedrock_names_are_read() -> None:
    usage: Json = {"inputTokens": 5, "outputTokens": 2, "totalTokens": 107, "cacheReadInputTokens": 100}
    usage |= {"cacheWriteInputTokens": 10, "cacheDetails": [{"ttl": "1h", "inputTokens": 10}]}
    assert read_usage(usage) == Usage(115, 2, None, 100, 10, 10)
