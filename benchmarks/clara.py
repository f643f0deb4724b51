"""What the local CLaRa engine gains over the plain way, on random weights: speed does not depend on what they say.

    python -m clara_proxy.benchmarks.clara [--rounds 3]
    python -m clara_proxy.benchmarks.clara --device cuda --shape 7b

The plain way is the reference's: every row padded to the limit, the logits of every position computed, one request
after another; it runs on the same layers, so only the arrangement differs. Both ways run in turn, round by round, in
one process, and what they say is compared. A small model's vocabulary weighs more than a large one's, and so does
leaving its logits out. The second form measures one GPU with the shape of Mistral-7B. Ends with one line of JSON.
"""

import argparse
import json
import random
import sys
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
from ..compression.clara import resources as memory
from ..compression.clara.base_weights import BaseWeights, DecoderConfig, DecoderLayer
from ..compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER, CheckpointConfig
from ..compression.clara.clara import Clara, Reply
from ..compression.clara.exceptions import CheckpointError
from ..compression.clara.jobs import ModelJob
from ..compression.clara.loading import LoadedModel
from ..compression.clara.lora import TARGET_MODULES, Adapter, LoraPair
from ..compression.clara.model import ClaraModel
from ..compression.clara.prompt_layout import plan_prompt
from ..compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec
from ..compression.clara.weight_quantization import WeightFormat, make_linear
from ..compression.clara.worker import Worker, WorkerLimits

Result = TypeVar("Result")
MAX_DOCUMENT_TOKENS, MEMORY_TOKENS, RANK = 256, 16, 16
VOCABULARY_WORDS = 4000
PEAK_FLOPS = 790e12  # what one H200 does in bf16, in practice
SHAPES = {
    #            hidden layers heads kv dim inter vocabulary
    "tiny": DecoderConfig(128, 4, 4, 2, 32, 352, 32000, 1e-5, 1e6, 32768, ()),
    "small": DecoderConfig(512, 8, 8, 2, 64, 1792, 32000, 1e-5, 1e6, 32768, ()),
    "7b": DecoderConfig(4096, 32, 32, 8, 128, 14336, 32000, 1e-5, 1e6, 32768, ()),
}  # without an end token every answer has the length asked for


class Workload(NamedTuple):
    """What is timed: texts to compress; requests of a question and `each` texts, answered in `new` tokens."""

    texts: list[str]
    requests: list[tuple[str, list[str]]]
    new_tokens: int


class RoundTimes(NamedTuple):
    """Seconds of one round, and how far the two ways' results agree."""

    plain_encode: float
    encode: float
    plain_generate: float
    generate: float
    max_difference: float
    same_answer_share: float


def create_random_clara(
    shape: DecoderConfig, device: str = "cpu", dtype: torch.dtype = torch.float32, bits: WeightFormat | None = None
) -> Clara:
    """Make a `Clara` of this shape with random weights."""
    torch.manual_seed(1)  # pyright: ignore[reportUnknownMemberType]
    make = partial(_create_random_tensor, device=device, dtype=dtype)
    rows = shape.vocabulary_size + MEMORY_TOKENS + 3
    layers = tuple(
        DecoderLayer(
            make(shape.hidden_size) + 1,
            make(shape.hidden_size) + 1,
            {name: make_linear(make(*shape.linear_shape(name)), bits) for name in TARGET_MODULES},
        )
        for _ in range(shape.layer_count)
    )
    base = BaseWeights(shape, layers, make(shape.hidden_size) + 1, torch.device(device), dtype, make(1, 1))
    adapters = {name: _create_adapter(make, shape) for name in (ENCODER_ADAPTER, DECODER_ADAPTER, QUERY_ADAPTER)}
    model = ClaraModel(
        base, make(rows, shape.hidden_size), make(rows, shape.hidden_size), adapters, 2048 if device == "cpu" else 8192
    )
    config = CheckpointConfig(
        MAX_DOCUMENT_TOKENS,
        MEMORY_TOKENS,
        MAX_DOCUMENT_TOKENS // MEMORY_TOKENS,
        True,
        5,
        "stage2",
        True,
        RANK,
        False,
        None,
        {},
    )
    return Clara(LoadedModel(model, _create_vocabulary(), config, "random"))


def _create_random_tensor(*size: int, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(*size, device=device, dtype=dtype) * 0.02


def _create_adapter(make: Callable[..., Tensor], shape: DecoderConfig) -> Adapter:
    def pair(out: int, into: int) -> LoraPair:
        return LoraPair(make(RANK, into), make(out, RANK))

    return tuple({name: pair(*shape.linear_shape(name)) for name in TARGET_MODULES} for _ in range(shape.layer_count))


def _create_vocabulary() -> ClaraTokenizer:
    """Return a vocabulary in which one word is one token, so that the prompts have about their real length."""
    names = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(VOCABULARY_WORDS))]
    tokenizer: Any = Tokenizer(WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(names[:3])
    return ClaraTokenizer(tokenizer.to_str(), MemoryTokenSpec(MEMORY_TOKENS))


def make_texts(count: int, chance: random.Random) -> list[str]:
    """Make memories as agents keep them: nine of ten have 8 to 60 tokens, the others up to 250."""
    sizes = [chance.randint(8, 60) if chance.random() < 0.9 else chance.randint(61, 250) for _ in range(count)]
    return [" ".join(f"w{chance.randrange(VOCABULARY_WORDS)}" for _ in range(size)) for size in sizes]


def make_workload(documents: int, requests: int, new: int, documents_per_request: int = 2) -> Workload:
    """Make the work of one model; always the same."""
    chance = random.Random(7)
    asked = [(make_texts(1, chance)[0][:60], make_texts(documents_per_request, chance)) for _ in range(requests)]
    return Workload(make_texts(documents, chance), asked, new)


def encode_plain(clara: Clara, documents: Sequence[str]) -> Tensor:
    """Compress with all rows as long as the longest possible one, logits computed and dropped: [documents, M, H].

    The padding is behind the row, where causal attention does not see it: the reference has it in front and masks it,
    at the same cost or more.
    """
    whole = MAX_DOCUMENT_TOKENS + 3 + MEMORY_TOKENS
    rows = [
        clara.tokenizer.build_encoder_row(clara.tokenizer.encode(document), MAX_DOCUMENT_TOKENS + 3)
        for document in documents
    ]
    states = clara.model.encode([row + [1] * (whole - len(row)) for row in rows], whole, ENCODER_ADAPTER).memories
    functional.linear(states, clara.model.head).float()
    return torch.stack([own[len(row) - MEMORY_TOKENS : len(row)] for own, row in zip(states, rows, strict=True)])


def answer_plain(clara: Clara, question: str, documents: Sequence[str], new: int) -> list[int]:
    """Answer one request alone: its documents in one padded batch, then token by token."""
    memories = encode_plain(clara, documents)
    plan = plan_prompt(prompts.answer_prompt(question), range(len(documents)), range, clara.tokenizer, clara.compat)
    logits, cache = clara.model.prefill(
        [clara.model.embed_prompt(plan.ids, plan.slot_positions, memories)], DECODER_ADAPTER
    )
    tokens = [int(logits[0].argmax())]
    while len(tokens) < new:
        tokens.append(int(clara.model.step(tokens[-1:], cache, DECODER_ADAPTER)[0].argmax()))
    return tokens


def answer_batched(worker: Worker, todo: Workload) -> list[list[int]]:
    """Answer all requests as they would come in: handed to the worker at once."""
    jobs = [
        ModelJob("generate", documents, question, max_new_tokens=todo.new_tokens)
        for question, documents in todo.requests
    ]
    futures = [worker.submit(job) for job in jobs]
    replies: list[Reply] = [future.result(300) for future in futures]
    return [list(reply.tokens) for reply in replies]


def measure_time(run: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that something takes, and what it returns."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def run_round(clara: Clara, worker: Worker, todo: Workload) -> RoundTimes:
    """Do the same work four times: plain and ours, compressing and answering."""
    plain, memories = measure_time(lambda: torch.cat([encode_plain(clara, [text]) for text in todo.texts]))
    ours, latents = measure_time(lambda: clara.compress(todo.texts))
    plain_said, said = measure_time(
        lambda: [answer_plain(clara, *request, todo.new_tokens) for request in todo.requests]
    )
    ours_said, own = measure_time(lambda: answer_batched(worker, todo))
    apart = float((memories - latents.vectors).abs().max())
    alike = sum(this == that for this, that in zip(said, own, strict=True)) / len(said)
    return RoundTimes(plain, ours, plain_said, ours_said, apart, alike)


def compare_with_plain(name: str, todo: Workload, rounds: int) -> dict[str, Any]:
    """Measure one model both ways, in turn; figures are medians over the rounds, ratios medians of each round's."""
    clara = create_random_clara(SHAPES[name])
    worker = Worker(lambda: clara)
    run_round(clara, worker, Workload(todo.texts[:2], todo.requests[:2], 2))  # warms up
    done = [run_round(clara, worker, todo) for _ in range(rounds)]
    worker.close()
    tokens = len(todo.requests) * todo.new_tokens
    return {
        "documents": len(todo.texts),
        "text_tokens": sum(len(text.split()) for text in todo.texts),
        "fewer_positions": _compute_positions_ratio(todo.texts),
        "plain_documents_s": len(todo.texts) / median(each.plain_encode for each in done),
        "documents_s": len(todo.texts) / median(each.encode for each in done),
        "encode_ratio": median(each.plain_encode / each.encode for each in done),
        "requests": len(todo.requests),
        "plain_tokens_s": tokens / median(each.plain_generate for each in done),
        "tokens_s": tokens / median(each.generate for each in done),
        "generate_ratio": median(each.plain_generate / each.generate for each in done),
        "memories_apart": max(each.max_difference for each in done),
        "answers_alike": min(each.same_answer_share for each in done),
    }


def _compute_positions_ratio(documents: Sequence[str]) -> float:
    """Return how many times more positions the plain way reads: what leaving the padding out can bring by itself."""
    own = sum(min(len(text.split()), MAX_DOCUMENT_TOKENS) + 3 + MEMORY_TOKENS for text in documents)
    return len(documents) * (MAX_DOCUMENT_TOKENS + 3 + MEMORY_TOKENS) / own


def _read_resident_mib() -> float | None:
    resident = memory.resident_bytes()
    return None if resident is None else resident / 2**20


def measure_unloading() -> dict[str, float | None]:
    """Load a model in a worker, let it answer, wait until it lets go by itself: resident MiB before, during, after."""
    torch.mm(torch.ones(600, 600), torch.ones(600, 600))  # what torch needs for itself is not the model's
    before = _read_resident_mib()
    worker = Worker(lambda: create_random_clara(SHAPES["small"]), WorkerLimits(keep_alive=0.3))
    worker.submit(ModelJob("generate", ["w1 w2 w3"], "w4", max_new_tokens=4)).result(120)
    loaded = _read_resident_mib()
    end = time.monotonic() + 20
    while worker.status().loaded and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)  # the flag falls before the memory is free
    after = _read_resident_mib()
    worker.close()
    return {"before": before, "loaded": loaded, "after_idle": after}


def measure_cuda(shape: DecoderConfig) -> dict[str, Any]:
    """Measure one GPU in bfloat16, then how much memory the weights take at 8 and 4 bits."""
    figures = _measure_speeds(shape)
    widths: tuple[WeightFormat, ...] = ("int8", "int4")
    for bits in widths:
        memory.release_memory()
        try:
            figures["memory_gib"][bits] = _measure_quantised(shape, bits)
        except CheckpointError as error:
            figures["memory_gib"][bits] = f"not measured: {error}"
    return figures


def _measure_speeds(shape: DecoderConfig) -> dict[str, Any]:
    """Measure compressing, the first token over five documents, decoding, and one document alone."""
    clara = create_random_clara(shape, "cuda", torch.bfloat16)
    chance = random.Random(7)
    full = [" ".join(f"w{chance.randrange(VOCABULARY_WORDS)}" for _ in range(MAX_DOCUMENT_TOKENS)) for _ in range(512)]
    figures: dict[str, Any] = {"memory_gib": {"bf16": torch.cuda.memory_allocated() / 2**30}}
    for name, documents in (("full", full), ("mixed", make_texts(2048, chance))):
        seconds = _measure_median(partial(clara.compress, documents))
        done = sum(compute_flops(shape, len(document.split()) + 3 + MEMORY_TOKENS) for document in documents)
        figures[name] = {"documents_s": len(documents) / seconds, "share_of_790_tflops": done / seconds / PEAK_FLOPS}
    figures["one_document_ms"] = 1e3 * _measure_median(partial(clara.compress, full[:1]), 20)
    five = clara.compress(full[:5])
    figures["first_token_ms"] = 1e3 * _measure_median(partial(clara.replies, ["w1 w2 w3"], [five], 1), 20)
    for together in (1, 32):
        seconds = _measure_median(partial(clara.replies, ["w1 w2 w3"] * together, [five] * together, 64), 3)
        figures[f"tokens_s_{together}_together"] = 64 * together / seconds
    return figures


def _measure_quantised(shape: DecoderConfig, bits: WeightFormat) -> float:
    clara = create_random_clara(shape, "cuda", torch.bfloat16, bits)
    clara.compress(["w1 w2 w3"])  # the weights are quantised on the way to the GPU; this shows that they work
    memory.release_memory()
    return torch.cuda.memory_allocated() / 2**30


def compute_flops(shape: DecoderConfig, positions: int) -> float:
    """Return the work of one row: two per weight and position, adapters included, and causal attention."""
    sizes = [shape.linear_shape(module) for module in TARGET_MODULES]
    weights = sum(out * into + RANK * (out + into) for out, into in sizes)
    attention = 2 * positions**2 * shape.heads * shape.head_dim
    return shape.layer_count * (2 * weights * positions + attention)


def _measure_median(run: Callable[[], object], times: int = 5) -> float:
    """Return the median of some runs' seconds, the GPU's work included, after one that does not count."""

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    whole()
    return median(measure_time(whole)[0] for _ in range(times))


def format_table(figures: dict[str, dict[str, Any]]) -> str:
    """Lay the comparison out for people."""
    head = f"{'model':8}{'':12}{'plain':>10}{'ours':>10}{'ratio':>8}\n"
    rows: list[str] = []
    for name, own in figures.items():
        rows.append(
            f"{name:8}{'documents/s':12}{own['plain_documents_s']:10.1f}{own['documents_s']:10.1f}"
            f"{own['encode_ratio']:7.1f}x   {own['fewer_positions']:.1f}x fewer positions; "
            f"memories within {own['memories_apart']:.0e}"
        )
        rows.append(
            f"{'':8}{'tokens/s':12}{own['plain_tokens_s']:10.1f}{own['tokens_s']:10.1f}"
            f"{own['generate_ratio']:7.1f}x   {own['answers_alike']:.0%} of the answers are the same"
        )
    return head + "\n".join(rows)


def main() -> None:
    """Run the comparison, or one GPU's figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="more only on cores that nobody else uses")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="one shape only; on a GPU 7b unless given")
    chosen = parser.parse_args()
    if chosen.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("there is no CUDA device here: run it on a machine with an NVIDIA GPU and a CUDA build of torch")
        figures = measure_cuda(SHAPES[chosen.shape or "7b"])
        print(json.dumps(figures, indent=2))
        print(json.dumps({"benchmark": "clara", "device": torch.cuda.get_device_name(), **figures}))
        return
    torch.set_num_threads(chosen.threads)
    memory = measure_unloading()
    print(
        "resident MiB: " + ", ".join(f"{name} {'?' if size is None else round(size)}" for name, size in memory.items())
    )
    names = [chosen.shape] if chosen.shape else ["tiny", "small"]
    amounts = {"tiny": make_workload(64, 16, 16), "small": make_workload(8, 32, 16, documents_per_request=1)}
    results = {
        name: compare_with_plain(name, amounts.get(name, make_workload(4, 2, 4)), chosen.rounds) for name in names
    }
    print(format_table(results))
    print(json.dumps({"benchmark": "clara", "device": "cpu", "resident_mib": memory, "models": results}))


if __name__ == "__main__":
    main()
