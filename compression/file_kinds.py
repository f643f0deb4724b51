"""Recognises paths, and tells editable files from files that are only read.

Source, configuration and documentation are edited, and an edit needs their exact text. Logs, data, lock files, minified
and generated files are read for what they say; office documents are not text.
"""

import re
from functools import lru_cache
from typing import Literal

from . import registry
from .memo import Memo

FileKind = Literal["source", "data", "document", "unknown"]
MAX_PATH_CHARACTERS = 260
MEMO_SIZE = 20_000  # texts, and paths, remembered with their kind
DATA_CONTENT = frozenset({"json", "log", "table"})  # kinds of content that decide if the path does not
FILE_CONTENT = frozenset({"code", "lines", "prose"})  # kinds of content among which a layout may tell sources


def _list_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SOURCE_EXTENSIONS = _list_words(
    """
    adoc asm astro bash bat bazel bicep bzl c cc cfg cjs clj cljs cls cmake cmd conf config coffee cpp cr cs csproj
    css cue cxx d dart dockerfile dts ejs el elm env erb erl ex exs f90 fish fs fsx gd go gradle graphql groovy gql
    h haml handlebars hbs hcl hh hpp hrl hs htm html hxx ini ipynb j2 java jinja jl js json5 jsonc jsx kt kts less
    lisp lua m mak markdown md mdc mdx mjs mk ml mli mm mod mts nim nix njk pas php pl plist pm po pom prisma
    properties proto ps1 psm1 pug purs py pyi pyx qml r rake rb rego res rkt rs rst sass sbt scala scm scss service
    sh sln sol sql styl svelte swift tcl tex tf tfvars toml tpl ts tsx twig v vb vbs vhd vim vue wat wsdl xaml xml
    xsd xsl yaml yml zig zsh
    """
)
_SOURCE_NAMES = _list_words(
    """
    authors brewfile build buildfile caddyfile changelog codeowners contributing copying dockerfile gemfile
    gnumakefile jenkinsfile justfile license makefile news notice pipfile procfile rakefile readme security taskfile
    tiltfile todo vagrantfile version workspace requirements.txt cmakelists.txt robots.txt go.mod
    """
)
_DATA_EXTENSIONS = _list_words(
    """
    arrow avro bin cef csv dat db dump err gz har jsonl lock log map mbox ndjson npy out parquet pickle pkl geojson json
    snap sqlite sum tfstate trace trx tsv
    """
)
_DOCUMENT_EXTENSIONS = _list_words("doc docx epub odp ods odt pdf ppt pptx rtf xls xlsx")
_CONFIG_JSON = re.compile(
    r"(?:package|composer|manifest|bower|lerna|nx|turbo|vercel|deno|biome|angular|project|settings|launch|tasks|"
    r"extensions|devcontainer|renovate|components|pyrightconfig|firebase|app|cdk|global|"
    r"[tj]sconfig[\w.-]*|appsettings[\w.-]*|\..+|.*(?:rc|config|schema|\.?settings))\.json"
)
_LOCK_OR_GENERATED = re.compile(
    r"(?:package-lock|npm-shrinkwrap)\.json|pnpm-lock\.ya?ml|.*[.-]lock(?:\.\w+)?|.*\.lockb|go\.sum|"
    r".*[.-](?:min|bundle|chunk|generated|gen|designer|g)\.\w+|.*(?:_pb2(?:_grpc)?|_generated|\.pb)\.\w+|"
    r"(?:test-|junit|coverage|.*-results?).*\.xml|(?:sys|kern|mail|auth)log|messages|dmesg|(?:access|error)_log"
)
_VIRTUAL_FOLDERS = frozenset({"proc", "sys"})  # of the root: what a kernel reports
_BUILD_FOLDERS = frozenset({".next", "coverage", "dist", "log", "logs", "node_modules"})
_GENERATED_NOTE = re.compile(
    r"@generated\b|\bDO NOT (?:EDIT|MODIFY)\b|(?i:\bauto-?(?:matically )?generated (?:by|from)\b)"
)
_GENERATED_HEAD_CHARACTERS = 600
_MINIFIED_LINE_CHARACTERS = 2_000  # mean length of the lines of a minified file, at least

_COMMANDS = _list_words(
    """
    $ bash bun cargo cat cd cp deno diff docker dotnet eslint gcc git go grep head java jest kubectl less ls make mv
    mypy node npm npx perl php pip pnpm poetry pytest python python3 rg rm ruby ruff sed sh sudo tail terraform tsc uv
    vim vitest yarn
    """
)
_FUNCTION_WORDS = _list_words("an and are at for from has i in is it of on or output see that the this to with")
_EXTENSION = re.compile(r"[\w@$)\]-]\.([A-Za-z][\w-]{0,14})$")
_DOTFILE = re.compile(r"\.[A-Za-z][\w.-]{1,40}")
_LINE_SUFFIX = re.compile(r"(?:[:#](?:L?\d+(?:[-:,]L?\d+)*)|[ \t]*\((?:lines? )?[\d\s,-]+\))$")
_NO_PATH = re.compile(r"[\n<>|*?\"`]|://|\.\s|[,;!]\s")
# What stands around the path on a line of its own: `### File: src/a.py`, `**a.py**:`, `==> a.py <==`, `// a.py`.
_DECORATION = re.compile(
    r"^(?:[\s#>*`\"'=-]|//+\s|\d{1,3}[.)]\s|\+\+\+\s)*"
    r"(?:(?:contents? (?:of|from)|file ?(?:name|path)?|path)\s*:?\s+)?[@`\"'*\[(]*",
    re.IGNORECASE,
)
_TRAILING_DECORATION = re.compile(r"[\s`\"'*:=<)\]#-]+$|\s*\((?:read[ -]?only|new file|modified|untracked)\)\s*:?$")
_CONFIG_LINE = re.compile(r"\s*(?:[\w.\-/\"']+\s*[:=](?:\s|$|[\w\"'/\[{])|-\s|[#;]|\[[^\]\n]+\]\s*$|---\s*$|[}\])])")
_CONFIG_HEAD = re.compile(r"^(?:\[[\w.\-:\" ]+\]|[\w.-]+:\s*\n[ \t]+[\w\"-])", re.MULTILINE)
# A construct that a language needs, and what its lines look like.
_SOURCE_LAYOUTS = tuple(
    (re.compile(head, re.MULTILINE), re.compile(line))
    for head, line in (
        (  # blocks in braces
            r"^[ \t]*[^\s{][^\n]{0,200}[{;][ \t]*$",
            r".{0,2000}[{};,(][ \t]*$|\s*(?:[}\])#*]|//|/\*|--)|\s+[\w-]+\s?:\s?\S",
        ),
        (  # SQL
            r"(?i:^(?:create|alter|drop|insert\s+into|update|delete\s+from|select|with|grant)\s[^;]{1,2000};)",
            r"(?i:(?:create|alter|drop|insert|update|delete|select|with|grant|begin|commit|comment|set)\b)|\s+\S|\)|--|/\*",
        ),
        (r"^FROM \S+", r"[A-Z]{3,11}\s|\s+\S|#|[^\n]*\\$"),  # a Dockerfile
        (  # a makefile
            r"^[\w.%/$(){}-]+[^\n:=]{0,200}:[^\n]{0,400}\n\t",
            r"\t|#|[^\s:=]+[^\n:=]{0,200}[:?+]{0,2}[:=]|-?include |if|else|endif|define|endef",
        ),
        (r"^(?:export )?[A-Z][A-Z0-9_]*=", r"(?:export )?[A-Z][A-Z0-9_]*=|#"),  # `.env`
    )
)
_MARKDOWN_HEADING = re.compile(r"^#{1,6} \S", re.MULTILINE)
_MIN_CONFIG_LINES, _MIN_CONFIG_SHARE, _SAMPLE_LINES = 5, 0.9, 200


@lru_cache(maxsize=MEMO_SIZE)
def classify_path(path: str) -> FileKind:
    """Return the kind of file that a path names."""
    parts = _LINE_SUFFIX.sub("", path.strip("\"'` ")).lower().replace("\\", "/").split("/")
    name = parts[-1]
    if (
        _LOCK_OR_GENERATED.fullmatch(name)
        or not _BUILD_FOLDERS.isdisjoint(parts[:-1])
        or (parts[0] == "" and not _VIRTUAL_FOLDERS.isdisjoint(parts[1:2]))
    ):
        return "data"
    if name in _SOURCE_NAMES or _CONFIG_JSON.fullmatch(name):
        return "source"
    match = _EXTENSION.search(name)
    extension = match[1] if match else ""
    if extension in _DATA_EXTENSIONS or re.fullmatch(r".*\.log[.-]\d+.*", name):
        return "data"
    if extension in _DOCUMENT_EXTENSIONS:
        return "document"
    if extension in _SOURCE_EXTENSIONS or _DOTFILE.fullmatch(name) or name.partition(".")[0] in _SOURCE_NAMES:
        return "source"
    return "unknown"


def is_path(text: str) -> bool:
    """Return True if the text is the path of one file and nothing else."""
    text = _LINE_SUFFIX.sub("", text)
    if not 0 < len(text) <= MAX_PATH_CHARACTERS or _NO_PATH.search(text):
        return False
    name = re.split(r"[/\\]", text)[-1]
    if not name or (" " in text and (name == text or not _EXTENSION.search(name) or _is_command_or_sentence(text))):
        return False
    has_name = _EXTENSION.search(name) or _DOTFILE.fullmatch(name) or name.lower() in _SOURCE_NAMES - {"build", "news"}
    return bool(has_name) or text.startswith(("./", "../", "~/")) or (text[0] == "/" and text.count("/") > 1)


def _is_command_or_sentence(text: str) -> bool:
    words = text.lower().split()
    return words[0] in _COMMANDS or not _FUNCTION_WORDS.isdisjoint(words)


def parse_path_line(line: str) -> str | None:
    """Return the path if a line holds one and nothing else but its decoration, else None."""
    if len(line) > MAX_PATH_CHARACTERS + 40:
        return None
    path = line.strip()
    for _ in range(3):
        path = _TRAILING_DECORATION.sub("", path)
    for candidate in (path[len(match[0]) :] if (match := _DECORATION.match(path)) else path, path):
        if is_path(candidate):
            return candidate
    return None


def _is_generated(text: str) -> bool:
    """Return True if the text says that a program wrote it, or is minified."""
    if _GENERATED_NOTE.search(text, 0, _GENERATED_HEAD_CHARACTERS):
        return True
    line_count = text.count("\n") + text.count("\\n") + 1  # also of a text that is wrapped in JSON
    return len(text) > _MINIFIED_LINE_CHARACTERS * line_count


is_generated = Memo(_is_generated, MEMO_SIZE)


def is_editable_file(paths: tuple[str, ...], text: str) -> bool:
    """Return True if one of the files may be edited: by its path, else by its text."""
    kinds = set(map(classify_path, paths))
    if "source" in kinds:
        return not is_generated(text)
    if kinds and kinds <= {"data", "document"}:
        return False
    return registry.classify_content(text) not in DATA_CONTENT


def may_be_editable_file(text: str) -> bool:
    """Return True if the output of an unknown call looks like a file that may be edited."""
    kind = registry.classify_content(text)
    is_document = kind in ("html", "prose") or (kind == "lines" and len(_MARKDOWN_HEADING.findall(text, 0, 20_000)) > 1)
    return (is_document or is_code_or_config(text)) and not is_generated(text)


def _is_code_or_config(text: str) -> bool:
    kind = registry.classify_content(text)
    return kind == "code" or _is_config(text) or (kind in FILE_CONTENT and _is_source_layout(text))


def _is_source_layout(text: str) -> bool:
    """Return True if the text has the layout of a language in which most lines hold no keyword."""
    lines = [line for line in text[:20_000].split("\n") if line.strip()][:_SAMPLE_LINES]
    if len(lines) < _MIN_CONFIG_LINES:
        return False
    return any(
        head.search(text, 0, 20_000) is not None
        and sum(bool(line.match(sample)) for sample in lines) >= _MIN_CONFIG_SHARE * len(lines)
        for head, line in _SOURCE_LAYOUTS
    )


def _is_config(text: str) -> bool:
    lines = [line for line in text[:20_000].split("\n") if line.strip()][:_SAMPLE_LINES]
    if len(lines) < _MIN_CONFIG_LINES or not _CONFIG_HEAD.search(text, 0, 20_000):
        return False
    return sum(bool(_CONFIG_LINE.match(line)) for line in lines) >= _MIN_CONFIG_SHARE * len(lines)


is_code_or_config = Memo(_is_code_or_config, MEMO_SIZE)  # of a text without a path
