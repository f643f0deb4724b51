"""Measure how fast extraction reads long texts of every content type.

    python -m clara_proxy.benchmarks.extract_speed [--data FOLDER] [--megabytes N] [--rounds N] [--ratio N]
        [--only NAME ...]

An input is real text, concatenated, or records of one form with different numbers and words. Prints the processor
seconds of the fastest round, the slowest inputs first, recognition included; ends with one JSON line.
"""

import argparse
import gc
import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

from ..compression import registry
from ..compression.compressor import Task
from ..compression.policy import compute_kind_target
from ..compression.tokens import get_token_counter
from .plant import WORDS, make_sentence

MEGABYTE = 1_000_000
CHARACTERS_PER_TOKEN = 4
FALLBACK_RATIO = 4  # of content that default settings keep whole
QUESTION = "Which of them failed, and what is the memory limit of the largest one?"
JSON_OBJECT = '{"id": {i}, "name": "{w}", "state": "done"}, '
RECORDS: dict[str, str] = {  # {i}: number, {w}: word, {h}: hash
    "TOML": '[[package]]\nname = "{w}-{i}"\nversion = "1.{i}.0"\nchecksum = "{h}{h}"\n\n',
    "INI": "[{w}-{i}]\nhost = {w}.example.com\nport = {i}\ntimeout = 30\n\n",
    "sqlite3 -line": "      id = {i}\ncustomer = {w}\n  status = paid\n  amount = 9{i}.5\n\n",
    "pprint": "[{'id': {i},\n  'name': '{w}',\n  'state': 'done',\n  'tags': ['{w}', '{w}']},\n",
    "npm ls": "├─┬ {w}@{i}.2.0\n│ ├── {w}@1.0.{i}\n│ └── {w}@2.{i}.0\n",
    "tree": "├── {w}\n│   ├── {w}_{i}.py\n│   └── {w}_{h}.py\n",
    "JSON values": '{"id": {i}, "name": "{w}", "state": "done"}\n{\n  "id": {i},\n  "owner": {"login": "{w}"}\n}\n',
    "truncated JSON": '{\n  "id": {i},\n  "name": "{w}",\n  "state": "done"\n},\n',
    "Kubernetes YAML": "---\nkind: Deployment\nmetadata:\n  name: {w}-{i}\nspec:\n  containers:\n  - name: app\n"
    "    env:\n    - name: LOG_LEVEL\n      value: info\n    resources:\n      limits:\n        memory: 3{i}Mi\n",
    "git status --porcelain": " M src/{w}/{w}_{i}.py\n?? {w}_{h}.txt\n",
    "git log": "commit {h}{h}{h}{h}\nAuthor: {w} <{w}@example.com>\nDate:   Mon Mar 5 10:00:00 2026\n\n"
    "    Change {w} of {w} {i}\n\n",
    "git log --oneline": "{h} Change {w} of {w} ({i})\n",
    "kubectl describe": "Name:         {w}-{i}\nNode:         node-{i}\nContainers:\n  app:\n    Image:  {w}:{i}\n"
    "    State:  Running\n    Restart Count:  0\n    Limits:\n      memory:  {i}Mi\n",
    "du": "{i}K\t./{w}/{w}_{i}\n",
    "ls -l": "-rw-r--r--  1 ann staff {i}77 Mar 12 10:01 {w}_{i}.py\n",
    "ls -R": "./{w}/{w}_{i}:\n{w}.py\n{w}_{i}.py\n{w}.txt\n\n",
    "find": "./{w}/{w}/{w}_{i}.py\n",
    "env": "{w}_{i}={w}\n",
    "short lines": "{h} {w}\n",
    "numbers": "{i} {i}7 {i}3\n",
    "CSV": "{i},{w},{w},{i}.50,paid\n",
    "aligned columns": "{i}       {w}         {w}      1/1    Running   {i}d\n",
    "ps aux": "root {i} 0.{i} 1.2 {i}8 {i}7 ? Ss Mar05 0:{i} /usr/bin/{w} --{w} {i}\n",
    "XML": '<testcase classname="{w}" name="test_{w}_{i}" time="0.{i}"/>\n',
    "one line of XML": '<testcase classname="{w}" name="test_{w}_{i}" time="0.{i}"/>',
    "HTML": "<div class='row'><p>The {w} of the {w} is {w} in the {w} number {i}.</p><a href='/{w}'>{w}</a></div>\n",
    "grep -n": "src/{w}/{w}_{i}.py:{i}:    value = {w}({w}, {i})\n",
    "grep -C": "src/{w}.py-{i}-    def {w}(self):\nsrc/{w}.py:{i}:        return {w}\n--\n",
    "app log": "2026-03-05 10:00:00,{i} INFO  worker-{i}: processed {w} {h} for {w} in {i} ms\n",
    "access log": '10.0.0.{i} - - [05/Mar/2026:10:00:00 +0000] "GET /{w}/{i} HTTP/1.1" 200 {i}77 "-" "curl/8.0"\n',
    "repeated errors": "2026-03-05 10:00:00 ERROR {w}: connection refused to {w} after {i} ms\n",
    "pytest -v": "tests/{w}/test_{w}.py::test_{w}_{i} PASSED  [ 50%]\n",
    "eslint": "/srv/src/{w}{i}.tsx\n   4:5  warning  Unexpected {w}  no-{w}\n  37:8  error    Missing {w}  hooks\n\n",
    "cargo": "warning: unused variable: `{w}`\n  --> src/{w}.rs:{i}:9\n   |\n{i} |     let {w} = 1;\n"
    "   |         ^^^ help\n\n",
    "diff": "diff --git a/{w}{i}.py b/{w}{i}.py\n--- a/{w}{i}.py\n+++ b/{w}{i}.py\n@@ -1,3 +1,3 @@ def {w}():\n"
    "     {w} = {i}\n-    return {w}\n+    return {w}({w})\n",
    "Python traces": 'Traceback (most recent call last):\n  File "/srv/{w}.py", line {i}, in {w}\n    {w}({i})\n'
    '  File "/srv/{w}.py", line 7, in {w}\n    raise ValueError({i})\nValueError: no {w} {h}\n\n',
    "Java traces": "java.lang.IllegalStateException: {w} {h}\n\tat com.acme.{w}.{w}({w}.java:{i})\n"
    "\tat com.acme.{w}.run({w}.java:12)\n\tat java.base/java.lang.Thread.run(Thread.java:840)\n",
    "code": "def {w}_{i}(self, {w}: int) -> str:\n    if {w} > {i}:\n        raise ValueError({w})\n"
    "    return {w}({i})\n\n",
    "terraform": '  # aws_{w}.{w}[{i}] will be updated in-place\n  ~ resource "aws_{w}" "{w}" {\n'
    '      ~ id = "{h}" -> "{i}"\n    }\n\n',
    "mails": "From: {w} <{w}@example.com>\nTo: team@example.com\nSubject: {w} {i}\n\nThe {w} is late. "
    "We moved {w} to the {w}.\n\n",
    "transcript": "{w}: I think that the {w} should come before the {w}. What about number {i}?\n"
    "Ann: Yes, the {w} too.\n",
}

HOSTILE: dict[str, Callable[[int], str]] = {  # one for each grammar whose time might grow faster than the text
    "hostile wordings": lambda size: repeat_record("- job {h}, {w}: looks fine to {h}; on with {w} after {i}.\n", size),
    "hostile query plans": lambda size: "".join(
        f"{' ' * (index % 199)}-> Scan{' (actual time=0.1..2.5 rows=1 loops=1)' * (index % 199 > 190)}\n"
        for index in range(size // 110)
    ),
    "hostile words": lambda size: "/error/errors /failed" * (size // 21),
    "hostile keys": lambda size: repeat_record(f"name-a.b.c_d-{'e' * 30}_{{h}} {'f' * 30}:x=\n  id = {{i}}\n", size),
    "hostile JSON keys": lambda size: (
        "[" + ", ".join(f'{{"k{index}": {{"a": {index}, "b": [{index}]}}}}' for index in range(size // 36)) + "]"
    ),
    "hostile headers": lambda size: "Name Id State Size\n" * (size // 19),
    "hostile columns": lambda size: repeat_record("Name Id State Size\n" + 4 * "{w} {i} {h} {i}\n" + "\n", size),
}


def repeat_record(record: str, size: int) -> str:
    """Return records of one form with different numbers, words and hashes."""
    rng = Random(2026)
    parts: list[str] = []
    written = 0
    for number in count():
        if written >= size:
            return "".join(parts)
        pieces = record.replace("{i}", str(number)).split("{")
        text = pieces[0]
        for piece in pieces[1:]:
            if piece.startswith("w}"):
                text += rng.choice(WORDS) + piece[2:]
            elif piece.startswith("h}"):
                text += f"{rng.getrandbits(40):010x}" + piece[2:]
            else:
                text += "{" + piece
        parts.append(text)
        written += len(text)
    return ""


def make_prose(size: int) -> str:
    """Return paragraphs of made sentences."""
    rng = Random(2026)
    sentences = [make_sentence(rng) + ("\n\n" if index % 6 == 5 else "") for index in range(size // 40)]
    return " ".join(sentences)[:size]


def read_items(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of a data file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def join_texts(file: Path, key: str, size: int, **wanted: str) -> str:
    """Return the texts of a data file one after another, again from the first one if they are too short."""
    texts = [item[key] for item in read_items(file) if all(item[name] == value for name, value in wanted.items())]
    joined = "\n".join(texts)
    return "\n".join([joined] * (size // len(joined) + 1))[:size]


def join_documents(file: Path, size: int) -> str:
    """Return numbered documents."""
    documents = [document for item in read_items(file) for document in item["documents"]]
    numbered = (
        f"Document [{number}](Title: {document['title']}) {document['text']}"
        for number, document in enumerate(documents, start=1)
    )
    return "\n".join(numbered)[:size]


def list_inputs(data: Path) -> dict[str, Callable[[int], str]]:
    """Return a function of the size in characters for each input."""
    inputs: dict[str, Callable[[int], str]] = {name: partial(repeat_record, record) for name, record in RECORDS.items()}
    inputs["made prose"] = make_prose
    inputs["JSON"] = lambda size: f"[{repeat_record(JSON_OBJECT, size)}1]"
    inputs |= HOSTILE
    if data.exists():
        inputs["prose"] = partial(join_texts, data / "documents.jsonl.gz", "text")
        inputs["paragraphs"] = partial(join_texts, data / "qa_short.jsonl.gz", "context")
        inputs["documents"] = partial(join_documents, data / "qa_multidoc.jsonl.gz")
        inputs["LogHub"] = partial(join_texts, data / "logs.jsonl.gz", "text")
        inputs["source files"] = partial(join_texts, data / "code.jsonl.gz", "text")
        outputs = data / "tool_outputs.jsonl.gz"
        for kind in sorted({item["kind"] for item in read_items(outputs)}):
            inputs[f"outputs: {kind}"] = partial(join_texts, outputs, "output", kind=kind)
    return inputs


def measure(text: str, rounds: int, ratio: float | None = None) -> tuple[str, float]:
    """Return the compressor of a text, and the processor seconds of the fastest round.

    Without a ratio, the size is that of a tool output with default settings.
    """
    counter = get_token_counter("gpt-4o")
    seconds: list[float] = []
    name = ""
    for _ in range(rounds):
        start = process_time()
        compressor = registry.find_compressor(text)
        tokens = len(text) // CHARACTERS_PER_TOKEN
        default = compute_kind_target(compressor.name, tokens) or tokens // FALLBACK_RATIO
        target = int(tokens / ratio) if ratio else default
        compressor.compress(Task(text, QUESTION, target, counter.count, fills_target=ratio is not None))
        seconds.append(process_time() - start)
        name = compressor.name
    return name, min(seconds)


def main() -> None:
    """Measure, and print the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ratio", type=float, help="instead of the default size")
    parser.add_argument("--only", nargs="*", help="only these inputs")
    arguments = parser.parse_args()
    measure("Load what the first text would load. It has words.", 1)
    gc.freeze()  # as `serve` does
    rows: dict[str, tuple[str, float]] = {}
    for name, make in list_inputs(arguments.data).items():
        if not arguments.only or name in arguments.only:
            rows[name] = measure(make(int(arguments.megabytes * MEGABYTE)), arguments.rounds, arguments.ratio)
    print(f"{'input':<24}{'compressor':<12}{'seconds':>8}{'MB/s':>7}")
    for name, (compressor, seconds) in sorted(rows.items(), key=lambda row: -row[1][1]):
        print(f"{name:<24}{compressor:<12}{seconds:>8.3f}{arguments.megabytes / seconds:>7.1f}")
    print(json.dumps({"benchmark": "extract_speed", **{name: round(row[1], 3) for name, row in rows.items()}}))


if __name__ == "__main__":
    main()
