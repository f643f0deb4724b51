"""Finds the material in a user's message: the documents, as opposed to the instruction.

Recognises `<document>`-like blocks, fenced blocks, numbered chunks, and long pasted text around a short instruction.
Anything else is not returned: an instruction must never be taken for material.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from . import registry, shown_files
from .file_kinds import is_code_or_config
from .memo import Memo

# Tags that people and frameworks put material in. `<instructions>`, `<task>` and the like are absent on purpose.
BLOCK_TAGS = (
    "article|attachment|chunk|chunks|context|contexts|data|doc|docs|document|documents|email|excerpt|file|file_content"
    "|file_contents|files|knowledge|log|logs|observation|output|page|passage|passages|paste|pasted|reference|references"
    "|result|results|retrieved|search_result|search_results|source|sources|stderr|stdout|text|tool_output|transcript"
    "|webpage"
)
CODE_LANGUAGES = frozenset(
    {"asm", "astro", "bash", "bat", "c", "c++", "cc", "clojure", "cmake", "conf", "cpp", "cs", "csharp", "css", "dart"}
    | {"diff", "dockerfile", "elixir", "elm", "env", "erlang", "fish", "fsharp", "go", "gradle", "graphql", "groovy"}
    | {"h", "haskell", "hcl", "hpp", "html", "ini", "java", "javascript", "jinja", "js", "jsonc", "jsx", "julia"}
    | {"kotlin", "latex", "less", "lua", "makefile", "markdown", "matlab", "md", "mdx", "nginx", "nim", "nix", "objc"}
    | {"ocaml", "patch", "perl", "php", "powershell", "prisma", "properties", "proto", "ps1", "py", "python", "r", "rb"}
    | {"rs", "rst", "ruby", "rust", "sass", "scala", "scss", "sh", "shell", "solidity", "sql", "svelte", "swift"}
    | {"terraform", "tex", "tf", "toml", "ts", "tsx", "typescript", "vb", "vue", "xml", "yaml", "yml", "zig", "zsh"}
)
FILE_KINDS = frozenset({"code", "file"})  # of material
DATA_KINDS = frozenset({"json", "log", "search", "table"})
MIN_FILE_CHARACTERS = 120  # shorter material gains nothing from compression, whatever it is
MEMO_SIZE = 20_000  # texts remembered with their material
MAX_INSTRUCTION_CHARACTERS = 600  # characters of a paragraph that may still be the instruction around pasted text
_OPENING_TAG = re.compile(rf"<({BLOCK_TAGS})(?:\s[^<>]*)?>", re.IGNORECASE | re.ASCII)
_CLOSING_TAGS = {name: re.compile(f"</{name}>", re.IGNORECASE | re.ASCII) for name in BLOCK_TAGS.split("|")}
_FENCE = re.compile(r"^(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*$\n?", re.MULTILINE)
# Searched in a text with a line end prepended: a pattern that begins with one is ten times as fast as `^`.
_BRACKETED_NUMBER = re.compile(
    r"\n(?i:(?:#+ *)?(?:(?:document|source|passage|result|chunk|context|doc) *)?\[(\d{1,4})\][ \t:.(]*(?=\S))"
)
_LABELLED_NUMBER = re.compile(
    r"\n(?i:(?:#+ *)?(?:document|source|passage|result|chunk|doc) #?(\d{1,4})[ \t]*(?=[:.(\n-]))"
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")

MaterialKind = Literal["block", "fence", "code", "file", "numbered", "pasted", "retrieved"]


class Material(NamedTuple):
    """A span of material in a text, with offsets in characters.

    `code` is an editable file, `file` another one with a path, `retrieved` documents that a search has found.
    """

    kind: MaterialKind
    start: int
    end: int


def find_material(text: str, *, include_prose: bool) -> Sequence[Material]:
    """Return the material in a user's text, in order, without overlaps; `include_prose` adds unmarked prose."""
    return (_find_with_prose if include_prose else _find_without_prose)(text)


def _search_material(text: str, *, prose: bool) -> Sequence[Material]:
    material = _find_blocks(text) if "<" in text else []
    if not material and "\n" not in text:  # everything else takes several lines
        return ()
    for candidates in (find_fences(text), _find_numbered_chunks(text)):
        material += exclude_overlaps(candidates, [(span.start, span.end) for span in material])
        material.sort(key=lambda span: span.start)
    material = material or _find_pasted_text(text, prose=prose)
    material = [_label_file(text, item) for item in material]
    if any(item.kind == "fence" for item in material) and shown_files.shows_file(text):
        # Fences in a shown file pair with those around it, so that any of them may hold a part of a file.
        material = [item._replace(kind="file") if item.kind == "fence" else item for item in material]
    return tuple(material)  # immutable, as it is remembered


def _label_file(text: str, item: Material) -> Material:
    if item.kind == "code" or item.end - item.start < MIN_FILE_CHARACTERS:
        return item
    return item._replace(kind=shown_files.classify_shown(text, item.start, item.end) or item.kind)


_find_with_prose, _find_without_prose = (
    Memo(partial(_search_material, prose=prose), MEMO_SIZE) for prose in (True, False)
)


def _shows_editable(text: str) -> bool:
    if shown_files.shows_file(text) or is_code_or_config(text):
        return True
    return any(item.kind in FILE_KINDS for item in find_material(text, include_prose=False))


shows_editable = Memo(_shows_editable, MEMO_SIZE)  # True if a text shows code, configuration, or any file with a path


def exclude_overlaps(material: Sequence[Material], spans: Sequence[tuple[int, int]]) -> list[Material]:
    """Return the material that overlaps none of the spans; `spans` are in order, without overlaps."""
    starts = [start for start, _ in spans]
    result: list[Material] = []
    for item in material:
        count = bisect_left(starts, item.end)  # of the spans that begin before its end, only the last can overlap it
        if count == 0 or spans[count - 1][1] <= item.start:
            result.append(item)
    return result


def _find_blocks(text: str) -> list[Material]:
    """Find the outermost blocks; adjacent blocks are one piece of material that includes their tags."""
    runs: list[list[_Block]] = []
    for block in _iter_closed_blocks(text):
        if runs and not text[runs[-1][-1].end : block.start].strip():
            runs[-1].append(block)
        else:
            runs.append([block])
    return [
        Material("block", run[0].inner_start, run[0].inner_end)
        if len(run) == 1
        else Material("block", run[0].start, run[-1].end)
        for run in runs
    ]


class _Block(NamedTuple):
    start: int
    inner_start: int
    inner_end: int
    end: int


def _iter_closed_blocks(text: str) -> Iterator[_Block]:
    unclosed: set[str] = set()  # a name without a closing tag after some offset has none after a later one
    position = 0
    while (opening := _OPENING_TAG.search(text, position)) is not None:
        position = opening.end()
        name = opening[1].lower()
        # Not by `text.lower().find`: some characters grow in lower case, which would shift all later offsets.
        closing = None if name in unclosed else _CLOSING_TAGS[name].search(text, position)
        if closing is None:
            unclosed.add(name)
            continue
        yield _Block(opening.start(), position, closing.start(), closing.end())
        position = closing.end()


def find_fences(text: str) -> list[Material]:
    """Find the fenced blocks; of nested ones the outermost."""
    if "```" not in text and "~~~" not in text:
        return []
    material: list[Material] = []
    opening: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        if opening is None:
            opening = line
        elif line[1].startswith(opening[1]) and not line[2]:
            kind: MaterialKind = "code" if opening[2].lower() in CODE_LANGUAGES else "fence"
            material.append(Material(kind, opening.end(), line.start()))
            opening = None
    return material


def _find_numbered_chunks(text: str) -> list[Material]:
    """Find a run of chunks with rising numbers; the last one ends at the first blank line after it."""
    for pattern in (_BRACKETED_NUMBER, _LABELLED_NUMBER):
        chunks = list(pattern.finditer("\n" + text))
        if len(chunks) >= 2 and all(int(chunk[1]) < int(following[1]) for chunk, following in pairwise(chunks)):
            blank = _BLANK_LINE.search(text, chunks[-1].end())
            return [Material("numbered", chunks[0].start(), blank.start() if blank else len(text))]
    return []


def _find_pasted_text(text: str, *, prose: bool) -> list[Material]:
    """Find the text before, after or between short paragraphs, if it is data, or prose that `prose` admits."""
    paragraphs = _split_paragraphs(text)
    if len(paragraphs) < 2:
        return []
    first, last = (text[slice(*paragraphs[end])] for end in (0, -1))
    head, tail = _is_instruction(first), _is_instruction(last)
    start = paragraphs[1 if head else 0][0]
    end = paragraphs[-2 if tail else -1][1]
    if not (head or tail) or end <= start:
        return []
    # Prose is material only if a question is asked about it: a long prompt may consist of instructions.
    has_question = prose and ((head and "?" in first) or (tail and "?" in last))
    is_material = has_question or registry.find_compressor(text[start:end]).name in DATA_KINDS
    return [Material("pasted", start, end)] if is_material else []


def _split_paragraphs(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each paragraph, without leading white space."""
    blanks = [blank.span() for blank in _BLANK_LINE.finditer(text)]
    starts, ends = [0, *(end for _, end in blanks)], [*(start for start, _ in blanks), len(text)]
    spans = ((end - len(text[start:end].lstrip()), end) for start, end in zip(starts, ends, strict=True))
    return [(start, end) for start, end in spans if start < end]


def _is_instruction(paragraph: str) -> bool:
    return len(paragraph) <= MAX_INSTRUCTION_CHARACTERS and registry.find_compressor(paragraph).name not in DATA_KINDS
