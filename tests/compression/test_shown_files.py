"""Files in the messages of clients that edit what they see, in the shapes that these clients send."""

import time

import pytest

from clara_proxy.compression import documents, shown_files

CODE = "\n\n".join(f"def handle_{n}(self, request):\n    return self.workers[{n}].run(request)" for n in range(40))
YAML = "\n".join(f"service_{n}:\n  image: registry/app:{n}\n  replicas: {n % 5}" for n in range(60))
SQL = "\n".join(f"INSERT INTO orders (id, name) VALUES ({n}, 'order {n}');" for n in range(60))
GUIDE = "# Guide\n\n" + "\n\n".join(
    f"Step {n}. Open the panel and wait. Then the harbour opens again." for n in range(40)
)
LOG = "\n".join(f"2024-05-01T10:{n // 60:02d}:{n % 60:02d}Z INFO worker-{n % 7} handled request {n}" for n in range(90))
SOURCES = {"src/app.py": CODE, "deploy/app.yml": YAML, "db/seed.sql": SQL, "docs/guide.md": GUIDE, "LICENSE": GUIDE}

AIDER = (
    "I have *added these files to the chat* so you can go ahead and edit them.\n\n"
    "*Trust this message as the true contents of these files!*\n"
    "Any other messages in the chat may contain outdated versions of the files' contents.\n\n{path}\n```\n{text}\n```\n"
)
SHAPES = [
    AIDER,
    AIDER.replace("```", "````"),
    AIDER.replace("```\n{text}\n```", "<source>\n{text}\n</source>"),
    "Here are some READ ONLY files.\nDo not edit these files!\n\n{path}\n```\n{text}\n```\n",
    '<task>\nMend it.\n</task>\n\n<file_content path="{path}">\n{text}\n</file_content>',  # Cline, Roo Code
    "```python {path}\n{text}\n```\nMend it.",  # Continue
    "```{path}\n{text}\n```\nMend it.",  # gptme, Continue
    "```{path} (1-120)\n{text}\n```\nMend it.",
    "```12:140:{path}\n{text}\n```\nMend it.",  # Cursor
    '```ts title="{path}"\n{text}\n```\nMend it.',
    '<files>\nThis section holds the files.\n\n<file path="{path}">\n{text}\n</file>\n</files>\n\nMend it.',  # repomix
    "Mend it.\n\n### `{path}`\n\n```\n{text}\n```\n",
    "Mend it.\n\n**{path}**\n```\n{text}\n```\n",
    "Mend it.\n\nThe content of `{path}`:\n```\n{text}\n```\n",
    "Mend it.\n```\n# {path}\n{text}\n```\n",
    '<documents>\n<document index="1">\n<source>{path}</source>\n{text}\n</document>\n</documents>\n\nMend it.',
    "<context>\n{path}\n```\n{text}\n```\n</context>\nMend it.",
    "<file>\n<path>{path}</path>\n<content>\n{text}\n</content>\n</file>\nMend it.",
    '<attachment filename="{path}">\n{text}\n</attachment>\nMend it.',
    '<attachment id="{path}">\n{text}\n</attachment>\nMend it.',  # Copilot
    "Mend it.\n```\n// filepath: {path}\n{text}\n```\n",
]


def kinds(text: str) -> set[str]:
    return {item.kind for item in documents.find_material(text, include_prose=True)}


@pytest.mark.parametrize("path", SOURCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_with_its_path_is_code(shape: str, path: str) -> None:
    assert kinds(shape.format(path=path, text=SOURCES[path])) == {"code"}


@pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if not any(word in shape for word in ("```python", "```ts", "The content of"))]
)
def test_a_data_file_with_its_path_is_a_file(shape: str) -> None:
    assert kinds(shape.format(path="var/app.log", text=LOG)) == {"file"}


@pytest.mark.parametrize("text", [CODE, YAML])
@pytest.mark.parametrize("shape", ["Mend it.\n```\n{}\n```\n", "<doc>\n{}\n</doc>\nMend it.", "Mend it?\n\n{}"])
def test_code_and_configuration_need_no_path(shape: str, text: str) -> None:
    assert kinds(shape.format(text)) <= {"code"}


@pytest.mark.parametrize(
    "text",
    [
        f"Why did it stop?\n```\n{LOG}\n```\nThanks",
        f"Here is the output of `python src/app.py`:\n```\n{LOG}\n```\n",
        f"$ python src/app.py\n```\n{LOG}\n```\n",
        f"pytest tests/test_app.py fails, here is the log:\n```text\n{LOG}\n```\n",
        f"<log>\n{LOG}\n</log>\nWhy did it stop?",
        f'<document index="1"><source>handbook.pdf</source>{GUIDE}</document>\nHow do I open the harbour?',
        f'<document url="https://example.com/guide.md">{GUIDE}</document>\nHow do I open the harbour?',
        f"<doc>\n{GUIDE}\n</doc>\nHow do I open the harbour?",
        "Which is the largest?\n```\n" + "\n".join(f"src/part_{n}/module_{n}.py" for n in range(90)) + "\n```\n",
    ],
)
def test_outputs_and_documents_are_no_files(text: str) -> None:
    assert kinds(text) & documents.FILE_KINDS == set()


def test_fences_in_a_shown_file_do_not_expose_its_parts() -> None:
    readme = f"# Guide\n\n```\n$ harbour open\n```\n\n{GUIDE}\n\n```\n$ harbour shut\n```\n\n{GUIDE}\n"
    text = AIDER.format(path="README.md", text=readme) + f"\nsrc/notes.md\n```\n{GUIDE}\n```\n\nMend it."
    assert kinds(text) <= documents.FILE_KINDS


def test_repository_map_shows_files() -> None:
    outline = "\n\n".join(f"src/part_{n}.py:\n⋮\n│class Part{n}:\n│    def run(self):\n⋮" for n in range(40))
    assert documents.shows_editable(f"Here are summaries of some files present in my git repository.\n\n{outline}\n")
    assert not documents.shows_editable(LOG)


@pytest.mark.parametrize("line", ["Content from @src/app.py:\n", "\nsrc/app.py\n", "File: src/app.py"])
def test_a_text_may_end_with_the_path_of_the_next(line: str) -> None:
    assert shown_files.ends_with_path(f"Mend it.\n\n{line}")
    assert not shown_files.ends_with_path("Mend src/app.py please.")


@pytest.mark.parametrize(
    "unit",
    ["<file path=", '<a b="', "<path>", "a.py\n", "a.py\n\n", "--- a", "```a.py\n", "# File: ", "<file a ", "\n- "],
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    started = time.thread_time()
    documents.find_material(f"<doc>{text}</doc>", include_prose=True)
    documents.shows_editable(text)
    assert time.thread_time() - started < 5


POLICY = "The refund policy covers orders of the last thirty days. Customers send the goods back in their box. " * 15
RETRIEVED = {
    "tag with path": '<document path="docs/refunds.md">\n{0}\n</document>\n\n{1}',
    "documents with sources": '<documents>\n<document index="1"><source>docs/a.md</source><document_content>\n{0}\n'
    '</document_content></document>\n<document index="2"><source>docs/b.md</source><document_content>\n{0}\n'
    "</document_content></document>\n</documents>\n\n{1}",
    "labels and scores": "Source: docs/a.md\nScore: 0.83\n{0}\n\nSource: docs/b.md\nScore: 0.71\n{0}\n\n{1}",
    "numbers": "[1] docs/a.md\n{0}\n\n[2] docs/b.md\n{0}\n\n{1}",
    "named sources": '<context>\n<source id="1" name="a.md">{0}</source>\n<source id="2" name="b.md">{0}</source>\n'
    "</context>\n\n{1}",
}


@pytest.mark.parametrize("shape", RETRIEVED)
@pytest.mark.parametrize("question", ["How long do refunds take?", "Question: refunds", "Summarize what they say."])
def test_documents_found_for_a_question_are_no_files(shape: str, question: str) -> None:
    assert kinds(RETRIEVED[shape].format(POLICY, question)) & documents.FILE_KINDS == set()


@pytest.mark.parametrize(
    "request_text", ["Rewrite the second part.", "Can you make it friendlier?", "Please add a title."]
)
@pytest.mark.parametrize("shape", ["tag with path", "documents with sources"])
def test_documents_that_somebody_wants_edited_are_files(shape: str, request_text: str) -> None:
    assert kinds(RETRIEVED[shape].format(POLICY, request_text)) == {"code"}


@pytest.mark.parametrize(
    "text",
    [
        f"docs/refunds.md\n```\n{POLICY}\n```\n\nHow long do refunds take?",
        f'<file_content path="docs/refunds.md">\n{POLICY}\n</file_content>\n\nHow long do refunds take?',
        f'<files>\n<file path="docs/refunds.md">\n{POLICY}\n</file>\n</files>\n\nHow long do refunds take?',
        f'<document index="1"><source>src/app.py</source>\n{CODE}\n</document>\n\nWhat does it do?',
        (
            f'<document index="1"><source>README.md</source>\n{POLICY}\n</document>\n'
            f'<document index="2"><source>src/app.py</source>\n{CODE}\n</document>\n\nWhat does it do?'
        ),
    ],
)
def test_files_stay_files_beside_a_question(text: str) -> None:
    assert kinds(text) == {"code"}
