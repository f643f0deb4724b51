"""clara-nano's curriculum: copying first, then one fact, then more facts, more documents and unanswerable questions.

Without this order the loss stays at guessing between the values of a kind. A lesson depends only on the seed and the
number of its step.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from .synthetic.episodes import Episode, Restatement, make_episode, make_restatement
from .synthetic.facts import EpisodeSpec, make_noise
from .synthetic.values import make_spelled_words

DOCUMENTS = 16  # of one step, approximately
TEMPLATES = 13


class Lesson(NamedTuple):
    """The training material of one step.

    `templates` are the prompts of `copies`, `copy_weight` is the weight of their loss, and `retrieval` adds the
    retrieval loss of the episodes' questions.
    """

    copies: list[Restatement]
    templates: list[int]
    episodes: list[Episode]
    retrieval: bool
    copy_weight: float = 0.5


class Phase(NamedTuple):
    """One phase of the training; it ends at the share `until` of the steps.

    `documents` and `facts` are the choices for an episode, `copies` and `answers` the number of each in a step, and
    `retrieval_every` the interval of steps with the retrieval loss (0: never). The flags are those of `EpisodeSpec`.
    """

    until: float
    documents: tuple[int, ...]
    facts: tuple[int, ...]
    unanswerable: float
    noise: float
    copies: int
    retrieval_every: int = 0
    late_phrasings: bool = False
    hard_negatives: bool = False
    composed_phrasings: bool = False
    subject_negatives: bool = False
    answers: int = 32
    copy_weight: float = 0.5


# Shares of the training at which late phrasings with more unanswerable questions start, then harder negatives with more
# documents, then composed phrasings with blended words, then more negatives about another subject.
LATE, HARD, COMPOSED, SUBJECTS = 7 / 12, 8.5 / 12, 10 / 12, 10.75 / 12
_MANY_DOCUMENTS = (1, 2, 3, 3, 5, 5, 10, 20)
_HARD_PHASE = Phase(
    COMPOSED,
    (1, 2, 3, 5, 10, 20, 20),
    (1, 1, 2, 3),
    0.35,
    0.1,
    14,
    retrieval_every=3,
    late_phrasings=True,
    hard_negatives=True,
)
_COMPOSED_PHASE = _HARD_PHASE._replace(
    until=SUBJECTS,
    documents=(1, 1, 2, 3, 5, 5, 10, 20),
    noise=0.15,
    copies=20,
    composed_phrasings=True,
    answers=48,
    copy_weight=0.8,
)
_SUBJECTS_PHASE = _COMPOSED_PHASE._replace(
    until=math.inf,
    documents=(1, 1, 1, 1, 2, 2, 3, 5, 10, 20),
    facts=(1, 1, 1, 2, 3),
    unanswerable=0.5,
    subject_negatives=True,
    answers=64,
)
PHASES = (
    Phase(0.06, (), (), 0.0, 0.0, 32),
    Phase(0.22, (1,), (1,), 0.0, 0.3, 10),
    Phase(0.36, (1, 2, 3), (1,), 0.1, 0.3, 8, retrieval_every=1),
    Phase(0.5, (1, 2, 3, 5), (1, 1, 2), 0.15, 0.2, 8, retrieval_every=1),
    Phase(LATE, _MANY_DOCUMENTS, (1, 1, 1, 2, 3), 0.2, 0.15, 6, retrieval_every=1),
    Phase(HARD, _MANY_DOCUMENTS, (1, 1, 1, 2, 3), 0.33, 0.15, 10, retrieval_every=3, late_phrasings=True),
    _HARD_PHASE,
    _COMPOSED_PHASE,
    _SUBJECTS_PHASE,
)
FURTHER_PHASES = (_COMPOSED_PHASE._replace(until=math.inf),)  # more composed phrasings, for a finished model


def make_lesson(seed: int, step: int, steps: int, phases: Sequence[Phase] = PHASES) -> Lesson:
    """Return the lesson of a step of `steps`."""
    rng = random.Random(f"{seed}:{step}")
    position = step / steps
    phase = next(phase for phase in phases if position < phase.until)
    if not phase.documents:
        max_words = 1 + min(3, int(4 * position / phase.until))
        copies = [_make_copy(make_noise(rng, 1, max_words)) for _ in range(phase.copies)]
        return Lesson(copies, [0] * len(copies), [], retrieval=False)
    make_words = make_spelled_words if phase.composed_phrasings else make_noise
    copy_count = 4 if phase.hard_negatives else phase.copies // 2
    copies = [_make_copy(make_words(rng, 1, 4)) for _ in range(copy_count)]
    restatements = [make_restatement(rng, _make_spec(rng, phase, 1)) for _ in range(phase.copies - copy_count)]
    templates = [0] * copy_count + [rng.randrange(TEMPLATES) for _ in restatements]
    documents = rng.choice(phase.documents)
    spec = _make_spec(rng, phase, documents)
    episodes = [make_episode(rng, spec) for _ in range(max(2, DOCUMENTS // documents))]
    retrieval = bool(phase.retrieval_every) and step % phase.retrieval_every == 0
    return Lesson(copies + restatements, templates, episodes, retrieval, phase.copy_weight)


def _make_spec(rng: random.Random, phase: Phase, documents: int) -> EpisodeSpec:
    episode_count = max(2, DOCUMENTS // documents)
    facts = rng.choice(phase.facts) if documents < 10 else 1
    return EpisodeSpec(
        documents,
        facts,
        min(10, phase.answers // episode_count),
        unanswerable=phase.unanswerable,
        noise=phase.noise,
        late_phrasings=phase.late_phrasings,
        hard_negatives=phase.hard_negatives,
        composed_phrasings=phase.composed_phrasings,
        subject_negatives=phase.subject_negatives,
    )


def _make_copy(text: str) -> Restatement:
    return Restatement(text, text, ())
