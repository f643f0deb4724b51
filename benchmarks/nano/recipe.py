"""clara-nano's recipe: hyperparameters, trainers of each part of the training, and export.

The base and its three adapters are trained together, from random weights, on a CPU. Larger models train adapters only
(`compression.clara.train.stages`).
"""

from dataclasses import replace
from pathlib import Path

import torch

from ...compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from ...compression.clara.clara import Clara
from ...compression.clara.decoder_config import DecoderConfig
from ...compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec
from ...compression.clara.train.checkpoint_writer import CheckpointInfo, save_checkpoint
from ...compression.clara.train.network import Network
from ...compression.clara.train.trainer import Trainer, TrainingPlan
from . import episode_tensors, query_adapter
from .curriculum import FURTHER_PHASES, Lesson, make_lesson
from .export import save_base, write_abstention
from .objective import NanoObjective, StepBatch
from .synthetic.episodes import NOT_STATED
from .train_tokenizer import train_tokenizer

DOCUMENT_LIMIT, RATE, RANK = 128, 16, 16  # tokens of a document, tokens a memory, rank of the adapters
STEPS, SCHEDULE_STEPS = 12350, 12000  # the curriculum and the cosine schedule have the latter length
KNOTS = (  # the learning rate rises at the two points at which the run was extended
    (6000, 0.53758),
    (7000, 0.41569),
    (8500, 0.141423),
    (8600, 0.28),
    (10000, 0.05),
    (10100, 0.5),
    (11750, 0.335),
    (12000, 0.25375),
    (12350, 0.01),
)
AVERAGE, AVERAGE_START_SHARE = 0.998, 0.3
FURTHER_STEPS = 5000
FINE_RATE, FINE_STEPS = 4, 2000


def model_config(vocabulary_size: int) -> DecoderConfig:
    """Return the configuration of the base model."""
    return DecoderConfig(
        hidden_size=192,
        layer_count=4,
        heads=6,
        kv_heads=6,
        head_dim=32,
        intermediate_size=512,
        vocabulary_size=vocabulary_size,
        norm_eps=1e-5,
        rope_theta=10000.0,
        max_positions=2048,
        eos_ids=(2,),
    )


def training_plan(steps: int, seed: int = 42) -> TrainingPlan:
    """Return the hyperparameters of the main training."""
    schedule_steps = round(SCHEDULE_STEPS * steps / STEPS)
    return TrainingPlan(
        steps,
        learning_rate=1e-3,
        warmup=min(0.03, 200 / schedule_steps),
        floor=0.05,
        cosine_steps=schedule_steps,
        knots=tuple((round(step * steps / STEPS), share) for step, share in KNOTS),
        betas=(0.9, 0.98),
        weight_decay=0.01,
        average=AVERAGE,
        average_start_share=AVERAGE_START_SHARE,
        average_from=round(10000 * steps / STEPS),
        seed=seed,
        save_every=250,
    )


def make_main_trainer(folder: Path, steps: int = STEPS, seed: int = 42) -> tuple[Trainer, Network, str]:
    """Return the trainer of the main training, its network, and the tokenizer's JSON.

    The tokenizer is trained unless the folder has one.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(train_tokenizer(), encoding="utf-8")
    tokenizer_json = path.read_text(encoding="utf-8")
    tokenizer = make_tokenizer(tokenizer_json)
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    network = Network(model_config(tokenizer.vocabulary_size), RANK, (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER))
    network.compute = torch.bfloat16
    trainer = Trainer(
        NanoObjective(network),
        lambda step: make_batch(tokenizer, make_lesson(seed, step, round(SCHEDULE_STEPS * steps / STEPS))),
        training_plan(steps, seed),
        folder,
    )
    return trainer, network, tokenizer_json


def make_tokenizer(tokenizer_json: str, rate: int = RATE) -> ClaraTokenizer:
    """Return the tokenizer with the memory tokens of a compression rate."""
    return ClaraTokenizer(tokenizer_json, MemoryTokenSpec(DOCUMENT_LIMIT // rate))


def make_batch(tokenizer: ClaraTokenizer, lesson: Lesson) -> StepBatch:
    """Return the tensors of a lesson."""
    copies = None
    if lesson.copies:
        copies = episode_tensors.pack_restatements(tokenizer, lesson.copies, lesson.templates, DOCUMENT_LIMIT)
    if not lesson.episodes:
        return StepBatch(copies, None, None, lesson.copy_weight)
    answers = episode_tensors.pack_episodes(tokenizer, lesson.episodes, DOCUMENT_LIMIT)
    retrieval = None
    if lesson.retrieval:
        retrieval = episode_tensors.pack_retrieval(tokenizer, lesson.episodes, DOCUMENT_LIMIT)
    return StepBatch(copies, answers, retrieval, lesson.copy_weight)


def make_further_trainer(network: Network, tokenizer_json: str, folder: Path, steps: int, seed: int = 42) -> Trainer:
    """Return the trainer of further composed phrasings after the main training; the base's layers are frozen."""
    tokenizer, seed = make_tokenizer(tokenizer_json), seed + 1000
    _freeze_base(network)
    plan = replace(
        training_plan(steps, seed),
        learning_rate=4e-4,
        warmup=0.02,
        floor=0.03,
        cosine_steps=0,
        knots=(),
        average_from=1,
        average_start_share=0.0,
    )
    return Trainer(
        NanoObjective(network),
        lambda step: make_batch(tokenizer, make_lesson(seed, step, steps, FURTHER_PHASES)),
        plan,
        folder,
    )


def make_fine_trainer(
    coarse: Network, tokenizer_json: str, folder: Path, steps: int, seed: int = 42
) -> tuple[Trainer, Network]:
    """Return the trainer of the lower rate and its network: the same base with more memory tokens.

    The base's layers are frozen. The lessons are those of the training's second half.
    """
    tokenizer = make_tokenizer(tokenizer_json, FINE_RATE)
    network = add_memory_tokens(coarse, make_tokenizer(tokenizer_json), tokenizer)
    network.compute = torch.bfloat16
    _freeze_base(network)
    plan = training_plan(steps, seed)
    plan = replace(
        plan,
        learning_rate=plan.learning_rate / 2,
        cosine_steps=0,
        knots=(),
        average=0.0,
        average_start_share=0.0,
    )
    trainer = Trainer(
        NanoObjective(network),
        lambda step: make_batch(tokenizer, make_lesson(seed + 1, steps + step, 2 * steps)),
        plan,
        folder,
    )
    return trainer, network


def make_query_adapter_trainer(
    network: Network, tokenizer_json: str, folder: Path, rate: int, steps: int, seed: int = 42
) -> Trainer:
    """Return the trainer of a finished network's query adapter; all other weights are frozen."""
    plan = query_adapter.training_plan(steps, seed)
    return query_adapter.make_trainer(network, make_tokenizer(tokenizer_json, rate), DOCUMENT_LIMIT, folder, plan)


def calibrate_abstention(
    folder: Path, rate: int = RATE, seed: int = 42, count: int = query_adapter.CALIBRATION_EPISODES
) -> float:
    """Calibrate the abstention threshold of an exported nano, write it to its config.json, and return it."""
    checkpoint = folder / f"compression-{rate}"
    clara = Clara.from_pretrained(checkpoint, base=folder / "base", device="cpu")
    threshold = query_adapter.calibrate_threshold(clara, seed, count)
    write_abstention(checkpoint, threshold, NOT_STATED)
    return threshold


def add_memory_tokens(network: Network, coarse: ClaraTokenizer, fine: ClaraTokenizer) -> Network:
    """Return a copy of a network with more memory tokens; new ones start as copies of the last old one."""
    config = network.config._replace(vocabulary_size=fine.vocabulary_size)
    result = Network(config, network.rank, tuple(network.adapters))
    state = network.state_dict()
    new_tokens = len(fine.memory_ids) - len(coarse.memory_ids)
    rows = [*range(coarse.base_vocabulary_size), *coarse.memory_ids, *[coarse.memory_ids[-1]] * new_tokens]
    rows.extend(range(coarse.memory_ids[-1] + 1, coarse.vocabulary_size))
    state["embed"] = state["head"] = state["embed"][rows]
    result.load_state_dict(state)
    return result


def export_checkpoint(network: Network, tokenizer_json: str, folder: Path, rate: int = RATE) -> Path:
    """Write the checkpoint of a rate in bfloat16, with the base model for the main rate; return `folder`."""
    if rate == RATE:
        vocabulary_size = make_tokenizer(tokenizer_json).base_vocabulary_size
        save_base(network, tokenizer_json, vocabulary_size, folder / "base", torch.bfloat16)
    info = CheckpointInfo(DOCUMENT_LIMIT, rate, top_k=1)
    save_checkpoint(network, info, folder / f"compression-{rate}", torch.bfloat16)
    return folder


def _freeze_base(network: Network) -> None:
    for module in (network.layers, network.norm):
        module.requires_grad_(False)  # noqa: FBT003 - torch's signature
