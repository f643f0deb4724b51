"""The attacks in their quick form: the proxy survives every attempt."""

import pytest

from clara_proxy.benchmarks.attack import __main__ as attack
from clara_proxy.benchmarks.attack.verdict import Verdict


@pytest.mark.parametrize("module", attack.MODULES)
def test_the_proxy_survives_every_attempt(module: str) -> None:
    verdicts = attack.run_module(module, quick=True)
    assert verdicts
    assert not [attack.format_verdict(verdict) for verdict in verdicts if not verdict.has_held]


def test_an_attack_without_attempts_or_with_harm_has_not_held() -> None:
    assert Verdict("x", 3, 3).has_held
    assert not Verdict("x", 3, 2).has_held
    assert not Verdict("x", 0, 0).has_held


def test_an_attack_that_fails_itself_has_not_held() -> None:
    (verdict,) = attack.run_module("no_such_module", quick=True)
    assert "ModuleNotFoundError" in attack.format_verdict(verdict)
    assert not verdict.has_held
