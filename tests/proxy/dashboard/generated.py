"""Hypothesis strategies for valid ledger rows."""

from typing import get_args

from hypothesis import strategies as st

from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger_row import ADDED_KIND, Outcome, Passage, Row, encode_labels, encode_passages
from clara_proxy.proxy.stores.usage import Usage

OUTCOMES = st.sampled_from(get_args(Outcome))
SIZES = st.integers(0, 10_000)
TOOL_SIZES = st.integers(1, 300)  # tokens of an added tool definition


@st.composite
def rows(draw: st.DrawFn) -> Row:
    outcome: Outcome = draw(OUTCOMES)
    shadow_of = draw(st.sampled_from(["", "", "req_x"]))
    limit = 0 if shadow_of else 4  # a shadow check is sent unchanged
    sizes = draw(st.lists(st.tuples(SIZES, SIZES).map(sorted), max_size=limit))
    passages = [Passage("tool", "t", before, after) for after, before in sizes]
    passages += [Passage(ADDED_KIND, "", 0, size) for size in draw(st.lists(TOOL_SIZES, max_size=limit // 2))]
    received = sum(passage.before for passage in passages) + draw(SIZES)
    sent = received + sum(passage.after - passage.before for passage in passages)
    usage = None
    if draw(st.booleans()):
        cache_read, cache_write, uncached = draw(SIZES), draw(SIZES), draw(SIZES)
        usage = Usage(cache_read + cache_write + uncached, draw(SIZES), None, cache_read, cache_write)
    row = Row(
        id=f"req_{draw(st.integers(0))}",
        at=draw(st.floats(0, 2e9)),
        mode_used="extract",
        outcome=outcome,
        tokens_received=received,
        tokens_sent=sent,
        passages=encode_passages(passages),
        skipped=encode_labels(draw(st.dictionaries(st.sampled_from(["late", "role"]), st.integers(1, 9)))),
        latency_ms=draw(st.floats(0, 1e6)),
        shadow_of=shadow_of,
    )
    return apply_bill(row, usage, None)
