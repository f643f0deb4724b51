import traceback
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.config import settings
from clara_proxy.config.settings import LitellmModel, Settings, SettingsError, load_settings

SECRET = "sk-do-not-tell-anybody"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.build_child_environment():
        if name.upper().startswith("CLARA_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clara.yaml"


def complaint(file: Path | None = None, **overrides: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(file, **overrides)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_defaults() -> None:
    chosen = load_settings()
    assert (chosen.host, chosen.port, chosen.mode, chosen.ratio, chosen.min_tokens) == (
        "127.0.0.1",
        8765,
        "auto",
        None,
        150,
    )
    assert chosen.roles == ("tool", "user", "assistant")
    assert chosen.budget is None
    assert chosen.upstream_api_key is None
    assert "anthropic" in chosen.litellm_providers
    assert "view" in chosen.file_tools


def test_defaults_file_environment_overrides_in_this_order(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\nmin_tokens: 50\nqueue: 7\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_MIN_TOKENS", "60")
    monkeypatch.setenv("CLARA_QUEUE", "8")
    chosen = load_settings(file, queue=9, workers=None)
    assert (chosen.workers, chosen.ratio, chosen.min_tokens, chosen.queue) == (2, 5, 60, 9)


def test_an_empty_variable_says_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_RATIO", "")
    monkeypatch.setenv("CLARA_PORT", "")
    assert (load_settings(file).ratio, load_settings(file).port) == (5, 8765)


def test_a_variable_in_lower_case_is_above_the_file_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\n", encoding="utf-8")
    monkeypatch.setenv("clara_ratio", "6")
    assert load_settings(file).ratio == 6


def test_the_file_may_be_named_in_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("ratio: 5\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_CONFIG", str(file))
    assert load_settings().ratio == 5
    other = file.with_name("other.yaml")
    other.write_text("ratio: 6\n", encoding="utf-8")
    assert load_settings(other).ratio == 6


def test_words_that_yaml_takes_for_false_are_words(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("mode: off\nquantization: no\nretrieve: none\n", encoding="utf-8")
    chosen = load_settings(file)
    assert (chosen.mode, chosen.quantization, chosen.retrieve) == ("off", "no", "none")
    file.write_text("mode: on\n", encoding="utf-8")
    assert "CLARA_MODE" in complaint(file)
    monkeypatch.setenv("CLARA_MODE", "off")
    assert load_settings().mode == "off"


def test_what_is_beneath_stands_below_everything(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = {"upstream_base_url": "http://below/v1"}
    assert load_settings(defaults=below).upstream_base_url == "http://below/v1"
    assert load_settings(defaults=below, upstream_base_url="http://above/v1").upstream_base_url == "http://above/v1"
    file.write_text("upstream_base_url: http://file/v1\n", encoding="utf-8")
    assert load_settings(file, defaults=below).upstream_base_url == "http://file/v1"
    monkeypatch.setenv("CLARA_UPSTREAM_BASE_URL", "http://said/v1")
    assert load_settings(defaults=below).upstream_base_url == "http://said/v1"
    assert "CLARA_UPSTREAM_BASE_URL" in complaint(beneath=below, upstream_base_url="ftp://below")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_is_no_trouble(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert load_settings(file) == load_settings()


def test_lists_are_written_with_commas_or_as_lists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("roles: [tool, user]\nprotected_tools: a, b,,\nfile_tools: []\n", encoding="utf-8")
    monkeypatch.setenv("CLARA_LITELLM_PROVIDERS", " gemini , groq")
    chosen = load_settings(file)
    assert chosen.roles == ("tool", "user")
    assert chosen.protected_tools == ("a", "b")
    assert chosen.file_tools == ()
    assert chosen.litellm_providers == ("gemini", "groq")


def test_models_of_the_file_and_of_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(f"models:\n- name: fast\n  litellm: groq/x\n  api_key: {SECRET}\n", encoding="utf-8")
    assert load_settings(file).models == (LitellmModel(name="fast", litellm="groq/x", api_key=SECRET),)
    monkeypatch.setenv("CLARA_MODELS", '[{"name":"slow","litellm":"y"}]')
    assert load_settings(file).models == (LitellmModel(name="slow", litellm="y"),)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().__setattr__("port", 1)


WRONG: dict[str, list[object]] = {
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


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_names_its_setting(name: str, value: object) -> None:
    overrides: dict[str, Any] = {name: value}
    told = complaint(**overrides)
    assert told.startswith(name)
    assert f"(CLARA_{name.upper()})" in told


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("host", "protected_tools")])
def test_a_wrong_value_in_the_environment_names_its_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = next((value for value in WRONG[name] if isinstance(value, str) and value), str(WRONG[name][0]))
    monkeypatch.setenv(f"CLARA_{name.upper()}", wrong)
    assert name in complaint()


def test_several_wrong_values_are_all_told() -> None:
    told = complaint(port=-1, ratio=0)
    assert "port" in told
    assert "ratio" in told


@pytest.mark.parametrize("name", ["upstream_url", "ports", "1", "models "])
def test_an_unknown_setting_is_named(file: Path, name: str) -> None:
    file.write_text(f'"{name}": {SECRET}\n', encoding="utf-8")
    assert complaint(file) == f"{name}: unknown setting"


def test_unknown_variables_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLARA_RATIO", "CLARA_RATOI", "CLARA_Z", "OTHER"):
        monkeypatch.setenv(name, "1")
    assert settings.find_unknown_variables() == ["CLARA_RATOI", "CLARA_Z"]
    assert load_settings().ratio == 1


# secrets


def test_secrets_are_in_no_repr() -> None:
    chosen = load_settings(upstream_api_key=SECRET, models=[{"name": "a", "litellm": "b", "api_key": SECRET}])
    assert chosen.upstream_api_key == SECRET
    assert SECRET not in repr(chosen) + str(chosen) + repr(chosen.models)


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
def test_secrets_are_in_no_message(overrides: dict[str, Any]) -> None:
    assert complaint(**overrides).startswith(next(iter(overrides)))


@pytest.mark.parametrize("value", [SECRET, f'[{{"name": "a", "api_key": "{SECRET}"', f'[{{"name": "{SECRET[:0]}"}}]'])
def test_a_variable_that_is_not_what_it_should_be_is_named_and_not_repeated(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLARA_MODELS", value)
    assert "models" in complaint()


@pytest.mark.parametrize(
    "text",
    [f"upstream_api_key: {SECRET}: x\n", f"a: [\nupstream_api_key: {SECRET}", f"a: b\n\tkey: {SECRET}\n", f"{SECRET}"],
)
def test_a_file_that_is_not_yaml_is_told_without_its_lines(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert str(file) in complaint(file)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"- a\n- b\n", b"text\n", b"7\n"])
def test_a_file_of_another_kind(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert str(file) in complaint(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere.yaml" in complaint(tmp_path / "nowhere.yaml")


def test_what_a_child_sees() -> None:
    assert settings.build_child_environment(CLARA_CHILD_TEST="1")["CLARA_CHILD_TEST"] == "1"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
