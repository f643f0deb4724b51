import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression import documents
from clara_proxy.compression.documents import Material

QUESTION = "Which worker timed out first, and why?"
PROSE = "\n\n".join(
    f"In chapter {number} the harbour master counted {number * 3} ships. The wind had turned, and nobody would say "
    "when it might turn again. They waited for the evening. " * 3 + "The end."
    for number in range(1, 9)
)
LOG = "\n".join(f"2024-05-01T10:{n // 60:02d}:{n % 60:02d}Z INFO worker-{n % 7} handled request {n}" for n in range(60))


def find(text: str, *, include_prose: bool = True) -> list[tuple[str, str]]:
    """Return the kind and text of each piece of material."""
    material = documents.find_material(text, include_prose=include_prose)
    return [(span.kind, text[span.start : span.end]) for span in material]


# every kind of material


@pytest.mark.parametrize("name", documents.BLOCK_TAGS.split("|"))
def test_blocks_are_material_without_their_tags(name: str) -> None:
    assert find(f"{QUESTION}\n<{name}>\n{PROSE}\n</{name}>") == [("block", f"\n{PROSE}\n")]
    attributes = f'<{name.upper()} index="1" source="a b">{PROSE}</{name.upper()}> {QUESTION}'
    assert find(attributes) == [("block", PROSE)]


def test_adjacent_blocks_are_one_piece_with_their_tags() -> None:
    run = '<doc id="1">one</doc>\n\n<doc id="2">two</doc><source>three</source>'
    assert find(f"{QUESTION}\n{run}\n{QUESTION}\n<doc>four</doc>") == [("block", run), ("block", "four")]


def test_nested_block_belongs_to_the_outer_one() -> None:
    inner = "<document><source>Annual report</source><document_content>x</document_content></document>"
    assert find(f"<documents>{inner}</documents>\n{QUESTION}") == [("block", inner)]


def test_characters_that_grow_in_lower_case_shift_no_offsets() -> None:
    assert find(f"{'İ' * 50}{QUESTION}<doc>text</doc>{QUESTION}") == [("block", "text")]


@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_fenced_blocks_are_material_without_their_fences(fence: str) -> None:
    assert find(f"{QUESTION}\n\n{fence}\n{LOG}\n{fence}\n") == [("fence", LOG + "\n")]
    assert find(f"{fence}json title=x\n[1]\n{fence}\n{QUESTION}") == [("fence", "[1]\n")]


@pytest.mark.parametrize("language", ["python", "Python", "ts", "c++", "diff", "sh", "yaml"])
def test_fenced_code_has_its_own_kind(language: str) -> None:
    assert find(f"{QUESTION}\n```{language}\nx = 1\n```\n") == [("code", "x = 1\n")]


def test_longer_fence_contains_shorter_ones() -> None:
    assert find(f"````\n```\ninside\n```\n````\n{QUESTION}") == [("fence", "```\ninside\n```\n")]


def test_fence_in_a_block_belongs_to_it() -> None:
    text = f"<doc>\n```\nx\n```\n</doc>\n{QUESTION}\n```\ny\n```"
    assert find(text) == [("block", "\n```\nx\n```\n"), ("fence", "y\n")]


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
    assert find(f"{QUESTION}\n\n{numbered}\n\n{QUESTION}") == [("numbered", numbered)]
    assert find(numbered) == [("numbered", numbered)]


@pytest.mark.parametrize("text", ["{question}\n\n{m}", "{m}\n\n{question}", "{question}\n\n{m}\n\n{question}"])
def test_pasted_prose_around_a_short_instruction_is_material(text: str) -> None:
    long = PROSE.replace("They waited", "They all waited, as they had waited the day before, " * 3)
    assert find(text.format(question=QUESTION, m=long)) == [("pasted", long)]
    assert find(text.format(question=QUESTION, m=long), include_prose=False) == []


@pytest.mark.parametrize("material", [LOG, '[{"id":1,"name":"a"},{"id":2,"name":"b"}]'])
def test_pasted_data_is_material_without_include_prose(material: str) -> None:
    assert find(f"{QUESTION}\n\n{material}", include_prose=False) == [("pasted", material)]
    assert find(f"{material}\n\n{QUESTION}", include_prose=False) == [("pasted", material)]


# what is not material

TQUESTION = f"""I've uploaded a repository in the directory /testbed. Consider the following issue description:

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


def test_task_of_an_agent_is_not_material() -> None:
    assert find(TQUESTION, include_prose=False) == []


@pytest.mark.parametrize(
    "name", ["instructions", "task", "rules", "issue", "example", "system", "question", "doctor", "p"]
)
def test_other_tags_are_not_material(name: str) -> None:
    assert find(f"<{name}>\n{PROSE}\n</{name}>", include_prose=False) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\n \n",
        QUESTION,
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
def test_ordinary_text_is_not_material(text: str) -> None:
    assert find(text, include_prose=False) == []
    assert find(text) == []


def test_two_long_paragraphs_are_not_material() -> None:
    long = "Please consider every one of these wishes with care. " * 20
    assert find(f"{long}\n\n{long}") == []


# any text

TRICKS = ["<doc>", "</doc>", "<doc a='1'>", "<Source>", "</source>", "```", "~~~", "````py", "\n", "\n\n", "[1] a"]
PIECES = st.sampled_from([*TRICKS, "[2] b", "İ", "x " * 9])


@given(st.lists(st.one_of(PIECES, PIECES, st.text(max_size=5))).map("".join), st.booleans())
def test_material_is_in_order_within_the_text_without_overlaps(text: str, include_prose: bool) -> None:
    position = 0
    for span in documents.find_material(text, include_prose=include_prose):
        assert position <= span.start <= span.end <= len(text)
        position = span.end


Pairs = list[tuple[int, int]]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 6))),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9))),
)
def test_exclude_overlaps_equals_comparing_all_pairs(starts: Pairs, gaps: Pairs) -> None:
    spans: Pairs = []
    position = 0
    for gap, length in gaps:
        spans.append((position + gap, position + gap + length))
        position += gap + length
    material = [Material("block", start, start + length) for start, length in starts]
    expected = [item for item in material if not any(item.start < end and start < item.end for start, end in spans)]
    assert documents.exclude_overlaps(material, spans) == expected


@pytest.mark.parametrize(
    "unit",
    ["<doc>", "<doc ", "<doc>x</doc>y", "```\n", "<doc>x</doc>\n```\nx\n```\n", "[1] a\n", "\n \n", "a\n\n", "[1]::::"],
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    started = time.thread_time()
    documents.find_material(text, include_prose=True)
    assert time.thread_time() - started < 5
