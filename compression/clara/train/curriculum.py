"""What clara-nano learns when: copying first, then one fact, then more facts, more documents, and what is not there.

Without this order the loss stays at guessing between the values of a kind. A lesson depends on the seed and the number
of its step alone.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from .fact import Mix, noise
from .facts import Episode, Restatement, episode, restatement
from .values import spelled

DOCUMENTS = 16  # of one step, about
TEMPLATES = 13


class Lesson(NamedTuple):
    """What one step learns from; `templates` choose the prompts of `copies`, `search` says to retrieve too.

    `weight` is that of the copies' loss.
    """

    copies: list[Restatement]
    templates: list[int]
    episodes: list[Episode]
    search: bool
    weight: float = 0.5


class Phase(NamedTuple):
    """One part of the course, up to this share of it."""

    until: float
    documents: tuple[int, ...]
    facts: tuple[int, ...]
    abstain: float
    noise: float
    copies: int
    search: int = 0  # every so many steps; 0: never
    rich: bool = False
    hard: bool = False
    composed: bool = False
    whose: bool = False
    answers: int = 32
    weight: float = 0.5


# Shares of the course: from here on more phrasings and questions without an answer; then harder ones, and more to read;
# then composed phrasings, and words spelled as no word is; at last, more questions that turn on whose it is.
RICH, HARD, COMPOSED, WHOSE = 7 / 12, 8.5 / 12, 10 / 12, 10.75 / 12
PHASES = (
    Phase(0.06, (), (), 0.0, 0.0, 32),
    Phase(0.22, (1,), (1,), 0.0, 0.3, 10),
    Phase(0.36, (1, 2, 3), (1,), 0.1, 0.3, 8, search=1),
    Phase(0.5, (1, 2, 3, 5), (1, 1, 2), 0.15, 0.2, 8, search=1),
    Phase(RICH, (1, 2, 3, 3, 5, 5, 10, 20), (1, 1, 1, 2, 3), 0.2, 0.15, 6, search=1),
    Phase(HARD, (1, 2, 3, 3, 5, 5, 10, 20), (1, 1, 1, 2, 3), 0.33, 0.15, 10, search=3, rich=True),
    Phase(COMPOSED, (1, 2, 3, 5, 10, 20, 20), (1, 1, 2, 3), 0.35, 0.1, 14, search=3, rich=True, hard=True),
    Phase(
        WHOSE,
        (1, 1, 2, 3, 5, 5, 10, 20),
        (1, 1, 2, 3),
        0.35,
        0.15,
        20,
        search=3,
        rich=True,
        hard=True,
        composed=True,
        answers=48,
        weight=0.8,
    ),
    Phase(
        math.inf,
        (1, 1, 1, 1, 2, 2, 3, 5, 10, 20),
        (1, 1, 1, 2, 3),
        0.5,
        0.15,
        20,
        search=3,
        rich=True,
        hard=True,
        composed=True,
        whose=True,
        answers=64,
        weight=0.8,
    ),
)


FURTHER = (PHASES[-2]._replace(until=math.inf),)  # composed phrasings, and nothing else new


def lesson(seed: int, step: int, steps: int, phases: Sequence[Phase] = PHASES) -> Lesson:
    """Return the lesson of a step of `steps`."""
    rng = random.Random(f"{seed}:{step}")  # noqa: S311 - made-up facts, no secrets
    done = step / steps
    phase = next(phase for phase in phases if done < phase.until)
    if not phase.documents:
        most = 1 + min(3, int(4 * done / phase.until))
        copies = [_copy(noise(rng, 1, most)) for _ in range(phase.copies)]
        return Lesson(copies, [0] * len(copies), [], search=False)
    words = spelled if phase.composed else noise
    plain = [_copy(words(rng, 1, 4)) for _ in range(4 if phase.hard else phase.copies // 2)]
    restated = [restatement(rng, _mix(rng, phase, 1)) for _ in range(phase.copies - len(plain))]
    templates = [0] * len(plain) + [rng.randrange(TEMPLATES) for _ in restated]
    documents = rng.choice(phase.documents)
    mix = _mix(rng, phase, documents)
    episodes = [episode(rng, mix) for _ in range(max(2, DOCUMENTS // documents))]
    search = bool(phase.search) and step % phase.search == 0
    return Lesson(plain + restated, templates, episodes, search, phase.weight)


def _mix(rng: random.Random, phase: Phase, documents: int) -> Mix:
    count = max(2, DOCUMENTS // documents)
    facts = rng.choice(phase.facts) if documents < 10 else 1
    return Mix(
        documents,
        facts,
        min(10, phase.answers // count),
        abstain=phase.abstain,
        noise=phase.noise,
        rich=phase.rich,
        hard=phase.hard,
        composed=phase.composed,
        whose=phase.whose,
    )


def _copy(text: str) -> Restatement:
    return Restatement(text, text, ())
