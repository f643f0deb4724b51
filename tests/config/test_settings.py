import traceback
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.config import settings
from clara_proxy.config.server_settings import LitellmModel
from clara_proxy.config.settings import Settings, load_settings
from clara_proxy.config.settings_errors import SettingsError

SECRET = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.build_child_environment():
        if name.upper().startswith("CLARA_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clara.yaml"


def get_error(file: Path | None = None, **overrides: Any) -> str:
    """Return the message of the error that `load_settings` raises."""
    with pytest.raises(SettingsError) as caught:
        load_settings(file, **overrides)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_defaults() -> None:
    loaded = load_settings()
    assert (loaded.host, loaded.port, loaded.mode, loaded.ratio, loaded.min_tokens) == (
        "127.0.0.1",
        8765,
        "auto",
        None,
        150,
    )
    assert loaded.roles == ("tool", "user", "assistant")
    assert loaded.budget is None
    assert loaded.upstream_api_key is None
    assert "anthropic" in loaded.litellm_providers
    assert "view" in loaded.file_tools


def test_defaults_file_environment_overrides_in_this_order(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\nmin_tokens: 50\nqueue: 7\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_MIN_TOKENS", "60")
    monkeypatch.setenv("CLARA_QUEUE", "8")
    loaded = load_settings(file, queue=9, workers=None)
    assert (loaded.workers, loaded.ratio, loaded.min_tokens, loaded.queue) == (2, 5, 60, 9)


def test_an_empty_variable_counts_as_unset(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_RATIO", "")
    monkeypatch.setenv("CLARA_PORT", "")
    assert (load_settings(file).ratio, load_settings(file).port) == (5, 8765)


def test_a_variable_in_lower_case_overrides_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\n", encoding="utf-8")
    monkeypatch.setenv("clara_ratio", "6")
    assert load_settings(file).ratio == 6


def test_the_environment_may_name_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_CONFIG", str(file))
    assert load_settings().ratio == 5
    other = file.with_name("other.yaml")
    other.write_text("ratio: 6\n", encoding="utf-8")
    assert load_settings(other).ratio == 6


def test_unquoted_off_and_no_in_yaml_are_words(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("mode: off\nquantization: no\nretrieve: none\n", encoding="utf-8")
    loaded = load_settings(file)
    assert (loaded.mode, loaded.quantization, loaded.retrieve) == ("off", "no", "none")
    file.write_text("mode: on\n", encoding="utf-8")
    assert "CLARA_MODE" in get_error(file)
    monkeypatch.setenv("CLARA_MODE", "off")
    assert load_settings().mode == "off"


def test_defaults_have_the_lowest_precedence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {"upstream_base_url": "http://defaults/v1"}
    assert load_settings(defaults=defaults).upstream_base_url == "http://defaults/v1"
    assert load_settings(defaults=defaults, upstream_base_url="http://above/v1").upstream_base_url == "http://above/v1"
    file.write_text("upstream_base_url: http://file/v1\n", encoding="utf-8")
    assert load_settings(file, defaults=defaults).upstream_base_url == "http://file/v1"
    monkeypatch.setenv("CLARA_UPSTREAM_BASE_URL", "http://environment/v1")
    assert load_settings(defaults=defaults).upstream_base_url == "http://environment/v1"
    assert "CLARA_UPSTREAM_BASE_URL" in get_error(defaults=defaults, upstream_base_url="ftp://below")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_is_valid(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert load_settings(file) == load_settings()


def test_lists_are_written_with_commas_or_as_lists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("roles: [tool, user]\nprotected_tools: a, b,,\nfile_tools: []\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_LITELLM_PROVIDERS", " gemini , groq")
    loaded = load_settings(file)
    assert loaded.roles == ("tool", "user")
    assert loaded.protected_tools == ("a", "b")
    assert loaded.file_tools == ()
    assert loaded.litellm_providers == ("gemini", "groq")


def test_models_come_from_the_file_or_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"models:\n- name: fast\n  litellm: groq/x\n  api_key: {SECRET}\n", encoding="utf-8")
    assert load_settings(file).models == (LitellmModel(name="fast", litellm="groq/x", api_key=SECRET),)
    monkeypatch.setenv("CLARA_MODELS", '[{"name":"slow","litellm":"y"}]')
    assert load_settings(file).models == (LitellmModel(name="slow", litellm="y"),)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().__setattr__("port", 1)


INVALID_VALUES: dict[str, list[object]] = {
    "host": [7, []],
    "port": [-1, 65536, "many", 1.5],
    "log_level": ["loud", "INFO"],
    "upstream_base_url": ["api.openai.com/v1", "", "ftp://x"],
    "anthropic_base_url": ["file:///etc/passwd"],
    "connect_timeout": [0, -1, "soon"],
    "read_timeout": [0],
    "max_body_mb": [0, "64MB"],
    "models": ["gpt-4o", [1], [{"name": ""}], 7],
    "mode": ["fast", "AUTO", 1],
    "ratio": [0.5, 0, 1001, "4x", "nan"],
    "budget": [0, -5, "none"],
    "min_tokens": [0, "few"],
    "roles": ["system", "tool,system", ["Tool"], 7],
    "deadline_ms": [0, "2s"],
    "fail": ["shut", True],
    "epoch_share": [0, 1.1],
    "window": [999],
    "originals_ttl": [59],
    "workers": [0, 65],
    "queue": [0],
    "cache_mb": [-1],
    "stream_usage": ["perhaps"],
    "protected_tools": [7],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in INVALID_VALUES.items() for value in values]
)
def test_an_invalid_value_names_its_setting(name: str, value: object) -> None:
    overrides: dict[str, Any] = {name: value}
    message = get_error(**overrides)
    assert message.startswith(name)
    assert f"(CLARA_{name.upper()})" in message


@pytest.mark.parametrize("name", [name for name in INVALID_VALUES if name not in ("host", "protected_tools")])
def test_an_invalid_variable_names_its_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = next(
        (value for value in INVALID_VALUES[name] if isinstance(value, str) and value), str(INVALID_VALUES[name][0])
    )
    monkeypatch.setenv(f"CLARA_{name.upper()}", value)
    assert name in get_error()


@pytest.mark.parametrize(
    ("name", "value", "requirement"),
    [
        ("ratio", 0.0, "must be from 1 to 1000, got 0"),
        ("min_tokens", 0, "must be at least 1, got 0"),
        ("connect_timeout", -1.5, "must be above 0, got -1.5"),
        ("epoch_share", 2, "must be above 0 and at most 1, got 2"),
        ("fail", "shut", "must be 'open' or 'closed', got 'shut'"),
        ("latents", "int4", "must be 'exact' or 'int8', got 'int4'"),
        ("log_level", "loud", "must be one of 'debug', 'info', 'warning' or 'error', got 'loud'"),
        ("port", "many", "must be an integer, got 'many'"),
        ("ledger_url", "mysql://x", "must begin with sqlite://, postgresql://, postgres://"),
        ("upstream_base_url", "ftp://x", "must begin with http:// or https://, got 'ftp://x'"),
    ],
)
def test_an_invalid_value_names_the_valid_ones(name: str, value: object, requirement: str) -> None:
    overrides: dict[str, Any] = {name: value}
    assert get_error(**overrides) == f"{name} (CLARA_{name.upper()}) {requirement}"


def test_all_invalid_values_are_reported() -> None:
    message = get_error(port=-1, ratio=0)
    assert "port" in message
    assert "ratio" in message


@pytest.mark.parametrize("name", ["upstream_url", "ports", "1", "models "])
def test_an_unknown_setting_is_named(file: Path, name: str) -> None:
    file.write_text(f'"{name}": {SECRET}\n', encoding="utf-8")
    assert get_error(file).startswith(f"{name}: unknown setting")


def test_an_unknown_setting_gets_the_nearest_name(file: Path) -> None:
    file.write_text("ports: 1\n", encoding="utf-8")
    assert get_error(file) == "ports: unknown setting (did you mean port?)"
    for name in ("CLARA_MODE", "clara_mode"):
        file.write_text(f"{name}: extract\n", encoding="utf-8")
        assert get_error(file) == f"{name}: unknown setting (did you mean mode?)"
    file.write_text("zebra: 1\n", encoding="utf-8")
    assert get_error(file) == "zebra: unknown setting"


def test_a_file_that_cannot_be_read_is_named(file: Path) -> None:
    assert get_error(file) == f"cannot read the configuration file {file}: No such file or directory"
    file.write_bytes(b"\xff")
    assert get_error(file) == f"cannot read the configuration file {file}: not UTF-8 text"


def test_models_that_are_no_list_are_named_in_plain_words(file: Path) -> None:
    file.write_text("models: fast\n", encoding="utf-8")
    assert get_error(file) == "models (CLARA_MODELS) must be a list, got 'fast'"
    file.write_text("models: [fast]\n", encoding="utf-8")
    assert get_error(file).startswith("models.0 (CLARA_MODELS) must be a list of `name: value` lines")


def test_unknown_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLARA_RATIO", "CLARA_RATOI", "CLARA_Z", "OTHER"):
        monkeypatch.setenv(name, "1")
    assert settings.find_unknown_variables() == {"CLARA_RATOI": " (did you mean CLARA_RATIO?)", "CLARA_Z": ""}
    assert load_settings().ratio == 1


# secrets


def test_no_repr_contains_secrets() -> None:
    loaded = load_settings(upstream_api_key=SECRET, models=[{"name": "a", "litellm": "b", "api_key": SECRET}])
    assert loaded.upstream_api_key == SECRET
    assert SECRET not in repr(loaded) + str(loaded) + repr(loaded.models)


@pytest.mark.parametrize(
    "overrides",
    [
        {"upstream_api_key": [SECRET]},
        {"upstream_api_key": {"key": SECRET}},
        {"models": [{"name": "a", "api_key": SECRET}]},
        {"models": [{"name": "a", "litellm": "b", "api_key": [SECRET]}]},
        {"models": [{"name": "a", "litellm": "", "api_key": SECRET}]},
        {"models": [{"name": "a", "litellm": "b", "apikey": SECRET}]},
        {"models": {"name": "a", "api_key": SECRET}},
        {"models": [[SECRET]]},
    ],
)
def test_no_message_contains_secrets(overrides: dict[str, Any]) -> None:
    assert get_error(**overrides).startswith(next(iter(overrides)))


@pytest.mark.parametrize("value", [SECRET, f'[{{"name": "a", "api_key": "{SECRET}"', f'[{{"name": "{SECRET[:0]}"}}]'])
def test_an_unreadable_variable_is_named_and_not_repeated(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARA_MODELS", value)
    assert "models" in get_error()


@pytest.mark.parametrize(
    "text",
    [f"upstream_api_key: {SECRET}: x\n", f"a: [\nupstream_api_key: {SECRET}", f"a: b\n\tkey: {SECRET}\n", f"{SECRET}"],
)
def test_a_file_that_is_not_yaml_is_reported_without_its_lines(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert str(file) in get_error(file)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"- a\n- b\n", b"text\n", b"7\n"])
def test_a_file_without_settings_is_an_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert str(file) in get_error(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    assert "nowhere.yaml" in get_error(tmp_path / "nowhere.yaml")


def test_a_child_process_gets_additional_variables() -> None:
    assert settings.build_child_environment(CLARA_CHILD_TEST="1")["CLARA_CHILD_TEST"] == "1"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
