"""The faithful invariant for records: a kept line stands below its own record, and both halves of a pair or neither.

Each generated record has its number in the line that names it (`H7X`) and in all other lines (`b7x`).
"""

import re
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.benchmarks import extract_speed
from clara_proxy.compression import embeddings, registry
from clara_proxy.compression.compressor import Gap, Task
from clara_proxy.compression.extract.core import thinning
from clara_proxy.compression.markers import render
from clara_proxy.tests.compression.measuring import without_garbage_collection

from .samples import count, count_left_out


@pytest.fixture(autouse=True, scope="module")
def load_embeddings() -> None:
    """Load what the first text would load, so that no measurement includes it."""
    embeddings.embed(["a text"])


RecordWriter = Callable[[int, list[str]], str]
TOKEN = re.compile(r"(H|b)(\d+)(?:X|x)")
KEYS: tuple[str, ...] = ("timeout", "owner", "state", "zone", "size")
QUESTIONS = (
    "",
    "What is the timeout of record 7?",
    "Which one failed, and why?",
    "What is the value of b11x?",
    "Show H3X",
    "Which is the largest?",
)


def write_lines(start: str, line: str = "{}: {}", end: str = "\n") -> RecordWriter:
    """Return a writer of records: a first line with the number, then a line for each key."""

    def write_record(number: int, keys: list[str]) -> str:
        fields = [line.format(key, f"b{number}x {len(key) * number}") for key in keys]
        return "\n".join([start.format(f"H{number}X"), *fields]) + end

    return write_record


FORMATS: dict[str, RecordWriter] = {
    "git log": write_lines("commit " + 33 * "0" + "{}\nAuthor: A <a@b.c>", "    {} {}", "\n\n"),
    "psql": write_lines("-[ RECORD {} ]-----", "{:<12}| {}"),
    "mysql": write_lines("*************************** {}. row ***************************", "{:>20}: {}"),
    "sqlite": write_lines("{:>20}".format("id") + " = {}", "{:>20} = {}", "\n\n"),
    "ini": write_lines("[{}]", "{} = {}", "\n\n"),
    "toml": write_lines('[[package]]\nname = "{}"', '{} = "{}"', "\n\n"),
    "yaml": write_lines("kind: Pod\nmetadata:\n  name: {}\nspec:", "    {}: {}", "\n---\n"),
    "describe": write_lines("Name:         {}\nData:", "  {:<12}{}", "\n\n"),
    "ldif": write_lines("# {}, people\ndn: uid=u,dc=example", "{}: {}", "\n\n"),
    "registry": write_lines("HKEY_LOCAL_MACHINE\\Software\\{}", "    {}    REG_SZ    {}", "\n\n"),
    "adapter": write_lines("Ethernet adapter {}:\n", "   {} . . . . : {}", "\n\n"),
    "package": write_lines("Package: {}", "{}: {}", "\n\n"),
    "unit": write_lines("● {}.service - A service", "    {}: {}", "\n\n"),
    "hosts": write_lines("Nmap scan report for {}", "{:<10} open  {}", "\n\n"),
    "terraform": write_lines('  ~ resource "aws_instance" "{}" {{', '      ~ {} = "a" -> "{}"', "\n    }\n\n"),
    "folders": write_lines("./{}:", "{}-{}.txt", "\n\n"),
    "tree": write_lines("├── {}", "│   ├── {} {}"),
    "dependencies": write_lines("├─┬ {}@1.0.0", "│ ├── {} {}"),
    "linter": write_lines("/srv/{}.js", "  12:5  error  {} {}  rule", "\n\n"),
    "mails": write_lines("From: {} <a@b.c>\nSubject: Re: it\n", "The {} is {} now.", "\n\n"),
    "log": write_lines("2026-03-05 10:00:00 ERROR {} broke", "    {} {}"),
    "diff": write_lines("diff --git a/{0}.py b/{0}.py\n@@ -1,9 +1,9 @@", "+{} = {}"),
    "report": write_lines("  ● suite › {}", "    {} {}", "\n\n"),
    "xml": write_lines('  <item name="{}">', "    <{0}>{1}</{0}>", "\n  </item>\n"),
    "pprint": write_lines(" {{'id': '{}',", "  '{}': '{}',", "},\n"),
    "sockets": write_lines("  TCP    10.0.0.1:{}    0.0.0.0:0    LISTENING    77", " [{} {}]"),
}
BEFORE = {
    "xml": "<?xml version='1.0'?>\n<items>\n",
    "sockets": "\nActive Connections\n\n  Proto  Local Address  Foreign Address  State  PID\n",
    "tree": ".\n",
    "dependencies": "app@1.0.0\n",
}


@st.composite
def texts(draw: st.DrawFn, name: str) -> str:
    """Write records with the same keys in the same order, some of them without one."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, unique=True))
    keys = keys[:1] if name == "sockets" else keys
    total = draw(st.integers(9, 40))
    records = [FORMATS[name](number, keys[draw(st.integers(0, 1)) * (len(keys) > 2) :]) for number in range(total)]
    text = BEFORE.get(name, "") + "".join(records)
    return text.replace("state: b", "state: failed b", 1) if draw(st.booleans()) else text


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_kept_line_stands_below_its_own_record(name: str, data: st.DataObject) -> None:
    text = data.draw(texts(name))
    ratio = data.draw(st.sampled_from((2, 4, 10, 30)))
    task = Task(
        text, data.draw(st.sampled_from(QUESTIONS)), max(1, count(text) // ratio), count, data.draw(st.booleans())
    )
    check_records(task)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_records_stay_whole_if_most_of_a_text_is_left_out_first(name: str, data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    keys = keys[:1] if name == "sockets" else keys
    text = BEFORE.get(name, "") + "".join(FORMATS[name](number, keys) for number in range(200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinning, "MAX_CHARACTERS", 1_500)
        patch.setattr(thinning, "END_CHARACTERS", 300)
        patch.setattr(thinning, "PIECE_CHARACTERS", data.draw(st.sampled_from((20, 150))))
        check_records(Task(text, data.draw(st.sampled_from(QUESTIONS)), 60, count, data.draw(st.booleans())))


def check_records(task: Task) -> None:
    """Check that each kept line stands below its own record, and that kept and left-out lines add up."""
    text = task.text
    passage = registry.find_compressor(text).compress(task)
    if passage is None:
        return
    current = ""
    for kind, number in TOKEN.findall(render(passage, None)):
        current = number if kind == "H" else current
        assert number == current
    if passage.unit == "lines":
        kept = sum(
            1 for part in passage.parts if not isinstance(part, Gap) for line in part.split("\n") if line.strip()
        )
        assert kept + count_left_out(passage) == passage.total == sum(bool(line.strip()) for line in text.split("\n"))


@pytest.mark.parametrize(
    ("start", "first", "second"),
    [
        ("diff --git a/m.py b/m.py\n@@ -1,900 +1,900 @@\n", "-old b{}x", "+new H{}X\n context"),
        ("FAIL a.test.js\n", "  ● case {}\n\n    Expected: b{}x", "    Received: H{}X\n"),
    ],
    ids=["diff", "report"],
)
@settings(max_examples=15)
@given(data=st.data())
def test_both_halves_of_a_pair_are_kept_or_neither(start: str, first: str, second: str, data: st.DataObject) -> None:
    total = data.draw(st.integers(5, 60))
    pairs = [f"{first}\n{second}\n".replace("{}", str(number)) for number in range(total)]
    text = start + "".join(pairs)
    task = Task(text, data.draw(st.sampled_from(QUESTIONS)), max(1, count(text) // 6), count, data.draw(st.booleans()))
    passage = registry.find_compressor(text).compress(task)
    if passage is not None:
        out = render(passage, None)
        for number in range(total):
            assert (f" b{number}x" in out) == (f" H{number}X" in out)


HOSTILE: dict[str, Callable[[int], str]] = {
    "elements that never end": lambda size: "<?xml version='1.0'?>" + "<a>" * (size // 3),
    "elements that only end": lambda size: "<a>" + "</a>" * (size // 4),
    "one element": lambda size: "<a " + 'b="c" ' * (size // 6),
    "records in brackets": lambda size: "{}, " * (size // 4),
    "keys below each other": lambda size: "\n".join(f"{' ' * (index % 60)}id = {index}" for index in range(size // 40)),
    "comments": lambda size: "# a\n" * (size // 4),
    "numbers": lambda size: "1 2 3\n" * (size // 6),
    "header of columns": lambda size: "Name  Id  State  Size\n" + "a\n" * (size // 2),
    "folders": lambda size: "\n\na:\nb" * (size // 6),
    "titles and rules": lambda size: "  a b\n  ---\n  c\n" * (size // 17),
    "names": lambda size: "a.b/" * (size // 4) + "\n",
    "times": lambda size: "10:00:00 FAILED\n" * (size // 16),
    **extract_speed.HOSTILE,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_time_is_linear_on_hostile_records(case: str) -> None:
    """Ten times the text may take 40 times the time (10, and noise); quadratic time would take 100 times."""
    seconds: list[float] = []
    for size in (20_000, 200_000):
        text = HOSTILE[case](size)
        task = Task(text, "What is the largest size of b?", size // 16, count, fills_target=False)
        with without_garbage_collection():
            start = process_time()
            registry.find_compressor(text).compress(task)
            seconds.append(process_time() - start)
    assert seconds[1] < max(0.35, 40 * seconds[0])
