"""Evaluates a nano checkpoint on synthetic questions that training never used, with the engine that serves requests.

Answers are decoded greedily and must match exactly. All seeds are held out; some tasks also use held-out values or
phrasings.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ...compression.clara.clara import Clara
from .synthetic.episodes import NOT_STATED, Episode, make_episode, make_restatement
from .synthetic.facts import EpisodeSpec

SEED = 20_000_003
_MAX_TOKENS = 40  # longer than any answer


class Score(NamedTuple):
    """The number of correct answers and of questions."""

    correct: int
    total: int

    @property
    def share(self) -> float:
        """The share of correct answers, from 0 to 1."""
        return self.correct / max(1, self.total)


@dataclass(slots=True)
class TaskResult:
    """The score of a task, its scores by kind of fact, and its errors as (question, expected, answer)."""

    score: Score
    kinds: dict[str, Score] = field(default_factory=dict[str, Score])
    errors: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])


_FEW = (1, 2, 3, 5)
TASKS: dict[str, tuple[tuple[int, ...], EpisodeSpec]] = {  # numbers of documents, and the specification
    "seen values": (_FEW, EpisodeSpec(questions=3)),
    "unseen values": (_FEW, EpisodeSpec(questions=3, unseen_values=True)),
    "unseen phrasings": (_FEW, EpisodeSpec(questions=3, unseen_phrasings=True)),
    "unseen values and phrasings": (_FEW, EpisodeSpec(questions=3, unseen_values=True, unseen_phrasings=True)),
    "composed phrasings": (_FEW, EpisodeSpec(questions=3, unseen_phrasings=True, composed_phrasings=True)),
    "20 memories": ((20,), EpisodeSpec(questions=5)),
    "3 facts a document": ((1, 2), EpisodeSpec(facts_per_document=3, questions=3)),
    "abstains when it should": (_FEW, EpisodeSpec(questions=3, unanswerable=1.0)),
    "abstains from near misses": (
        _FEW,
        EpisodeSpec(questions=3, unanswerable=1.0, composed_phrasings=True, subject_negatives=True),
    ),
}


def evaluate_answers(clara: Clara, task: str, count: int, k: int | None = None) -> TaskResult:
    """Ask about `count` questions of a task, with all memories or with the `k` best ones of the query adapter."""
    documents, spec = TASKS[task]
    rng = random.Random(f"{SEED}:{task}")
    episodes = [
        make_episode(rng, replace(spec, documents=documents[number % len(documents)]))
        for number in range(-(-count // spec.questions))
    ]
    return score_episodes(clara, episodes, k)


def score_episodes(clara: Clara, episodes: Sequence[Episode], k: int | None = None) -> TaskResult:
    """Ask every question of the episodes; an answer is correct if it equals the expected one exactly."""
    correct: Counter[str] = Counter()
    total: Counter[str] = Counter()
    errors: list[tuple[str, str, str]] = []
    for episode in episodes:
        latents = clara.compress(episode.documents)
        questions = [question.text for question in episode.questions]
        shared = [latents] * len(questions)
        if k is None:
            answers = clara.generate(questions, shared, _MAX_TOKENS)
        else:
            answers = [reply.text for reply in clara.answers(questions, shared, k, _MAX_TOKENS)]
        for question, answer in zip(episode.questions, answers, strict=True):
            kind = question.topic[0]
            total[kind] += 1
            if answer.strip() == question.answer:
                correct[kind] += 1
            else:
                errors.append((question.text, question.answer, answer.strip()))
    kinds = {kind: Score(correct[kind], number) for kind, number in sorted(total.items())}
    return TaskResult(Score(correct.total(), total.total()), kinds, errors)


def evaluate_answer_rate(clara: Clara, count: int) -> TaskResult:
    """Count the answerable questions with an answer, right or wrong, other than "not stated"."""
    result = evaluate_answers(clara, "seen values", count)
    abstentions = [error for error in result.errors if error[2] == NOT_STATED]
    return TaskResult(Score(result.score.total - len(abstentions), result.score.total), {}, abstentions)


def evaluate_retrieval(clara: Clara, count: int, documents: int = 100) -> TaskResult:
    """Count the questions for which the query adapter ranks the right one of many memories first."""
    rng = random.Random(f"{SEED}:retrieval")
    correct = total = 0
    errors: list[tuple[str, str, str]] = []
    while total < count:
        episode = make_episode(rng, EpisodeSpec(documents=documents, questions=20))
        latents = clara.compress(episode.documents)
        for question in episode.questions:
            best = clara.retrieve(question.text, latents, 1).indices[0]
            total += 1
            if best == question.source:
                correct += 1
            elif question.source is not None:
                errors.append((question.text, episode.documents[question.source], episode.documents[best]))
    return TaskResult(Score(correct, total), {}, errors)


def evaluate_paraphrases(clara: Clara, count: int) -> TaskResult:
    """Count the restatements that contain the subject, the value and the attribute of every fact."""
    rng = random.Random(f"{SEED}:paraphrase")
    restatements = [make_restatement(rng, EpisodeSpec(unseen_values=number % 2 == 0)) for number in range(count)]
    documents = [[restatement.document] for restatement in restatements]
    outputs = clara.paraphrase(documents, [number % 13 for number in range(count)], _MAX_TOKENS)
    errors: list[tuple[str, str, str]] = []
    for restatement, output in zip(restatements, outputs, strict=True):
        parts = [part for fact in restatement.facts for part in (fact.subject, fact.value, fact.attribute)]
        if not all(_contains(output, part) for part in parts):
            errors.append((restatement.document, restatement.target, output))
    return TaskResult(Score(count - len(errors), count), {}, errors)


def _contains(text: str, part: str) -> bool:
    return part.removeprefix("the ").lower() in text.lower()
