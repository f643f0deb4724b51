"""Reads the evaluation data as passages with a question and the literals that should survive."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A passage, its question, and the literals that should survive, by kind of literal."""

    data: str
    text: str
    question: str
    answers: dict[str, list[str]]
    kind: str = ""

    def list_row_names(self, literal_kind: str) -> list[str]:
        """Return the names of the table rows that count this kind of literal."""
        return [f"{self.data}:{literal_kind}", f"{self.data}:{literal_kind}:{self.kind}"] if self.kind else [self.data]


def read_cases(folder: Path, limit: int | None) -> Iterator[Case]:
    """Yield every passage with at least one literal."""
    for data, read in READERS.items():
        with gzip.open(folder / f"{data}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                if limit is not None and number >= limit:
                    break
                for case in read(json.loads(line)):
                    yield case._replace(data=data)


def count_survivors(literals: list[str], literal_kind: str, output: str) -> tuple[int, int]:
    """Return the number of literals in an output and the number expected; of the kind `any`, one is enough."""
    survived = [literal in output for literal in literals]
    return (int(any(survived)), 1) if literal_kind == "any" else (sum(survived), len(survived))


def _read_questions(item: dict[str, Any]) -> Iterator[Case]:
    for question in item["questions"]:
        yield Case("", item["text"], question["question"], {"answers": [question["answer"]]})


def _read_code(item: dict[str, Any]) -> Iterator[Case]:
    for question in (item, *item["extra_questions"]):
        yield Case("", item["text"], question["question"], {"answers": [question["answer"]]})


def _read_qa_short(item: dict[str, Any]) -> Iterator[Case]:
    yield Case("", item["context"], item["question"], {"any": item["answers"]})


def _read_qa_multidoc(item: dict[str, Any]) -> Iterator[Case]:
    if item["answers_verbatim"]:
        text = "\n".join(
            f"Document [{number}](Title: {document['title']}) {document['text']}"
            for number, document in enumerate(item["documents"], start=1)
        )
        yield Case("", text, item["question"], {"any": item["answers_verbatim"]})


def _read_tool_output(item: dict[str, Any]) -> Iterator[Case]:
    answers: dict[str, list[str]] = {"used_spans": item["used_spans"], "signal_lines": item.get("signal_lines") or []}
    if any(answers.values()):
        yield Case("", item["output"], f"{item['query']}\n{item['command']}", answers, item["kind"])


READERS: dict[str, Callable[[dict[str, Any]], Iterator[Case]]] = {
    "qa_short": _read_qa_short,
    "qa_multidoc": _read_qa_multidoc,
    "logs": _read_questions,
    "json_api": _read_questions,
    "code": _read_code,
    "documents": _read_questions,
    "tool_outputs": _read_tool_output,
}
