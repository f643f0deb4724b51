"""Compare the speed of the local CLaRa engine with a plain implementation, on random weights.

    python -m clara_proxy.benchmarks.clara [--rounds 3]

The plain implementation works like the reference: it pads every row to the limit, computes the logits of every
position, and runs one request at a time. It uses the same layers, so only the batching differs. Both take turns in one
process, and their results are compared. In a small model the vocabulary has a larger share of the work, so skipping
logits saves more than in a large one. `clara_gpu` measures one GPU. The last line is JSON.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from torch.nn import functional

from ..compression.clara import prompts
from ..compression.clara.adapted_layers import pack_adapter
from ..compression.clara.base_weights import BaseWeights, DecoderLayer
from ..compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from ..compression.clara.checkpoint_config import CheckpointConfig, WeightFormat
from ..compression.clara.clara import Clara, Reply
from ..compression.clara.decoder_config import DecoderConfig
from ..compression.clara.jobs import ModelJob
from ..compression.clara.linear_layers import Linear, pack_rows
from ..compression.clara.lora import INPUT_GROUPS, TARGET_MODULES, Adapter, LoraPair
from ..compression.clara.model import ClaraModel
from ..compression.clara.model_source import LoadedModel
from ..compression.clara.prompt_layout import plan_prompt
from ..compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec
from ..compression.clara.weight_quantization import make_linear
from ..compression.clara.worker import Worker
from ..compression.models import resources
from ..compression.models.worker import WorkerLimits

Result = TypeVar("Result")
MAX_DOCUMENT_TOKENS, MEMORY_TOKENS, RANK = 256, 16, 16
VOCABULARY_WORDS = 4000
SHAPES = {
    #            hidden layers heads kv dim inter vocabulary
    "tiny": DecoderConfig(128, 4, 4, 2, 32, 352, 32000, 1e-5, 1e6, 32768, ()),
    "small": DecoderConfig(512, 8, 8, 2, 64, 1792, 32000, 1e-5, 1e6, 32768, ()),
    "7b": DecoderConfig(4096, 32, 32, 8, 128, 14336, 32000, 1e-5, 1e6, 32768, ()),
}  # no end tokens, so that every answer has the full length


class Workload(NamedTuple):
    """The timed work: texts to compress, and requests (a question and its documents) answered in `new_tokens`."""

    texts: list[str]
    requests: list[tuple[str, list[str]]]
    new_tokens: int


class RoundTimes(NamedTuple):
    """Seconds of one round, the largest difference of memories, and the share of equal answers."""

    plain_encode: float
    encode: float
    plain_generate: float
    generate: float
    max_difference: float
    same_answer_share: float


def create_random_clara(
    shape: DecoderConfig, device: str = "cpu", dtype: torch.dtype = torch.float32, bits: WeightFormat | None = None
) -> Clara:
    """Return a `Clara` of this shape with random weights."""
    torch.manual_seed(1)  # pyright: ignore[reportUnknownMemberType]
    make = partial(_create_random_tensor, device=device, dtype=dtype)
    rows = shape.vocabulary_size + MEMORY_TOKENS + 3
    layers = tuple(
        DecoderLayer(
            make(shape.hidden_size) + 1,
            make(shape.hidden_size) + 1,
            _create_linears(make, shape, bits),
        )
        for _ in range(shape.layer_count)
    )
    base = BaseWeights(shape, layers, make(shape.hidden_size) + 1, torch.device(device), dtype, lambda: make(1, 1))
    adapters = {name: _create_adapter(make, shape) for name in (ENCODER_ADAPTER, DECODER_ADAPTER, QUERY_ADAPTER)}
    model = ClaraModel(
        base, make(rows, shape.hidden_size), make(rows, shape.hidden_size), adapters, 2048 if device == "cpu" else 8192
    )
    config = CheckpointConfig(
        max_document_tokens=MAX_DOCUMENT_TOKENS,
        memory_tokens=MEMORY_TOKENS,
        compression_rate=MAX_DOCUMENT_TOKENS // MEMORY_TOKENS,
        has_distinct_memory_tokens=True,
        top_k=5,
        training_stage="stage2",
        has_lora=True,
        lora_rank=RANK,
        has_kbtc_token=False,
        weight_format=None,
        raw={},
    )
    return Clara(LoadedModel(model, _create_vocabulary(), config, "random"))


def _create_random_tensor(*size: int, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(*size, device=device, dtype=dtype) * 0.02


def _create_linears(make: Callable[..., Tensor], shape: DecoderConfig, bits: WeightFormat | None) -> dict[str, Linear]:
    linears: dict[str, Linear] = {}
    for modules in INPUT_GROUPS:
        weights = pack_rows([make(*shape.linear_shape(name)) for name in modules])
        linears |= {name: make_linear(weight, bits) for name, weight in zip(modules, weights, strict=True)}
    return linears


def _create_adapter(make: Callable[..., Tensor], shape: DecoderConfig) -> Adapter:
    def create_pair(out_features: int, in_features: int) -> LoraPair:
        return LoraPair(make(RANK, in_features), make(out_features, RANK))

    layers = range(shape.layer_count)
    return pack_adapter(
        tuple({name: create_pair(*shape.linear_shape(name)) for name in TARGET_MODULES} for _ in layers)
    )


def _create_vocabulary() -> ClaraTokenizer:
    """Return a tokenizer with one token per word, so that prompts have about their real length."""
    names = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(VOCABULARY_WORDS))]
    tokenizer: Any = Tokenizer(WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(names[:3])
    return ClaraTokenizer(tokenizer.to_str(), MemoryTokenSpec(MEMORY_TOKENS))


def make_text(size: int, rng: random.Random) -> str:
    """Return random words, one token each."""
    return " ".join(f"w{rng.randrange(VOCABULARY_WORDS)}" for _ in range(size))


def make_texts(count: int, rng: random.Random) -> list[str]:
    """Return texts of the size of agents' memories: nine of ten have 8 to 60 tokens, the others up to 250."""
    sizes = [rng.randint(8, 60) if rng.random() < 0.9 else rng.randint(61, 250) for _ in range(count)]
    return [make_text(size, rng) for size in sizes]


def make_workload(documents: int, requests: int, new_tokens: int, documents_per_request: int = 2) -> Workload:
    """Return a workload of the given size. Equal arguments give equal workloads."""
    rng = random.Random(7)
    pairs = [(make_texts(1, rng)[0][:60], make_texts(documents_per_request, rng)) for _ in range(requests)]
    return Workload(make_texts(documents, rng), pairs, new_tokens)


def encode_plain(clara: Clara, documents: Sequence[str]) -> Tensor:
    """Return the memories [documents, M, H], computed with all rows padded to the limit and with unused logits.

    The padding is at the end of a row, out of reach of causal attention. The reference pads the front and masks it, at
    the same or a higher cost.
    """
    row_length = MAX_DOCUMENT_TOKENS + 3 + MEMORY_TOKENS
    rows = [
        clara.tokenizer.build_encoder_row(clara.tokenizer.encode(document), MAX_DOCUMENT_TOKENS + 3)
        for document in documents
    ]
    padded_rows = [row + [1] * (row_length - len(row)) for row in rows]
    states = clara.model.encode(padded_rows, row_length, ENCODER_ADAPTER)
    functional.linear(states, clara.model.head).float()
    return torch.stack([state[len(row) - MEMORY_TOKENS : len(row)] for state, row in zip(states, rows, strict=True)])


def answer_plain(clara: Clara, question: str, documents: Sequence[str], new_tokens: int) -> list[int]:
    """Return the tokens of one answer: encode the documents in one padded batch, and decode token by token."""
    memories = encode_plain(clara, documents)
    plan = plan_prompt(prompts.answer_prompt(question), range(len(documents)), range, clara.tokenizer, clara.compat)
    logits, cache = clara.model.prefill(
        [clara.model.embed_prompt(plan.ids, plan.slot_positions, memories)], DECODER_ADAPTER
    )
    tokens = [int(logits[0].argmax())]
    while len(tokens) < new_tokens:
        tokens.append(int(clara.model.step(tokens[-1:], cache, DECODER_ADAPTER)[0].argmax()))
    return tokens


def answer_batched(worker: Worker, workload: Workload) -> list[list[int]]:
    """Return the tokens of all answers; the worker receives all requests at once."""
    jobs = [
        ModelJob("generate", documents, question, max_new_tokens=workload.new_tokens)
        for question, documents in workload.requests
    ]
    futures = [worker.submit(job) for job in jobs]
    replies: list[Reply] = [future.result(300) for future in futures]
    return [list(reply.tokens) for reply in replies]


def measure_time(run: Callable[[], Result]) -> tuple[float, Result]:
    """Return the duration of a call in seconds, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def run_round(clara: Clara, worker: Worker, workload: Workload) -> RoundTimes:
    """Compress the texts and answer the requests, with both implementations."""
    plain_encode, memories = measure_time(lambda: torch.cat([encode_plain(clara, [text]) for text in workload.texts]))
    encode, latents = measure_time(lambda: clara.compress(workload.texts))
    plain_generate, plain_answers = measure_time(
        lambda: [answer_plain(clara, *request, workload.new_tokens) for request in workload.requests]
    )
    generate, answers = measure_time(lambda: answer_batched(worker, workload))
    difference = float((memories - latents.vectors).abs().max())
    same_answers = sum(plain == batched for plain, batched in zip(plain_answers, answers, strict=True))
    return RoundTimes(plain_encode, encode, plain_generate, generate, difference, same_answers / len(answers))


def compare_with_plain(name: str, workload: Workload, rounds: int) -> dict[str, Any]:
    """Return the medians of both implementations over the rounds; ratios are medians of the rounds' ratios."""
    clara = create_random_clara(SHAPES[name])
    worker = Worker(lambda: clara)
    run_round(clara, worker, Workload(workload.texts[:2], workload.requests[:2], 2))  # warm-up
    results = [run_round(clara, worker, workload) for _ in range(rounds)]
    worker.close()
    documents, tokens = len(workload.texts), len(workload.requests) * workload.new_tokens
    return {
        "documents": documents,
        "text_tokens": sum(len(text.split()) for text in workload.texts),
        "fewer_positions": _compute_positions_ratio(workload.texts),
        "plain_documents_s": documents / median(times.plain_encode for times in results),
        "documents_s": documents / median(times.encode for times in results),
        "encode_ratio": median(times.plain_encode / times.encode for times in results),
        "requests": len(workload.requests),
        "plain_tokens_s": tokens / median(times.plain_generate for times in results),
        "tokens_s": tokens / median(times.generate for times in results),
        "generate_ratio": median(times.plain_generate / times.generate for times in results),
        "memories_apart": max(times.max_difference for times in results),
        "answers_alike": min(times.same_answer_share for times in results),
    }


def _compute_positions_ratio(documents: Sequence[str]) -> float:
    """Return the padded positions divided by the positions without padding, the gain of leaving out the padding."""
    positions = sum(min(len(text.split()), MAX_DOCUMENT_TOKENS) + 3 + MEMORY_TOKENS for text in documents)
    return len(documents) * (MAX_DOCUMENT_TOKENS + 3 + MEMORY_TOKENS) / positions


def _read_resident_mib() -> float | None:
    resident = resources.resident_bytes()
    return None if resident is None else resident / 2**20


def measure_unloading() -> dict[str, float | None]:
    """Return the resident MiB before a worker loads a model, after its first answer, and after it unloads when idle."""
    torch.mm(torch.ones(600, 600), torch.ones(600, 600))  # allocates torch's own buffers before the first measurement
    before = _read_resident_mib()
    worker = Worker(lambda: create_random_clara(SHAPES["small"]), WorkerLimits(keep_alive=0.3))
    worker.submit(ModelJob("generate", ["w1 w2 w3"], "w4", max_new_tokens=4)).result(120)
    loaded = _read_resident_mib()
    deadline = time.monotonic() + 20
    while worker.status().loaded and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # the worker frees the memory after it clears the flag
    after = _read_resident_mib()
    worker.close()
    return {"before": before, "loaded": loaded, "after_idle": after}


def compute_flops(shape: DecoderConfig, positions: int) -> float:
    """Return the operations of one row: two per weight and position, adapters included, and causal attention."""
    sizes = [shape.linear_shape(module) for module in TARGET_MODULES]
    weights = sum(outputs * inputs + RANK * (outputs + inputs) for outputs, inputs in sizes)
    attention = 2 * positions**2 * shape.heads * shape.head_dim
    return shape.layer_count * (2 * weights * positions + attention)


def format_table(figures: dict[str, dict[str, Any]]) -> str:
    """Return the comparison as a table."""
    rows = [f"{'model':8}{'':12}{'plain':>10}{'ours':>10}{'ratio':>8}"]
    for name, row in figures.items():
        rows.append(
            f"{name:8}{'documents/s':12}{row['plain_documents_s']:10.1f}{row['documents_s']:10.1f}"
            f"{row['encode_ratio']:7.1f}x   {row['fewer_positions']:.1f}x fewer positions; "
            f"memories within {row['memories_apart']:.0e}"
        )
        rows.append(
            f"{'':8}{'tokens/s':12}{row['plain_tokens_s']:10.1f}{row['tokens_s']:10.1f}"
            f"{row['generate_ratio']:7.1f}x   {row['answers_alike']:.0%} of the answers are the same"
        )
    return "\n".join(rows)


def main() -> None:
    """Run the comparison, print the figures, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; use more than one only on idle cores")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="only this shape (default: tiny and small)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resident = measure_unloading()
    sizes = ", ".join(f"{name} {'?' if size is None else round(size)}" for name, size in resident.items())
    print(f"resident MiB: {sizes}")
    names = [options.shape] if options.shape else ["tiny", "small"]
    workloads = {"tiny": make_workload(64, 16, 16), "small": make_workload(8, 32, 16, documents_per_request=1)}
    results = {
        name: compare_with_plain(name, workloads.get(name, make_workload(4, 2, 4)), options.rounds) for name in names
    }
    print(format_table(results))
    print(json.dumps({"benchmark": "clara", "device": "cpu", "resident_mib": resident, "models": results}))


if __name__ == "__main__":
    main()
