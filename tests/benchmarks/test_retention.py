"""Retention: survivors by literal, tokens kept, and peers compared at the same size."""

import sys
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.benchmarks import peer_shorten, retention, retention_peers
from clara_proxy.benchmarks.retention_cases import READERS, Case, count_survivors, read_cases
from clara_proxy.benchmarks.retention_peers import (
    PairTotals,
    PeerProcess,
    compare_case,
    compute_shares,
    format_table,
    sample_cases,
)
from clara_proxy.compression.compressor import Task
from clara_proxy.compression.tokens import get_token_counter

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXT = "\n".join(f"entry {index} says nothing of interest" for index in range(300))
CASE = Case("logs", TEXT, "entry 211?", {"answers": ["entry 211 says"]})
ECHO = """
import json, sys
print(json.dumps({"version": "1.2", "missing": "a model"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["question"] == "end":
        break
    text = asked["text"]
    print(json.dumps({"text": text[: len(text) // 4] if asked["share"] else text, "seconds": 0.5}), flush=True)
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PeerProcess:
    """A peer that keeps the first quarter, or everything if it chooses the size."""
    script = tmp_path / "echo.py"
    script.write_text(ECHO)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(retention_peers, "SCRIPT", script)
    return PeerProcess("echo", tmp_path)


def test_one_literal_of_the_kind_any_is_enough() -> None:
    assert count_survivors(["a", "b"], "any", "b c") == (1, 1)
    assert count_survivors(["a", "b"], "answers", "b c") == (1, 2)
    assert Case("tool_outputs", "", "", {}, "git").list_row_names("spans") == [
        "tool_outputs:spans",
        "tool_outputs:spans:git",
    ]


def test_the_upper_bound_keeps_the_lines_of_the_literals() -> None:
    task = Task(TEXT, "", 50, get_token_counter("gpt-4").count)
    output, _ = retention.keep_known_lines(task, ["entry 17 ", "entry 230 ", "nowhere"])
    assert "entry 17 says" in output
    assert "entry 230 says" in output
    assert get_token_counter("gpt-4").count(output) <= 50


def test_a_peer_and_ours_are_compared_at_the_same_size(peer: PeerProcess) -> None:
    pairs: dict[tuple[str, str, float], PairTotals] = {}
    with peer:
        assert (peer.version, peer.missing) == ("1.2", "a model")
        for share in (0.25, 0.0):
            compare_case(CASE, peer, share, pairs)
    quarter, whole = compute_shares(pairs["logs", "echo", 0.25]), compute_shares(pairs["logs", "echo", 0.0])
    assert (quarter["peer_survived"], quarter["ours_survived"], quarter["touched"]) == (0.0, 1.0, 1.0)
    assert quarter["ours_kept"] <= quarter["peer_kept"] <= 0.26
    assert quarter["peer_ms"] > 0
    assert (whole["peer_kept"], whole["ours_kept"], whole["touched"], whole["ours_ms"]) == (1.0, 1.0, 0.0, 0.0)
    assert len(list(format_table(pairs))) == 3


def test_a_peer_that_exits_raises_an_error(peer: PeerProcess) -> None:
    with peer, pytest.raises(RuntimeError, match="echo ended without an answer"):
        peer.compress_case(CASE._replace(question="end"), 0.5)


def test_a_sample_has_every_kind_and_is_deterministic() -> None:
    cases = [Case("tool_outputs", str(index), "", {}, "ab"[index % 2]) for index in range(40)]
    sample = sample_cases(cases, 5, 7)
    assert [case.kind for case in sample].count("a") == 5
    assert len(sample) == 10
    assert sample == sample_cases(cases, 5, 7) != sample_cases(cases, 5, 8)


def test_a_peer_gets_a_tool_output_and_its_exception_is_reported() -> None:
    def half(messages: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
        assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
        return [*messages[:2], {**messages[2], "content": messages[2]["content"][: int(10 * share)]}]

    def fails(messages: list[dict[str, Any]], share: float) -> list[dict[str, Any]]:
        raise KeyError(share)

    request = {"text": "0123456789", "question": "?", "share": 0.5}
    assert peer_shorten.answer_request(half, request)["text"] == "01234"
    assert peer_shorten.answer_request(fails, request)["error"] == "KeyError"


@pytest.mark.skipif(not DATA.exists(), reason="the evaluation data is missing")
def test_every_case_has_a_literal_in_its_text() -> None:
    cases = list(read_cases(DATA, 5))
    assert {case.data for case in cases} == set(READERS)
    assert all(
        any(literal in case.text for literal in literals)
        for case in cases
        for literals in case.answers.values()
        if literals
    )
