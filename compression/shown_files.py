"""Finds the files that a text shows: a path beside a fence, a tag or a rule.

Clients without tools of their own show files in their messages and edit what they see: aider, Cline, Continue, repomix
and people. What looks like a file must not be mistaken for material that may be shortened.
"""

import re
from collections.abc import Iterator
from typing import Literal

from . import registry
from .file_kinds import classify_path, is_code_or_config, is_path, parse_path_line
from .memo import Memo

ShownKind = Literal["code", "file", "retrieved"]
HEAD_CHARACTERS = 700  # characters before a piece of material that may name its file
_NAME = r"(?:path|file|name|file_?name|file_?path|relative_?path|document_path|src|source|title|uri|id)"
_TAG_PATH = re.compile(rf"<[\w:-]{{1,60}}(?=\s)[^<>\n]{{0,400}}?\s{_NAME}=[\"']([^\"'\n]{{1,260}})[\"']", re.IGNORECASE)
_CHILD_PATH = re.compile(rf"<{_NAME}>\s{{0,20}}([^<\n]{{1,260}})</", re.IGNORECASE)
# A line before a fence, a tag, a rule or an outline, or between rules.
_LINE_BEFORE_FILE = re.compile(
    r"^([^\n]{1,300})\n(?:[ \t\r]*\n)?(?=[ \t]*(?:```|~~~|<[a-z]|[⋮│]|={4}|-{4}))", re.MULTILINE
)
_RULED_PATH = re.compile(
    r"^(?:---|===|==>|#{1,6} (?:file|path):?) ([^\n]{1,260}?)(?: (?:---|===|<==))?[ \t\r]*$", re.M | re.I
)
_INFO_SEPARATOR = re.compile(r"[\s:=\"'(){},`~]+")
_MENTIONED_PATH = re.compile(r"(?<=`)[^`\s]{1,200}(?=`)|[\w@.+\\/-]*\w\.[A-Za-z]\w{0,9}\b")
_SHOWS_FILE = re.compile(
    r"\b(?:file|contents?|code|source|script|module|config\w*|edit|change|update|fix|here)\b", re.I
)
_SHOWS_OUTPUT = re.compile(
    r"\b(?:runs?|running|ran|outputs?|errors?|logs?|trace\w*|results?|fail\w*|prints?|says|gives|got|gets?)\b",
    re.IGNORECASE,
)


# Tags, labels and fields of documents that a search has found; a file to edit stands in none of them.
_RETRIEVAL_TAG = re.compile(
    r"<(?:document|doc|chunk|passage|context|source|article|excerpt|reference|page|knowledge|snippet|(?:search_)?result)s?"
    r"[\s>]",
    re.IGNORECASE,
)
_RETRIEVAL_LABEL = re.compile(
    r"^\[\d{1,3}\]|^\W{0,4}(?:source|document|reference|citation|title|url|metadata)s?\W{0,4}:", re.M | re.I
)
_RETRIEVAL_FIELD = re.compile(
    r"\b(?:score|relevance|similarity|distance|rank|chunk(?:_?id)?|doc(?:ument)?_?id|page(?:_label|_number)?)[\"']?"
    r"\s?[:=]\s?[\"']?[\w.-]",
    re.IGNORECASE,
)
_DOCUMENTATION = re.compile(r"\.(?:adoc|html?|markdown|mdx?|rst|tex|txt)$", re.IGNORECASE)
_PROSE_KINDS = frozenset({"documents", "html", "lines", "prose"})
_READING_REQUEST = re.compile(
    r"\?|\b(?:answers?|cite|compare|describe|explain|extract|find|list|question|query|quote|summar\w+|tell me)\b", re.I
)
_EDIT_REQUEST = re.compile(
    r"(?:^\W{0,4}|[.!?:;]\s+|\b(?:please|can you|could you|would you|must|should|and|then)\s+(?:only\s+)?)"
    r"(?:add|adjust|amend|append|apply|change|convert|correct|delete|edit|expand|fill|fix|format|implement|improve|insert"
    r"|make|mend|modify|move|patch|polish|proofread|refactor|remove|rename|reorder|rephrase|replace|revise|rewrite|shorten"
    r"|simplify|translate|turn|update|write)\b",
    re.IGNORECASE | re.MULTILINE,
)


def classify_shown(text: str, start: int, end: int) -> ShownKind | None:
    """Return what `text[start:end]` shows.

    `code` is an editable file, `file` another one, `retrieved` documents that are read to answer a question; None is
    anything else.
    """
    head, content = text[max(0, start - HEAD_CHARACTERS) : start], text[start:end]
    paths = [path for path in (*_iter_head_paths(head), *_iter_paths(content)) if classify_path(path) != "document"]
    if is_code_or_config(content):
        return "code"
    if paths and _is_retrieved(text, start, end, paths):
        return "retrieved"
    if any(classify_path(path) == "source" for path in paths):
        return "code"
    return "file" if paths else None


def _is_retrieved(text: str, start: int, end: int, paths: list[str]) -> bool:
    """Return True if documentation with marks of a search stands beside a question without a request to edit."""
    if not all(_DOCUMENTATION.search(path) for path in paths):
        return False
    content = text[start:end]
    opening = text[max(0, start - HEAD_CHARACTERS) : start].rstrip().rsplit("\n", 1)[-1]
    shown = f"{opening}\n{content}"
    if not any(pattern.search(shown) for pattern in (_RETRIEVAL_TAG, _RETRIEVAL_LABEL, _RETRIEVAL_FIELD)):
        return False
    instruction = f"{text[:start]}\n{text[end:]}"
    if _EDIT_REQUEST.search(instruction) or not _READING_REQUEST.search(instruction):
        return False
    return registry.classify_content(content) in _PROSE_KINDS


def ends_with_path(text: str) -> bool:
    """Return True if the last line of a text names the file that follows."""
    return parse_path_line(text.rstrip()[-300:].rsplit("\n", 1)[-1]) is not None


def _shows_file(text: str) -> bool:
    return any(classify_path(path) != "document" for path in _iter_paths(text))


shows_file = Memo(_shows_file, 20_000)  # anywhere in a text


def _iter_head_paths(head: str) -> Iterator[str]:
    """Yield the paths in what precedes a file: the fence or the tag that opens it, and the line before that."""
    lines = [line for line in head.split("\n") if line.strip()][-2:]
    for line in lines[-1:]:
        if line.lstrip().startswith(("```", "~~~")):
            yield from filter(is_path, _INFO_SEPARATOR.split(line))
        yield from filter(is_path, (match[1] for match in _TAG_PATH.finditer(line)))
    for line in lines:
        path = parse_path_line(line)
        if path is not None:
            yield path
        elif line.rstrip().endswith(":") and _SHOWS_FILE.search(line) and not _SHOWS_OUTPUT.search(line):
            yield from (word for word in _MENTIONED_PATH.findall(line[:300]) if classify_path(word) == "source")


def _iter_paths(content: str) -> Iterator[str]:
    """Yield the paths of the files in a text, and the path in its first line."""
    first_line, second_line = [*content.lstrip()[:600].split("\n"), ""][:2]
    path = parse_path_line(first_line)
    if path is not None and parse_path_line(second_line) is None:
        yield path
    for match in _LINE_BEFORE_FILE.finditer(content):
        path = parse_path_line(match[1])
        line_before = content[max(0, match.start() - 300) : max(0, match.start() - 1)].rsplit("\n", 1)[-1]
        if path is not None and parse_path_line(line_before) is None:  # otherwise the last line of a listing
            yield path
    for pattern in (_TAG_PATH, _CHILD_PATH, _RULED_PATH):
        yield from filter(is_path, (match[1].strip() for match in pattern.finditer(content)))
