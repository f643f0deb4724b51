from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.http import request_options
from clara_proxy.proxy.protocols.api_errors import ApiError

DEFAULTS = request_options.build_default_options(Settings())


def parse(**headers: str) -> request_options.RequestOptions:
    return request_options.parse_headers(
        {"x-clara-" + name.replace("_", "-"): value for name, value in headers.items()}, DEFAULTS
    )


def test_defaults_are_the_settings() -> None:
    settings = Settings(
        mode="observe",
        ratio=7,
        budget=900,
        min_tokens=11,
        roles=("tool",),
        deadline_ms=1500,
        fail="closed",
        session="s",
        user="u",
        project="p",
        data_dir=Path("elsewhere"),
    )
    assert request_options.build_default_options(settings) == request_options.RequestOptions(
        mode="observe",
        ratio=7,
        budget=900,
        min_tokens=11,
        roles=frozenset({"tool"}),
        deadline=1.5,
        fail_closed=True,
        session="s",
        user="u",
        project="p",
    )


def test_without_clara_headers_the_defaults_apply() -> None:
    assert (
        request_options.parse_headers({"authorization": "Bearer x", "x-other": "1", "x-claraish": "y"}, DEFAULTS)
        is DEFAULTS
    )


@pytest.mark.parametrize(
    ("header", "value", "change"),
    [
        *(("mode", mode, {"mode": mode}) for mode in request_options.MODES),
        ("mode", " Extract ", {"mode": "extract"}),
        *(("bypass", value, {"bypass": True}) for value in ("true", "1", "yes", "TRUE")),
        *(("bypass", value, {"bypass": False}) for value in ("false", "0", "no")),
        ("ratio", "4", {"ratio": 4.0}),
        ("ratio", "2.5x", {"ratio": 2.5}),
        ("ratio", "1000", {"ratio": 1000.0}),
        ("budget", "1", {"budget": 1}),
        ("budget", "999999999", {"budget": 999_999_999}),
        ("min-tokens", "50", {"min_tokens": 50}),
        ("roles", "tool, USER,", {"roles": frozenset({"tool", "user"})}),
        ("roles", "", {"roles": frozenset[str]()}),
        ("query", "who was it?", {"query": "who was it?"}),
        ("query", "", {"query": None}),
        ("deadline-ms", "250", {"deadline": 0.25, "model_deadline": 0.25}),
        ("fail", "closed", {"fail_closed": True}),
        ("fail", "Open", {"fail_closed": False}),
        ("retrieve", "url", {"retrieve": "url"}),
        ("retrieve", "none", {"retrieve": "none"}),
        ("session", "run 7", {"session": "run 7"}),
        ("user", "me", {"user": "me"}),
        ("project", "p" * 300, {"project": "p" * 200}),
        ("tag-team", "blue", {"tags": {"team": "blue"}}),
        ("tag-a-b", "", {"tags": {"a-b": ""}}),
    ],
)
def test_each_header_sets_its_option(header: str, value: str, change: dict[str, Any]) -> None:
    assert request_options.parse_headers({"x-clara-" + header: value}, DEFAULTS) == replace(DEFAULTS, **change)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(("mode", value) for value in ("", "fast", "auto,extract", "off off")),
        *(("bypass", value) for value in ("", "on", "2", "truely")),
        *(
            ("ratio", value)
            for value in ("", "0", "0.5", "0.999999", "1001", "1000.1", "-4", "+4", "nan", "inf", "1e2")
        ),
        *(("ratio", value) for value in ("4xx", "x", "4,5", "4:1", "٤", "1_0")),
        *(("budget", value) for value in ("", "0", "-1", "1.5", "10k", "1_000", "1e3", "٤", "9999999999")),
        *(("min-tokens", value) for value in ("", "0", "-5", "few")),
        *(("deadline-ms", value) for value in ("", "0", "0.5", "1s", "forever")),
        *(("roles", value) for value in ("system", "tool,system", "tool;user", "all", "developer")),
        *(("fail", value) for value in ("", "shut", "true")),
        *(("retrieve", value) for value in ("", "true", "https://example.com")),
        *((value, "1") for value in ("", "tag-", "tag", "budgets", "min_tokens", "expand", "mode ")),
    ],
)
def test_an_invalid_value_is_a_400_that_names_its_header(header: str, value: str) -> None:
    with pytest.raises(ApiError) as caught:
        request_options.parse_headers({"x-clara-" + header: value}, DEFAULTS)
    error = caught.value
    assert (error.status, error.param) == (400, "x-clara-" + header)
    assert f"x-clara-{header}" in error.message
    assert error.code in ("invalid_header", "unknown_header")


def test_an_unknown_header_gets_the_nearest_name() -> None:
    with pytest.raises(ApiError, match="did you mean x-clara-ratio"):
        request_options.parse_headers({"x-clara-rato": "4"}, DEFAULTS)


def test_a_long_invalid_value_is_truncated_in_the_message() -> None:
    with pytest.raises(ApiError) as caught:
        parse(mode="z" * 10_000)
    assert len(caught.value.message) < 300


def test_several_headers_apply_and_the_defaults_stay() -> None:
    options = parse(mode="extract", ratio="8", tag_a="1", tag_b="2", user="x")
    assert (options.mode, options.ratio, options.tags, options.user) == ("extract", 8.0, {"a": "1", "b": "2"}, "x")
    assert request_options.build_default_options(Settings()) == DEFAULTS
