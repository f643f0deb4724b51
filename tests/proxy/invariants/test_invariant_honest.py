"""Invariant "honest": one ledger row a request, which adds up.

`ProtocolCase.check_row` and `accounting.find_inconsistencies` check the rows of all other tests of invariants.
"""

from pathlib import Path

import orjson

from clara_proxy.tests.proxy.inprocess import FakeWorker, InProcessProxy
from clara_proxy.tests.proxy.invariants.compressors import PROSE, long_chat


def test_cost_of_a_model_is_counted_once(tmp_path: Path) -> None:
    worker = FakeWorker()
    with InProcessProxy(tmp_path, clara_worker=worker) as proxy:
        first = proxy.send(orjson.dumps(long_chat(PROSE)), {"x-clara-mode": "answer"}).row
        second = proxy.send(orjson.dumps(long_chat(PROSE)), {"x-clara-mode": "answer"}).row
    assert worker.job_count > 0
    assert (first.compressor_tokens, first.gpu_seconds) == (100 * worker.job_count, 0.25 * worker.job_count)
    assert first.compressor_seconds > 0
    assert (second.compressor_tokens, second.gpu_seconds, second.compressor_seconds) == (0, 0, 0)
    assert second.saved_tokens == first.saved_tokens
