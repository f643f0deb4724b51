"""Make the table of static embeddings (`compression/embedding_table`) from all-MiniLM-L6-v2.

    python -m clara_proxy.benchmarks.embedding_table --qmsum FOLDER [--data ../shared/data] [--embeddings FILE]

Needs the extras `dev` (torch trains the table) and `semantic` (the model), and the training meetings of QMSum
(`data/ALL/train` of its repository). The texts are Wikipedia passages and questions (the first 240 questions over many
documents, shuffled), meetings, and lines from agents' runs; nothing that the benchmarks judge the table by. First every
token passes through the model alone, as in model2vec; then the mean of a text's tokens learns to point to the model's
embedding of the text, as in tokenlearn. `--embeddings` keeps the embeddings of the texts in a file; they take some
ten minutes.
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compression import embeddings
from ..compression.extract.core import semantic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..compression.embeddings import Floats

DIMENSIONS = 192
SIF = 1e-4  # weight of a token: SIF / (SIF + its probability by Zipf's law)
TRAINING_QUESTIONS = 240  # of 540, shuffled with SEED in groups of 60
SEED = 2026
BATCH_TEXTS = 256
LEARNING_RATE = 0.003
MAX_TEXT_TOKENS = 96
HELD_BACK = 20  # every such text tells how well the table does
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_LINE_END = re.compile(r"\n+|(?<=[.!?]) ")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a compressed file of one JSON object per line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def shuffle_questions(data: Path) -> list[dict[str, Any]]:
    """Return the questions over many documents; the first `TRAINING_QUESTIONS` are for training."""
    items = read_json_lines(data / "qa_multidoc.jsonl.gz")
    Random(SEED).shuffle(items)
    return items


def read_texts(data: Path, qmsum: Path) -> list[str]:
    """Return the training texts: 18,000 of Wikipedia at most, 12,000 of meetings, 10,000 of agents."""
    random = Random(3)
    texts: list[str] = []
    for source, count in (
        (_iter_wikipedia(data), 18_000),
        (_iter_meetings(qmsum), 12_000),
        (_iter_agents(data), 10_000),
    ):
        unique = list(dict.fromkeys(source))
        random.shuffle(unique)
        texts += unique[:count]
    random.shuffle(texts)
    return texts


def _iter_wikipedia(data: Path) -> Iterator[str]:
    items = shuffle_questions(data)[:TRAINING_QUESTIONS]
    for first in range(0, len(items), 60):
        group = items[first : first + 60]
        documents = dict.fromkeys(
            (document["title"], document["text"]) for item in group for document in item["documents"]
        )
        for title, text in documents:
            passage = f"{title}. {text}"
            yield from (sentence for sentence in _SENTENCE_END.split(passage) if 30 < len(sentence) < 400)
            yield passage[:500]
        yield from (item["question"] for item in group)


def _iter_meetings(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.json")):
        meeting = json.loads(path.read_text(encoding="utf-8"))
        turns = (f"{turn['speaker']}: {turn['content']}" for turn in meeting["meeting_transcripts"])
        yield from (turn[:400] for turn in turns if len(turn) > 60)
        queries = meeting["specific_query_list"]
        yield from (query["query"] for query in queries)
        yield from (query["answer"][:400] for query in queries)


def _iter_agents(data: Path) -> Iterator[str]:
    for run in read_json_lines(data / "trajectories.jsonl.gz"):
        for message in run["messages"]:
            content: Any = message.get("content") or ""
            if not isinstance(content, str):
                content = " ".join(part.get("text", "") for part in content)
            for line in _LINE_END.split(content):
                if 30 < len(line) < 300 and len(re.findall("[A-Za-z]{2,}", line)) > 5:
                    yield line


def embed_ids(model: semantic.SentenceEncoder, ids: Sequence[Sequence[int]]) -> "Floats":
    """Return the model's embeddings of lists of token ids, (lists, width)."""
    rows: list[Floats] = []
    for row in ids:
        array = np.array([row], np.int64)
        inputs = {"input_ids": array, "attention_mask": np.ones_like(array), "token_type_ids": np.zeros_like(array)}
        rows.append(model.session.run(None, inputs)[0][0].mean(axis=0))
    return np.stack(rows)


def _find_tokens(text: str) -> list[int]:
    """Return the tokens of all words of a text, stop words included."""
    words = re.findall(r"[^\W_]+", text.lower())
    return [token for word in words for token in embeddings.cut_word(embeddings.fold(word))]


def fit_table(tokens: "Floats", texts: Sequence[Sequence[int]], targets: "Floats") -> "Floats":
    """Fit token vectors to the embeddings of texts by one pass of Adam; (tokens, `DIMENSIONS`)."""
    import torch  # noqa: PLC0415

    torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
    targets = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    targets = targets - targets.mean(axis=0)
    components = np.linalg.svd(targets, full_matrices=False)[2][:DIMENSIONS].T
    probabilities = 1 / np.arange(2, len(tokens) + 2)
    probabilities /= probabilities.sum()
    start = ((tokens - tokens.mean(axis=0)) @ components) * (SIF / (SIF + probabilities))[:, None]
    start /= np.linalg.norm(start, axis=1).mean()
    table = torch.nn.EmbeddingBag(len(start), DIMENSIONS, mode="mean", _weight=torch.tensor(start, dtype=torch.float32))
    optimizer = torch.optim.Adam(table.parameters(), lr=LEARNING_RATE)
    goals = torch.nn.functional.normalize(torch.tensor(targets @ components, dtype=torch.float32), dim=1)

    def compare(indices: "NDArray[np.int64]") -> torch.Tensor:
        lists = [texts[int(index)] for index in indices.tolist()]
        offsets = torch.tensor(np.cumsum([0, *map(len, lists[:-1])]))
        means = table(torch.tensor([token for row in lists for token in row]), offsets)
        similarity: torch.Tensor = torch.nn.functional.cosine_similarity(means, goals[indices]).mean()
        return similarity

    held_back = np.arange(0, len(texts), HELD_BACK)
    order = np.setdiff1d(np.arange(len(texts)), held_back)
    np.random.default_rng(0).shuffle(order)
    for first in range(0, len(order), BATCH_TEXTS):
        loss = 1 - compare(order[first : first + BATCH_TEXTS])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    with torch.inference_mode():
        print(json.dumps({"benchmark": "embedding_table", "held_back_cosine": round(compare(held_back).item(), 4)}))
    fitted: Floats = table.weight.detach().numpy()
    return fitted


def write_table(vectors: "Floats", folder: Path) -> None:
    """Write rows and scales; special tokens get zeros."""
    special = [index for token, index in embeddings.load_vocabulary().items() if re.fullmatch(r"\[[\w ]+\]", token)]
    vectors = vectors.copy()
    vectors[special] = 0.0
    scales = np.maximum(np.abs(vectors).max(axis=1, keepdims=True) / 127, embeddings.EPSILON).astype(np.float32)
    rows: Floats = np.rint(vectors / scales)
    np.save(folder / "rows.npy", rows.astype(np.int8))
    np.save(folder / "scales.npy", scales)


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description="Make the table of static embeddings.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--qmsum", type=Path, required=True, help="folder with the training meetings of QMSum")
    parser.add_argument("--embeddings", type=Path, help="file that keeps the embeddings of the texts")
    parser.add_argument("--output", type=Path, default=embeddings.FOLDER)
    arguments = parser.parse_args()
    model = semantic.load_installed_model()
    if model is None:
        parser.error("the extra `semantic` is not installed")
    texts = read_texts(arguments.data, arguments.qmsum)
    if arguments.embeddings is not None and arguments.embeddings.exists():
        targets: Floats = np.load(arguments.embeddings)
    else:
        targets = embed_ids(model, [semantic.tokenize(text, MAX_TEXT_TOKENS) for text in texts])
        if arguments.embeddings is not None:
            np.save(arguments.embeddings, targets)
    tokens = embed_ids(
        model, [[semantic.START, index, semantic.END] for index in range(len(embeddings.load_table().rows))]
    )
    ids = [_find_tokens(text) or [semantic.UNKNOWN] for text in texts]
    write_table(fit_table(tokens, ids, targets), arguments.output)


if __name__ == "__main__":
    main()
