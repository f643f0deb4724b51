import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import documents
from clara_proxy.compression.documents import Material

ASK = "Which worker timed out first, and why?"
PROSE = "\n\n".join(
    f"In chapter {number} the harbour master counted {number * 3} ships. The wind had turned, and nobody would say "
    "when it might turn again. They waited for the evening. " * 3 + "The end."
    for number in range(1, 9)
)
LOG = "\n".join(
    f"2024-05-01T10:{at // 60:02d}:{at % 60:02d}Z INFO worker-{at % 7} handled request {at}" for at in range(60)
)


def found(text: str, *, pasted: bool = True) -> list[tuple[str, str]]:
    """What was taken for material: kind and text."""
    return [(one.kind, text[one.start : one.end]) for one in documents.find_material(text, include_prose=pasted)]


# every form of material


@pytest.mark.parametrize("name", documents.BLOCK_TAGS.split("|"))
def test_blocks_are_material_without_their_tags(name: str) -> None:
    assert found(f"{ASK}\n<{name}>\n{PROSE}\n</{name}>") == [("block", f"\n{PROSE}\n")]
    attributes = f'<{name.upper()} index="1" source="a b">{PROSE}</{name.upper()}> {ASK}'
    assert found(attributes) == [("block", PROSE)]


def test_blocks_that_follow_one_another_are_one_piece_with_their_tags() -> None:
    run = '<doc id="1">one</doc>\n\n<doc id="2">two</doc><source>three</source>'
    assert found(f"{ASK}\n{run}\n{ASK}\n<doc>four</doc>") == [("block", run), ("block", "four")]


def test_a_block_in_a_block_belongs_to_it() -> None:
    inner = "<document><source>a.txt</source><document_content>x</document_content></document>"
    assert found(f"<documents>{inner}</documents>\n{ASK}") == [("block", inner)]


def test_characters_that_grow_in_lower_case_do_not_shift_what_follows() -> None:
    assert found(f"{'İ' * 50}{ASK}<doc>text</doc>{ASK}") == [("block", "text")]


@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_fenced_blocks_are_material_without_their_fences(fence: str) -> None:
    assert found(f"{ASK}\n\n{fence}\n{LOG}\n{fence}\n") == [("fence", LOG + "\n")]
    assert found(f"{fence}json title=x\n[1]\n{fence}\n{ASK}") == [("fence", "[1]\n")]


@pytest.mark.parametrize("language", ["python", "Python", "ts", "c++", "diff", "sh", "yaml"])
def test_fenced_code_is_told_apart(language: str) -> None:
    assert found(f"{ASK}\n```{language}\nx = 1\n```\n") == [("code", "x = 1\n")]


def test_a_longer_fence_holds_shorter_ones() -> None:
    assert found(f"````\n```\ninside\n```\n````\n{ASK}") == [("fence", "```\ninside\n```\n")]


def test_fences_in_a_block_belong_to_it() -> None:
    text = f"<doc>\n```\nx\n```\n</doc>\n{ASK}\n```\ny\n```"
    assert found(text) == [("block", "\n```\nx\n```\n"), ("fence", "y\n")]


@pytest.mark.parametrize(
    "numbered",
    [
        "[1] Ships came.\n[2] Ships went.\n[7] Nobody saw them.",
        "Document [1](Title: Ships) came.\nDocument [2](Title: More ships) went.",
        "## [1]: Ships\ncame\n## [2]: Ships\nwent",
        "Document 1: Ships came.\n\nDocument 2: Ships went.",
        "Passage #3 (a.txt)\ncame\nPassage #4 (b.txt)\nwent",
        "SOURCE 1\ncame\nSOURCE 2\nwent",
    ],
)
def test_numbered_chunks_are_one_piece(numbered: str) -> None:
    assert found(f"{ASK}\n\n{numbered}\n\n{ASK}") == [("numbered", numbered)]
    assert found(numbered) == [("numbered", numbered)]


@pytest.mark.parametrize("text", ["{ask}\n\n{m}", "{m}\n\n{ask}", "{ask}\n\n{m}\n\n{ask}"])
def test_prose_pasted_around_a_short_instruction(text: str) -> None:
    long = PROSE.replace("They waited", "They all waited, as they had waited the day before, " * 3)
    assert found(text.format(ask=ASK, m=long)) == [("pasted", long)]
    assert found(text.format(ask=ASK, m=long), pasted=False) == []


@pytest.mark.parametrize("material", [LOG, '[{"id":1,"name":"a"},{"id":2,"name":"b"}]'])
def test_pasted_data_needs_no_leave(material: str) -> None:
    assert found(f"{ASK}\n\n{material}", pasted=False) == [("pasted", material)]
    assert found(f"{material}\n\n{ASK}", pasted=False) == [("pasted", material)]


# what is not material

TASK = f"""I've uploaded a repository in the directory /testbed. Consider the following issue description:

<issue_description>
{PROSE}
</issue_description>

Can you help me implement the necessary changes to the repository so that the requirements are met?

Follow these steps to resolve the issue:
1. Explore the repository to familiarise yourself with its structure.
2. Create a script to reproduce the error and execute it.
3. Edit the source code to resolve the issue.

Your thinking should be thorough, and so it is fine if it is very long.
"""


def test_the_task_of_an_agent_is_not_material() -> None:
    assert found(TASK, pasted=False) == []


@pytest.mark.parametrize(
    "name", ["instructions", "task", "rules", "issue", "example", "system", "question", "doctor", "p"]
)
def test_other_tags_are_not_material(name: str) -> None:
    assert found(f"<{name}>\n{PROSE}\n</{name}>", pasted=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\n \n",
        ASK,
        PROSE.replace("\n\n", " "),
        "1. Open the file.\n2. Read it.\n3. Tell me what it says.",
        "- one\n- two\n- three",
        "[1] is the only note",
        "[2] comes first\n[1] comes second",
        "[1] once\n[1] twice",
        "Step 1: read\nStep 2: write",
        "see [1] and [2] in the text",
        "arr[0] = 1\narr[1] = 2",
        "Use `<doc>` for documents.",
        "<doc>never closed",
        "</doc>never opened<doc>",
        "< doc>a</ doc>",
        "```\nnever closed",
        "a ``` b ``` c",
        "``` inline ```",
    ],
)
def test_what_is_not_recognised_is_not_returned(text: str) -> None:
    assert found(text, pasted=False) == []
    assert found(text) == []


def test_two_long_paragraphs_are_no_material_around_an_instruction() -> None:
    long = "Please consider every one of these wishes with care. " * 20
    assert found(f"{long}\n\n{long}") == []


# whatever comes

TRICKS = ["<doc>", "</doc>", "<doc a='1'>", "<Source>", "</source>", "```", "~~~", "````py", "\n", "\n\n", "[1] a"]
PIECES = st.sampled_from([*TRICKS, "[2] b", "İ", "x " * 9])


@given(st.lists(st.one_of(PIECES, PIECES, st.text(max_size=5))).map("".join), st.booleans())
def test_material_is_in_order_inside_the_text_and_apart(text: str, pasted: bool) -> None:
    at = 0
    for one in documents.find_material(text, include_prose=pasted):
        assert at <= one.start <= one.end <= len(text)
        at = one.end


Pairs = list[tuple[int, int]]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 6))),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9))),
)
def test_apart_is_what_comparing_each_with_each_finds(spans: Pairs, gaps: Pairs) -> None:
    taken: Pairs = []
    at = 0
    for gap, length in gaps:
        taken.append((at + gap, at + gap + length))
        at += gap + length
    some = [Material("block", start, start + length) for start, length in spans]
    expected = [one for one in some if not any(one.start < end and start < one.end for start, end in taken)]
    assert documents.exclude_overlaps(some, taken) == expected


@pytest.mark.parametrize(
    "unit",
    ["<doc>", "<doc ", "<doc>x</doc>y", "```\n", "<doc>x</doc>\n```\nx\n```\n", "[1] a\n", "\n \n", "a\n\n", "[1]::::"],
)
def test_a_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    started = time.perf_counter()
    documents.find_material(text, include_prose=True)
    assert time.perf_counter() - started < 5
