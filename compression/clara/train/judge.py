"""How well a nano answers on what it never saw: exact answers, greedy, from the engine that serves requests.

Everything asked here is held out: by its seed at least, and where it says so by value or by phrasing too.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ..clara import Clara
from .fact import Mix
from .facts import NOT_STATED, Episode, episode, restatement

SEED = 20_000_003
_NEW = 40  # tokens; no answer is longer


class Share(NamedTuple):
    """How many of how many were right."""

    right: int
    asked: int

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.right / max(1, self.asked)


@dataclass(slots=True)
class Judged:
    """One task's result: its share, the shares by kind of fact, and what went wrong (question, wanted, said)."""

    share: Share
    kinds: dict[str, Share] = field(default_factory=dict[str, Share])
    wrong: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])


TASKS: dict[str, tuple[tuple[int, ...], Mix]] = {
    "seen values": ((1, 2, 3, 5), Mix(questions=3)),
    "unseen values": ((1, 2, 3, 5), Mix(questions=3, unseen=True)),
    "unseen phrasings": ((1, 2, 3, 5), Mix(questions=3, rephrased=True)),
    "unseen values and phrasings": ((1, 2, 3, 5), Mix(questions=3, unseen=True, rephrased=True)),
    "composed phrasings": ((1, 2, 3, 5), Mix(questions=3, rephrased=True, composed=True)),
    "20 memories": ((20,), Mix(questions=5)),
    "3 facts a document": ((1, 2), Mix(facts=3, questions=3)),
    "abstains when it should": ((1, 2, 3, 5), Mix(questions=3, abstain=1.0)),
    "abstains from near misses": ((1, 2, 3, 5), Mix(questions=3, abstain=1.0, composed=True, whose=True)),
}


def answers(clara: Clara, task: str, count: int, k: int | None = None) -> Judged:
    """Ask about `count` questions of a task; all memories are read, or the `k` that the query adapter chooses."""
    documents, mix = TASKS[task]
    rng = random.Random(f"{SEED}:{task}")  # noqa: S311 - made-up facts, no secrets
    made = [
        episode(rng, replace(mix, documents=documents[number % len(documents)]))
        for number in range(-(-count // mix.questions))
    ]
    return exact(clara, made, k)


def exact(clara: Clara, episodes: Sequence[Episode], k: int | None = None) -> Judged:
    """Ask every question of some episodes; right is what equals the answer, letter by letter."""
    rights: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    wrong: list[tuple[str, str, str]] = []
    for each in episodes:
        latents = clara.compress(each.documents)
        questions = [question.text for question in each.questions]
        shared = [latents] * len(questions)
        if k is None:
            said = clara.generate(questions, shared, _NEW)
        else:
            said = [reply.text for reply in clara.answers(questions, shared, k, _NEW)]
        for question, text in zip(each.questions, said, strict=True):
            kind = question.about[0]
            asked[kind] += 1
            if text.strip() == question.answer:
                rights[kind] += 1
            else:
                wrong.append((question.text, question.answer, text.strip()))
    kinds = {kind: Share(rights[kind], number) for kind, number in sorted(asked.items())}
    return Judged(Share(rights.total(), asked.total()), kinds, wrong)


def answers_when_stated(clara: Clara, count: int) -> Judged:
    """Count how often an answerable question gets an answer, right or wrong, and not "not stated"."""
    judged = answers(clara, "seen values", count)
    silent = [each for each in judged.wrong if each[2] == NOT_STATED]
    return Judged(Share(judged.share.asked - len(silent), judged.share.asked), {}, silent)


def retrieval(clara: Clara, count: int, among: int = 100) -> Judged:
    """Count how often the query adapter puts the right one of many memories first."""
    rng = random.Random(f"{SEED}:retrieval")  # noqa: S311 - made-up facts, no secrets
    right = asked = 0
    wrong: list[tuple[str, str, str]] = []
    while asked < count:
        each = episode(rng, Mix(documents=among, questions=20))
        latents = clara.compress(each.documents)
        for question in each.questions:
            first = clara.retrieve(question.text, latents, 1).indices[0]
            asked += 1
            if first == question.source:
                right += 1
            elif question.source is not None:
                wrong.append((question.text, each.documents[question.source], each.documents[first]))
    return Judged(Share(right, asked), {}, wrong)


def paraphrases(clara: Clara, count: int) -> Judged:
    """Count restatements that keep everything the fact says: whom it is about, its value, its other half."""
    rng = random.Random(f"{SEED}:paraphrase")  # noqa: S311 - made-up facts, no secrets
    made = [restatement(rng, Mix(unseen=number % 2 == 0)) for number in range(count)]
    said = clara.paraphrase([[each.document] for each in made], [number % 13 for number in range(count)], _NEW)
    wrong: list[tuple[str, str, str]] = []
    for each, text in zip(made, said, strict=True):
        parts = [part for fact in each.facts for part in (fact.subject, fact.v, fact.a)]
        if not all(_holds(text, part) for part in parts):
            wrong.append((each.document, each.target, text))
    return Judged(Share(count - len(wrong), count), {}, wrong)


def _holds(text: str, part: str) -> bool:
    return part.removeprefix("the ").lower() in text.lower()
