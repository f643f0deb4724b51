"""The structure of lines: parents, records, and the lines that name a record."""

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.extract.core import lines, records

from ..samples import BY_NAME, compress_text, list_pieces, run_compressor

COMMITS = "\n\n".join(
    f"commit {index:040x}\nAuthor: Dev {index} <dev{index}@example.com>\nDate:   Mon Mar {1 + index % 28} 2024\n\n"
    f"    Change part {index} of the {('parser', 'writer', 'reader')[index % 3]}\n\n    It was slow for file {index}."
    for index in range(50)
)
SERVICES = "\n".join(
    f"apiVersion: v1\nkind: Service\nmetadata:\n  name: svc-{index}\n  labels:\n    tier: back\nspec:\n  ports:\n"
    f"  - name: http\n    port: {8000 + index}\n  limits:\n    memory: {100 + index}Mi\n---"
    for index in range(40)
)
HOSTS = "\n\n".join(
    f"STEP [prepare {index}] ****************\n"
    + "\n".join(
        f"failed: [node{node}] => disk full on /data{index}" if (index, node) == (17, 4) else f"ok: [node{node}]"
        for node in range(8)
    )
    for index in range(30)
)
FILES = "\n".join(
    f"  Path: /srv/data/part-{index}\n  Size: {900 + index}\n Links: 1\n"
    f" Owner: ann\nAccess: r\n  Mode: 0{640 + index % 7}"
    for index in range(60)
)
EXPANDED = "\n".join(
    f"-[ RECORD {index} ]----\nid     | {index}\nname   | item {index}\nstate  | {'broken' if index == 33 else 'fine'}"
    for index in range(50)
)
TREE = "root\n" + "\n".join(
    f"├── pkg{index}\n│   ├── src\n│   │   └── main{index}.c\n│   └── README" for index in range(40)
)


def find_ancestors(text: str, needle: str) -> list[str]:
    """Return the lines that the line with the needle belongs to, the nearest first."""
    spans = lines.find_line_spans(text)
    structure = records.find_structure(text, spans)
    index = next(index for index, span in enumerate(spans) if needle in text[slice(*span)])
    ancestors: list[str] = []
    while structure.parents[index] >= 0:
        index = structure.parents[index]
        ancestors.append(text[slice(*spans[index])])
    return ancestors


@pytest.mark.parametrize(
    ("text", "needle", "ancestor"),
    [
        (COMMITS, "Change part 31", f"commit {31:040x}"),
        (SERVICES, "memory: 117Mi", "apiVersion: v1"),
        (HOSTS, "failed:", "STEP [prepare 17] ****************"),
        (FILES, "Size: 931", "  Path: /srv/data/part-31"),
        (EXPANDED, "broken", "-[ RECORD 33 ]----"),
        (TREE, "main21.c", "├── pkg21"),
    ],
)
def test_a_line_belongs_to_its_record(text: str, needle: str, ancestor: str) -> None:
    assert ancestor in find_ancestors(text, needle)


@pytest.mark.parametrize(
    ("text", "question", "answer", "identity"),
    [
        (COMMITS, "Which commit changed part 31?", "Change part 31 ", f"commit {31:040x}"),
        (COMMITS, "Which commit changed part 31?", "Change part 31 ", "Author: Dev 31 "),
        (SERVICES, "What is the memory limit of svc-17?", "memory: 117Mi", "name: svc-17"),
        (HOSTS, "Did all steps succeed?", "disk full on /data17", "STEP [prepare 17]"),
        (FILES, "What is the size of part-31?", "Size: 931", "Path: /srv/data/part-31"),
        (EXPANDED, "Which item is broken?", "broken", "name   | item 33"),
        (TREE, "Where is main21.c?", "main21.c", "pkg21"),
    ],
)
@pytest.mark.parametrize("ratio", [4.0, 8.0])
def test_a_kept_line_stands_below_what_names_its_record(
    text: str, question: str, answer: str, identity: str, ratio: float
) -> None:
    out = compress_text("lines", text, question, ratio)
    before = out[: out.index(answer) + len(answer)]
    pattern = re.sub(r"[\da-f]*\d[\da-f]*", r"[\\da-f]+", re.escape(identity))
    assert re.findall(pattern, before)[-1] == identity


def test_the_failing_section_is_kept_with_its_settings() -> None:
    def write_container(name: str, code: int, limit: str) -> str:
        return (
            f"  {name}:\n    Image:  registry.example.com/{name}:2\n    Last State:  Terminated\n"
            f"      Exit Code:  {code}\n    Restart Count:  {code and 31}\n    Limits:\n      memory:  {limit}\n"
            f"    Mounts:\n      /etc/{name} (ro)"
        )

    sections = [write_container(f"side{index}", 0, "64Mi") for index in range(12)]
    sections.insert(7, write_container("worker", 137, "192Mi"))
    text = "Name:  job-x\nNamespace:  batch\nContainers:\n" + "\n".join(sections) + "\nQoS Class:  Burstable"
    out = compress_text("lines", text, "Why does it restart?", 4)
    section = out[out.index("  worker:") :]
    assert "Exit Code:  137" in section
    assert "Restart Count:  31" in section
    assert "memory:  192Mi" in section


def test_right_aligned_numbers_are_no_indentation() -> None:
    text = "\n".join(f"{7 ** (index % 8):>9} file{index}" for index in range(40))
    assert set(records.find_structure(text, lines.find_line_spans(text)).parents) == {-1}


def test_the_text_of_an_element_belongs_to_its_tag() -> None:
    text = "<run>\n  <case name='a'>\n    <message>Expected: 1\nActual: 2</message>\n  </case>\n</run>"
    assert find_ancestors(text, "Actual: 2")[0] == "    <message>Expected: 1"


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(["a: 1", "  b: 2", "- c", "    d {", "}", "", "===== x =====", "key:", "\tz"]), max_size=60
    )
)
def test_parents_stand_before_their_lines_and_units_cover_all_lines(parts: list[str]) -> None:
    text = "\n".join(parts)
    spans = lines.find_line_spans(text)
    structure = records.find_structure(text, spans)
    assert all(-1 <= parent < index for index, parent in enumerate(structure.parents))
    assert all(first < following for first, following in structure.identities.items())
    firsts = records.group_lines(structure, spans, 40)
    assert firsts == sorted(set(firsts))
    assert firsts[:1] == ([0] if spans else [])
    assert len(records.find_records(structure)) == len(spans)


def test_counts_of_lines_are_exact() -> None:
    passage = run_compressor(BY_NAME["lines"], COMMITS, "Which commit changed part 31?", 6)
    assert passage is not None
    kept = sum(line.strip() != "" for piece in list_pieces(passage) for line in piece.split("\n"))
    left_out = sum(part.left_out for part in passage.parts if not isinstance(part, str))
    assert kept + left_out == passage.total == sum(line.strip() != "" for line in COMMITS.split("\n"))


@pytest.mark.parametrize(
    "text",
    [
        "".join(f" M src/a{index}.py\n?? b{index}.txt\n" for index in range(20)),
        "".join(f'<testcase name="t{index}" time="0.1"/>\n' for index in range(20)),
        "".join(f"{Random(index).choice(('device', 'node', 'sample', 'token'))} {index}\n" for index in range(80)),
    ],
    ids=["marks in columns", "elements", "the same words again and again"],
)
def test_lines_without_records_have_no_parents(text: str) -> None:
    assert set(records.find_structure(text, lines.find_line_spans(text)).parents) == {-1}
