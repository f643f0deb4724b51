import json
import time

import pytest

from clara_proxy.compression.file_reads import MAX_COMMAND_CHARACTERS, find_read_paths, is_file_read
from clara_proxy.compression.transcript import ToolCall

TOOLS = frozenset({"view", "read_file"})


def is_read(command: str) -> bool:
    return is_file_read(ToolCall("shell", json.dumps({"command": command})), TOOLS)


@pytest.mark.parametrize(
    "command",
    [
        "cat x",
        "cat src/a.py src/b.py",
        "  cat x  ",
        "/bin/cat x",
        "sed -n 1,9p x",
        "sed -n '1,200p' src/app.py",
        "sed -n -e 5p x",
        "nl -ba x | sed -n '1,20p'",
        "head -50 x",
        "tail -n +3 x | head -4",
        "cat -n x | tail",
        "awk 'NR<9' x",
        "less x",
        "bat x",
        "cd a && cat b",
        "cd a; cat b",
        "cd a\ncat b",
        "ls && cat x && pwd",
        "cat x || true",
        "cat x 2>/dev/null",
        "cat x 2> /dev/null | head -3",
        "cat x 2>&1",
        "open src/app.py 40",
        "goto 122",
        "scroll_down",
        "make > build.log; cat build.log",
        "cat > a.py <<EOF\nx = 1\nEOF\ncat a.py",
    ],
)
def test_read_commands_are_recognised(command: str) -> None:
    assert is_read(command)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "ls -la",
        "grep -rn timeout src",
        "cat x | grep y",
        "cat x | sort | uniq -c",
        "nl x | grep -n y | head",
        "rg y | head -5",
        "find . -name '*.py' | head -20",
        "git diff | cat",
        "git log | head",
        "python t.py 2>&1 | tail -5",
        "pytest -q | tail -30",
        "cat x | python -m json.tool",
        "cat x > y",
        "cat x >> y",
        "cat > f <<EOF\nsome text\nEOF",
        "cat > f <<'EOF'\nhead of the page\ncat x\nEOF",
        'cat <<-"END" > f\n\tmore to come\n\tEND',
        "python - <<'PY'\nprint(1)\nless = 2\nPY",
        "cat <<EOF | sh\nless x\nEOF\nmake",
        "cat > f <<EOF\nnever closed\ncat x",
        "sed -i s/a/b/ x",
        "sed -i.bak s/a/b/ x",
        "sed -ni 1p x",
        "sed --in-place s/a/b/ x",
        "category x",
        "echo cat x",
    ],
)
def test_other_commands_are_not_file_reads(command: str) -> None:
    assert not is_read(command)


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "cat x"},
        {"cmd": "cat x", "timeout": 10},
        {"workdir": "/a", "command": ["bash", "-lc", "cat x"]},
        {"command": ["/usr/bin/sh", "-c", "cd a && cat x"]},
        {"command": ["cat", "x"]},
        {"command": ["sed", "-n", "1,9p", "x"]},
        ["cat", "x"],
        ["bash", "-lc", "sed -n 1,9p x"],
        "cat x",
    ],
)
def test_read_is_recognised_in_every_form_of_arguments(arguments: object) -> None:
    assert is_file_read(ToolCall("shell", json.dumps(arguments)), TOOLS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": ["bash", "-lc", "cat x | grep y"]},
        {"command": ["grep", "-rn", "cat", "x"]},
        {"command": ["rm", "cat"]},
        {"command": []},
        {"command": None, "n": 1, "deep": {"command": "cat x"}},
        [],
        {},
        7,
        None,
    ],
)
def test_other_arguments_are_not_file_reads(arguments: object) -> None:
    assert not is_file_read(ToolCall("shell", json.dumps(arguments)), TOOLS)


def test_arguments_that_are_not_json_are_a_command() -> None:
    assert is_file_read(ToolCall("shell", "cat x"), TOOLS)
    assert not is_file_read(ToolCall("shell", '{"command": "ca'), TOOLS)
    assert not is_file_read(ToolCall("shell", "[" * 100_000), TOOLS)


def test_file_tools_always_read() -> None:
    assert is_file_read(ToolCall("view", "{}"), TOOLS)
    assert is_file_read(ToolCall("read_file", "not json"), TOOLS)
    assert not is_file_read(ToolCall("viewer", "{}"), TOOLS)


def test_very_long_command_is_no_file_read() -> None:
    assert is_read("cat " + "x" * (MAX_COMMAND_CHARACTERS - 10))
    assert not is_read("cat " + "x" * MAX_COMMAND_CHARACTERS)


@pytest.mark.parametrize("unit", ["<<A\n", "<<'A' ", "<<A ", "sed ", "sed -", "|", "2>", ";cat", "\n", " "])
def test_hostile_command_is_fast(unit: str) -> None:
    started = time.thread_time()
    is_read(unit * (MAX_COMMAND_CHARACTERS // len(unit) - 1))
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Read", {"file_path": "/repo/src/app.py", "limit": 200}),  # Claude Code
        ("read", {"filePath": "/repo/src/app.py", "offset": 0}),  # opencode
        ("ReadFile", {"file_path": "src/app.py"}),
        ("readFile", {"filePath": "src/app.py"}),
        ("builtin_read_file", {"filepath": "src/app.py"}),  # Continue
        ("read_currently_open_file", {}),
        ("read_file_range", {"filepath": "src/app.py", "startLine": 1, "endLine": 9}),
        ("read_many_files", {"paths": ["src/**/*.py", "README.md"]}),  # Qwen Code, Gemini CLI
        ("read_file", {"absolute_path": "/repo/src/app.py"}),
        ("file_editor", {"command": "view", "path": "/repo/src/app.py"}),  # OpenHands
        ("text_editor", {"command": "view", "path": "/repo/src/app.py"}),  # goose
        ("TextEditor", {"action": "read", "path": "a.py"}),
        ("mcp__filesystem__read_text_file", {"path": "src/app.py"}),
        ("mcp__fs__readMultipleFiles", {"paths": ["a.py", "b.py"]}),
        ("filesystem.read_file", {"path": "src/app.py"}),
        ("filesystem-read_file", {"path": "src/app.py"}),
        ("functions.read_file", {"target_file": "src/app.py", "should_read_entire_file": False}),
        ("mcp__github__get_file_contents", {"owner": "a", "repo": "b", "path": "src/app.py"}),
        ("fs_read", {"operations": [{"mode": "Line", "path": "src/app.py"}]}),  # Amazon Q
        ("View", {"file_path": "a.py"}),
        ("open_file", {"relative_path": "a.py"}),
        ("read_files", {"files": [{"path": "a.py"}, {"path": "b.py"}]}),
    ],
)
def test_reading_tools_are_recognised_in_any_spelling(name: str, arguments: object) -> None:
    assert is_file_read(ToolCall(name, json.dumps(arguments)), TOOLS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Write", {"file_path": "a.py", "content": "x"}),
        ("file_editor", {"command": "str_replace", "path": "a.py", "old_str": "view", "new_str": "read"}),
        ("file_editor", {"command": "create", "path": "a.py", "file_text": "x"}),
        ("MultiEdit", {"file_path": "a.py", "edits": []}),
        ("Grep", {"pattern": "x", "path": "src"}),
        ("search_files", {"path": "src", "regex": "read"}),
        ("list_directory", {"path": "src"}),
        ("read_directory", {"path": "src"}),
        ("directory_tree", {"path": "src"}),
        ("get_file_info", {"path": "a.py"}),
        ("read_email", {"file_path": "x"}),
        ("read_logs", {"path": "/var/log/x"}),
        ("browser_view", {}),
        ("open_url", {"url": "https://example.com/a.py"}),
        ("WebFetch", {"url": "https://example.com/a.py"}),
        ("read_thread", {"id": "7"}),
        ("read_resource", {"uri": "https://example.com/a"}),
        ("read_file_filtered", {"path": "a.py", "grep": "x"}),
        ("Bash", {"command": "cat a.py | grep x", "description": "Read file a.py"}),
        ("Task", {"prompt": "read a.py"}),
        ("already", {"path": "a.py"}),
    ],
)
def test_other_tools_are_not_file_reads(name: str, arguments: object) -> None:
    assert not is_file_read(ToolCall(name, json.dumps(arguments)), TOOLS)


@pytest.mark.parametrize(
    ("command", "paths"),
    [
        ("cat src/a.py 'b.log'", ("src/a.py", "b.log")),
        ("cd x && sed -n '1,20p' src/a.py | head -3", ("src/a.py",)),
        ("tail -n 50 app.log", ("app.log",)),
        ("nl -ba a.md | sed -n '1,20p'", ("a.md",)),
        ("make", None),
    ],
)
def test_shell_reads_name_their_paths(command: str, paths: tuple[str, ...] | None) -> None:
    assert find_read_paths(ToolCall("shell", json.dumps({"command": command})), TOOLS) == paths
