"""Reads the golden cases: requests to the reference, with its results."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clara_proxy.compression.clara.jobs import JobKind, ModelJob
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.tests.compression.clara.conftest import GOLDEN, REFERENCE_COMPAT, find_special_tokens

FILES = sorted((GOLDEN / "golden").glob("*.json")) or [GOLDEN / "golden" / "absent.json"]

Arrays = dict[str, Any]


class Case(NamedTuple):
    record: dict[str, Any]
    arrays: Arrays

    @property
    def questions(self) -> list[str]:
        return self.record.get("questions") or []

    @property
    def groups(self) -> list[list[str]]:
        """Return the documents of each question."""
        documents: list[Any] = self.record["documents"]
        if documents and not isinstance(documents[0], str):
            return documents
        count = len(self.questions) or 1
        size = len(documents) // count
        return [documents[index * size : (index + 1) * size] for index in range(count)]

    @property
    def texts(self) -> list[str]:
        return [text for group in self.groups for text in group]

    @property
    def tokens(self) -> list[list[int]]:
        """Return the ids of the answers; the reference's end with 2 and are padded with 1."""
        rows: list[list[int]] = self.arrays["new_token_ids"].tolist()
        return [row[: row.index(2)] if 2 in row else row for row in rows]

    def list_embeddings(self) -> list[tuple[str, Any]]:
        """Return the texts that the reference reads whole, each with the mean of its latents scaled to length 1."""
        if "latents" not in self.arrays:
            return []
        means = self.arrays["latents"].mean(axis=1)
        vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        rows = unpadded(self.arrays["enc_input_ids"], self.arrays["enc_attention_mask"])
        triples = zip(self.texts, vectors, rows, strict=True)
        return [
            (text, vector) for text, vector, row in triples if self._is_whole(row) and not find_special_tokens(text)
        ]

    def is_lossless(self) -> bool:
        """Return True if the reference answers, with all adapters, and loses nothing of the texts."""
        if "reference_raises" in self.record or "latents" not in self.arrays or self.compat.skip_decoder_adapter:
            return False
        rows = unpadded(self.arrays["enc_input_ids"], self.arrays["enc_attention_mask"])
        if "query_input_ids" in self.arrays:
            rows += unpadded(self.arrays["query_input_ids"], self.arrays["query_attention_mask"])
        is_plain = not any(find_special_tokens(text) for text in [*self.texts, *self.questions])
        return is_plain and all(map(self._is_whole, rows))

    def _is_whole(self, row: list[int]) -> bool:
        memories: int = self.arrays["latents"].shape[1]
        return row[-memories - 1] == 2  # the end token precedes the memory tokens

    def make_jobs(self) -> list[ModelJob]:
        """Return a job for each question, or each paraphrase."""
        limit = self.record["max_new_tokens"]
        match self.record["op"]:
            case "compress_documents":
                return []
            case "generate_from_paraphrase":
                pairs = zip(self.groups, self.record["template_indices"], strict=True)
                return [ModelJob("paraphrase", group, template=index, max_new_tokens=limit) for group, index in pairs]
            case operation:
                kind: JobKind = "answer" if operation == "generate_from_questions" else "generate"
                k = self.record.get("k") if kind == "answer" else None
                pairs = zip(self.groups, self.questions, strict=True)
                return [ModelJob(kind, group, question, k, max_new_tokens=limit) for group, question in pairs]

    @property
    def compat(self) -> Compat:
        """Return the options that match the reference's behaviour for this checkpoint."""
        is_bare = "Instruct" in self.record["checkpoint"] and not self.record["load_kwargs"].get("pure_inference")
        return dataclasses.replace(REFERENCE_COMPAT, skip_decoder_adapter=is_bare)


def read_cases(path: Path) -> list[Case]:
    content: Any = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if "case" in content:
        return [Case(content, arrays)]
    return [
        Case(record, {name[4:]: array for name, array in arrays.items() if name.startswith(f"t{index:02d}_")})
        for index, record in enumerate(content)
    ]


def unpadded(ids: Any, mask: Any) -> list[list[int]]:
    return [
        [int(token) for token, is_valid in zip(*row, strict=True) if is_valid] for row in zip(ids, mask, strict=True)
    ]
