"""clara-nano: the recipe that makes a small CLaRa from nothing, with one command, on a CPU.

Every weight is trained at once, the base and its three adapters together; a large base trains its adapters only
(`stages`).
"""

from dataclasses import replace
from pathlib import Path

import torch

from ..base import Shape
from ..checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from ..clara import Clara
from ..tokens import Layout, Vocabulary
from . import packed, seeking, wordpieces
from .curriculum import FURTHER, Lesson, lesson
from .facts import NOT_STATED
from .loop import Plan, Trainer
from .network import Network
from .objective import Objective, Work
from .save import Describe, mark, save_base, save_checkpoint

LIMIT, RATE, RANK = 128, 16, 16
STEPS, COURSE = 12350, 12000  # what is run, and what the lessons and the rate were first made for
# Of the rate, as shares of it: it rises where the run was extended, twice.
KNOTS = (
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
AVERAGE, BEFORE = 0.998, 0.3  # of the weights, over the last part, and how much of those it began with stays
FURTHER_STEPS = 5000
FINE_RATE, FINE_STEPS = 4, 2000


def shape(vocabulary: int) -> Shape:
    """Return the base model's numbers."""
    return Shape(
        hidden=192,
        layers=4,
        heads=6,
        kv_heads=6,
        head_dim=32,
        inter=512,
        vocabulary=vocabulary,
        eps=1e-5,
        theta=10000.0,
        positions=2048,
        eos=(2,),
    )


def plan(steps: int, seed: int = 42) -> Plan:
    """Return how nano is trained."""
    course = round(COURSE * steps / STEPS)
    return Plan(
        steps,
        rate=1e-3,
        warmup=min(0.03, 200 / course),
        floor=0.05,
        course=course,
        knots=tuple((round(step * steps / STEPS), share) for step, share in KNOTS),
        betas=(0.9, 0.98),
        decay=0.01,
        average=AVERAGE,
        before=BEFORE,
        average_from=round(10000 * steps / STEPS),
        seed=seed,
        keep=250,
    )


def trainer(folder: Path, steps: int = STEPS, seed: int = 42) -> tuple[Trainer, Network, str]:
    """Return a trainer, its network and the tokenizer's JSON; what is in the folder is gone on with."""
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(wordpieces.train(), encoding="utf-8")
    tokenizer = path.read_text(encoding="utf-8")
    vocabulary = Vocabulary(tokenizer, Layout(LIMIT // RATE))
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    network = Network(shape(vocabulary.size), RANK, (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER))
    network.compute = torch.bfloat16
    made = Trainer(
        Objective(network),
        lambda step: work(vocabulary, lesson(seed, step, round(COURSE * steps / STEPS))),
        plan(steps, seed),
        folder,
    )
    return made, network, tokenizer


def work(vocabulary: Vocabulary, today: Lesson) -> Work:
    """Return one step's tensors."""
    copies = packed.restatements(vocabulary, today.copies, today.templates, LIMIT) if today.copies else None
    if not today.episodes:
        return Work(copies, None, None, today.weight)
    answers = packed.episodes(vocabulary, today.episodes, LIMIT)
    found = packed.search(vocabulary, today.episodes, LIMIT) if today.search else None
    return Work(copies, answers, found, today.weight)


def further_trainer(network: Network, tokenizer: str, folder: Path, steps: int, seed: int = 42) -> Trainer:
    """Return what teaches a nano that has finished its course more composed phrasings; its base stays as it is."""
    vocabulary, seed = Vocabulary(tokenizer, Layout(LIMIT // RATE)), seed + 1000
    _hold_base(network)
    how = replace(plan(steps, seed), rate=4e-4, warmup=0.02, floor=0.03, course=0, knots=(), average_from=1, before=0.0)
    return Trainer(Objective(network), lambda step: work(vocabulary, lesson(seed, step, steps, FURTHER)), how, folder)


def _hold_base(network: Network) -> None:
    for still in (network.layers, network.norm):
        still.requires_grad_(False)  # noqa: FBT003 - torch's signature


def fine_trainer(coarse: Network, tokenizer: str, folder: Path, steps: int, seed: int = 42) -> tuple[Trainer, Network]:
    """Return what teaches a finished nano a lower rate: the same base, more memory tokens, adapters learned on.

    Its lessons are those of the course's second half.
    """
    few, many = (Vocabulary(tokenizer, Layout(LIMIT // rate)) for rate in (RATE, FINE_RATE))
    network = widened(coarse, few, many)
    network.compute = torch.bfloat16
    _hold_base(network)
    course = plan(steps, seed)
    course = replace(course, rate=course.rate / 2, course=0, knots=(), average=0.0, before=0.0)
    made = Trainer(
        Objective(network), lambda step: work(many, lesson(seed + 1, steps + step, 2 * steps)), course, folder
    )
    return made, network


def seeker(network: Network, tokenizer: str, folder: Path, rate: int, steps: int, seed: int = 42) -> Trainer:
    """Return what teaches a finished nano's query adapter when nothing is to be found; of the rest nothing changes."""
    return seeking.trainer(
        network, Vocabulary(tokenizer, Layout(LIMIT // rate)), LIMIT, folder, seeking.plan(steps, seed)
    )


def calibrate(folder: Path, rate: int = RATE, seed: int = 42, count: int = seeking.CALIBRATED_ON) -> float:
    """Find the score below which an exported nano says "not stated", and write it into its configuration."""
    written = folder / f"compression-{rate}"
    clara = Clara.from_pretrained(written, base=folder / "base", device="cpu")
    below = seeking.calibrated(clara, seed, count)
    mark(written, below, NOT_STATED)
    return below


def widened(network: Network, few: Vocabulary, many: Vocabulary) -> Network:
    """Return a copy with more memory tokens: the first ones are the old ones, the others begin as the last of these."""
    wide = Network(network.shape._replace(vocabulary=many.size), network.rank, tuple(network.adapters))
    state = network.state_dict()
    old = state["embed"]
    rows = [*range(few.base_size), *few.memory, *[few.memory[-1]] * (len(many.memory) - len(few.memory))]
    rows.extend(range(few.memory[-1] + 1, few.size))
    state["embed"] = state["head"] = old[rows]
    wide.load_state_dict(state)
    return wide


def export(network: Network, tokenizer: str, folder: Path, rate: int = RATE) -> Path:
    """Write the network as a checkpoint in half precision, beside its base; returns the folder."""
    if rate == RATE:
        base = Vocabulary(tokenizer, Layout(LIMIT // rate)).base_size
        save_base(network, tokenizer, base, folder / "base", torch.bfloat16)
    save_checkpoint(network, Describe(LIMIT, rate, top_k=1), folder / f"compression-{rate}", torch.bfloat16)
    return folder
