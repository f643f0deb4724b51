"""The ledger against upstreams that bill as OpenAI and Anthropic do: its costs and savings are the real ones."""

from itertools import islice
from pathlib import Path

import pytest

from clara_proxy.benchmarks import bill
from clara_proxy.benchmarks.billing import AnthropicUpstream, Gpt56Upstream, OpenAIUpstream
from clara_proxy.config.prices import Price
from clara_proxy.proxy.commands.demo.run import read_conversations
from clara_proxy.proxy.protocols.json_types import Json

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "trajectories.jsonl.gz"
PRICE = Price(input=2.0, output=8.0, cache_read=0.5, cache_write=3.0)
BREAKPOINT: Json = {"cache_control": {"type": "ephemeral"}}
every_provider = pytest.mark.parametrize("provider", ["openai", "anthropic"])
OLD_SCENES = [(scene, provider) for scene in bill.SCENARIOS[:4] for provider in ("openai", "anthropic")]
NEW_SCENES = [("growing", "openai-5.6"), ("expanding", "openai-5.6"), ("shadow", "anthropic")]
EVERY_SCENE = OLD_SCENES + NEW_SCENES + [(scene, "anthropic") for scene in bill.ANTHROPIC_SCENARIOS]


def check_agreement(result: bill.ScenarioResult) -> None:
    """Check costs to a hundredth of a cent, and savings to a hundredth of a percent."""
    for run in (result.compressed, result.uncompressed):
        assert run.ledger_cost == pytest.approx(run.charged, rel=1e-9)
        assert run.inconsistent_rows == 0
    assert result.uncompressed.ledger_saved == 0.0
    assert result.compressed.ledger_saved == pytest.approx(result.real_saving, abs=1e-4, rel=1e-4)
    assert result.compressed.ledger_saved != 0.0


@pytest.mark.parametrize(("scenario", "provider"), EVERY_SCENE)
def test_ledger_agrees_with_the_bill_of_a_bundled_conversation(provider: str, scenario: str, tmp_path: Path) -> None:
    conversation = min(read_conversations(), key=lambda item: len(item["messages"]))
    result = bill.compare_modes(provider, scenario, [conversation], tmp_path)
    check_agreement(result)
    assert (result.compressed.fetched_back > 0) == (scenario == "expanding")


@every_provider
@pytest.mark.skipif(not RECORDED.exists(), reason=f"needs {RECORDED.name} in ../shared/data")
def test_ledger_agrees_with_the_bill_of_every_kind_of_agent(provider: str, tmp_path: Path) -> None:
    short = [item for item in read_conversations(RECORDED) if len(item["messages"]) < 30]
    agents = {item["agent"]: item for item in short}
    check_agreement(bill.compare_modes(provider, "growing", list(islice(agents.values(), 5)), tmp_path))


# The upstreams


def build_message(text: str, role: str = "user") -> dict[str, object]:
    return {"role": role, "content": text}


def test_openai_caches_a_known_prefix_in_steps_of_128_tokens() -> None:
    upstream = OpenAIUpstream(lambda _: build_message("yes", "assistant"), PRICE)
    long, other = build_message("one " * 1_500), build_message("two " * 300)
    for messages in ([long], [long, other], [build_message("x"), long], [build_message("hi")] * 2):
        upstream.answer_request({"model": "gpt-4o", "messages": messages})
    first, grown, changed, short = upstream.charges
    assert (first.cache_read, changed.cache_read, short.cache_read) == (0, 0, 0)
    assert (grown.cache_read, grown.cache_read % 128) == (1408, 0)  # of the 1,508 tokens of the first request
    assert grown.uncached + grown.cache_read == 1_508 + 305
    assert upstream.total_dollars == pytest.approx(sum(charge.compute_dollars(PRICE) for charge in upstream.charges))
    upstream.clear_cache()
    usage = upstream.answer_request({"model": "gpt-4o", "messages": [long]})["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


def answer_anthropic(upstream: AnthropicUpstream, blocks: list[Json]) -> None:
    upstream.answer_request({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": blocks}]})


def test_anthropic_caches_up_to_a_breakpoint() -> None:
    upstream = AnthropicUpstream(lambda _: {"content": [{"type": "text", "text": "yes"}]}, PRICE)
    long, other = ({"type": "text", "text": f"{word} " * 1_500} for word in ("one", "two"))
    for blocks in (
        [long],
        [long | BREAKPOINT],
        [long, other | BREAKPOINT],
        [long | BREAKPOINT, other],
        [other, long | BREAKPOINT],
    ):
        answer_anthropic(upstream, blocks)
    plain, first, grown, repeated, changed = upstream.charges
    assert (plain.cache_read, plain.cache_write) == (0, 0)
    assert (first.cache_read, first.cache_write) == (0, 1_505)
    assert (grown.cache_read, grown.cache_write) == (1_505, 1_501)
    assert (repeated.cache_read, repeated.cache_write) == (1_505, 0)
    assert (changed.cache_read, changed.cache_write) == (0, 3_006)


def test_anthropic_finds_a_cached_prefix_within_twenty_blocks() -> None:
    upstream = AnthropicUpstream(lambda _: {"content": [{"type": "text", "text": "yes"}]}, PRICE)
    long, small = ({"type": "text", "text": text} for text in ("one " * 1_500, "two"))
    for small_count in (0, 20, 41):
        blocks: list[Json] = [long, *[small] * small_count]
        answer_anthropic(upstream, [*blocks[:-1], blocks[-1] | BREAKPOINT])
    assert [charge.cache_read > 0 for charge in upstream.charges] == [False, True, False]


def test_gpt_5_6_caches_at_breakpoints_only() -> None:
    upstream = Gpt56Upstream(lambda _: build_message("yes", "assistant"), PRICE)
    long, other = build_message("one " * 1_500), build_message("two " * 300)
    part: Json = {"type": "text", "text": "one " * 1_500, "prompt_cache_breakpoint": {"mode": "explicit"}}
    marked: Json = {"role": "user", "content": [part]}
    explicit = {"prompt_cache_options": {"mode": "explicit"}}
    for messages, options in (
        ([long], {}),
        ([long, other], {}),
        ([other, long], {}),
        ([build_message("hi")], {}),
        ([marked, other], explicit),
        ([marked], explicit),
        ([long], explicit),
    ):
        upstream.answer_request({"model": "gpt-5.6", "messages": messages, **options})
    charges = [(charge.uncached, charge.cache_read, charge.cache_write) for charge in upstream.charges]
    assert charges[:4] == [(3, 0, 1_505), (3, 1_505, 305), (3, 0, 1_810), (8, 0, 0)]
    assert charges[4:] == [(308, 1_505, 0), (3, 1_505, 0), (1_508, 0, 0)]


def test_anthropic_reads_nothing_before_a_compaction() -> None:
    reply: Json = {"content": [{"type": "text", "text": "yes"}]}
    upstream = AnthropicUpstream(lambda _: reply, PRICE)
    block = {"type": "compaction", "content": "a summary"}
    compacted = [build_message("one " * 500), {"role": "assistant", "content": [{"type": "text", "text": "x"}, block]}]
    request: Json = {"model": "m", "messages": [*compacted, build_message("now?")]}
    assert upstream.answer_request(request)["usage"]["input_tokens"] < 20
    reply["content"].insert(0, block)
    usage = upstream.answer_request({"model": "m", "messages": [build_message("one " * 500)]})["usage"]
    assert [item["type"] for item in usage["iterations"]] == ["compaction", "message"]
    assert usage["iterations"][0]["input_tokens"] > 500 > usage["input_tokens"]
    assert len(upstream.charges) == 3
