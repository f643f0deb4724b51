"""The ledger against doubles that bill as OpenAI and Anthropic do: it says what they charged, and what we saved."""

from itertools import islice
from pathlib import Path

import pytest

from clara_proxy.benchmarks import bill
from clara_proxy.benchmarks.billing import AnthropicUpstream, OpenAIUpstream
from clara_proxy.config.prices import Price
from clara_proxy.proxy.commands.demo.run import read_conversations
from clara_proxy.proxy.protocols.json_types import Json

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "trajectories.jsonl.gz"
PRICE = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
every_provider = pytest.mark.parametrize("provider", ["openai", "anthropic"])


def agrees(found: bill.ScenarioResult) -> None:
    """To a hundredth of a cent, and a hundredth of a percent of what was saved."""
    for told in (found.compressed, found.uncompressed):
        assert told.ledger_cost == pytest.approx(told.charged, rel=1e-9)
        assert told.inconsistent_rows == 0
    assert found.uncompressed.ledger_saved == 0.0
    assert found.compressed.ledger_saved == pytest.approx(found.real_saving, abs=1e-4, rel=1e-4)
    assert found.compressed.ledger_saved != 0.0


@every_provider
@pytest.mark.parametrize("scene", bill.SCENARIOS)
def test_the_ledger_says_what_was_charged_and_what_was_saved(provider: str, scene: str, tmp_path: Path) -> None:
    recorded = min(read_conversations(), key=lambda one: len(one["messages"]))
    found = bill.compare_modes(provider, scene, [recorded], tmp_path)
    agrees(found)
    assert (found.compressed.fetched_back > 0) == (scene == "expanding")


@every_provider
@pytest.mark.skipif(not RECORDED.exists(), reason=f"needs {RECORDED.name} in ../shared/data")
def test_with_recorded_agents_of_every_kind(provider: str, tmp_path: Path) -> None:
    short = [one for one in read_conversations(RECORDED) if len(one["messages"]) < 30]
    agents = {one["agent"]: one for one in short}
    agrees(bill.compare_modes(provider, "growing", list(islice(agents.values(), 5)), tmp_path))


# the doubles themselves


def message(text: str, role: str = "user") -> dict[str, object]:
    return {"role": role, "content": text}


def test_openai_caches_whole_steps_of_a_prefix_it_has_seen() -> None:
    double = OpenAIUpstream(lambda _: message("yes", "assistant"), PRICE)
    long, other = "one " * 1_500, "two " * 300
    for talk in ([message(long)], [message(long), message(other)], [message("x"), message(long)], [message("hi")] * 2):
        double.answer_request({"model": "gpt-4o", "messages": talk})
    first, grown, changed, short = double.charges
    assert (first.cache_read, changed.cache_read, short.cache_read) == (0, 0, 0)
    assert (grown.cache_read, grown.cache_read % 128) == (1408, 0)  # the first had 1,508 tokens
    assert grown.uncached + grown.cache_read == 1_508 + 305
    assert double.total_dollars == pytest.approx(sum(one.compute_dollars(PRICE) for one in double.charges))
    double.clear_cache()
    assert double.answer_request({"model": "gpt-4o", "messages": [message(long)]})["usage"][
        "prompt_tokens_details"
    ] == {"cached_tokens": 0}


def test_anthropic_caches_up_to_a_breakpoint_and_finds_it_again() -> None:
    double = AnthropicUpstream(lambda _: {"content": [{"type": "text", "text": "yes"}]}, PRICE)
    mark = {"cache_control": {"type": "ephemeral"}}
    long, other = ({"type": "text", "text": f"{word} " * 1_500} for word in ("one", "two"))
    talks = [[long], [long | mark], [long, other | mark], [long | mark, other], [other, long | mark]]
    for blocks in talks:
        double.answer_request({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": blocks}]})
    plain, first, grown, again, changed = double.charges
    assert (plain.cache_read, plain.cache_write) == (0, 0)
    assert (first.cache_read, first.cache_write) == (0, 1_505)
    assert (grown.cache_read, grown.cache_write) == (1_505, 1_501)
    assert (again.cache_read, again.cache_write) == (1_505, 0)
    assert (changed.cache_read, changed.cache_write) == (0, 3_006)


def test_anthropic_looks_back_over_twenty_blocks_only() -> None:
    double = AnthropicUpstream(lambda _: {"content": [{"type": "text", "text": "yes"}]}, PRICE)
    mark: Json = {"cache_control": {"type": "ephemeral"}}
    long, small = ({"type": "text", "text": text} for text in ("one " * 1_500, "two"))
    for more in (0, 20, 41):
        blocks: list[Json] = [long, *[small] * more]
        blocks = [*blocks[:-1], blocks[-1] | mark]
        double.answer_request({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": blocks}]})
    assert [charge.cache_read > 0 for charge in double.charges] == [False, True, False]
