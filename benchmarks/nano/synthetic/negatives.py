"""Unanswerable questions: facts that an episode does not state but that resemble the stated ones.

They are about the same kind of fact of another subject, or about another kind of fact of the same subject.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from . import subjects
from .facts import EpisodeSpec, Fact, make_fact

# Kinds with questions that can mean one another: "Where does she live?", "What is she studying?", "When is the exam?".
AMBIGUOUS_KINDS = (
    frozenset({"city", "address"}),
    frozenset({"studies", "learns", "school"}),
    frozenset({"starts", "weekday"}),
    frozenset({"relative", "role"}),
)

# Cumulative probabilities of a near negative: the same kind of a similar subject, of a new one, of another subject of
# the episode; another kind of the same subject. The rest is any fact. Then how often a new person is the user.
NEAR, SUBJECT_NEAR = (0.35, 0.55, 0.7, 0.95), (0.15, 0.6, 0.75, 0.95)
USER_SHARE, SUBJECT_USER_SHARE = 0.45, 0.15


def make_negative(rng: random.Random, spec: EpisodeSpec, source: Fact, stated: Sequence[Fact]) -> Fact:
    """Return a fact that is not stated, mostly of the same subject or the same kind as `source`."""
    while True:
        toss = rng.random()
        if toss < (0.2 if spec.hard_negatives else 0.5) and source.kind.subject_type == "person":
            negative = make_fact(rng, spec, subject=source.subject)
        elif toss < 0.85:
            negative = make_fact(rng, spec, kind=source.kind)
        else:
            negative = make_fact(rng, spec)
        if not any(fact.topic == negative.topic for fact in stated):
            return negative


def make_near_negative(rng: random.Random, spec: EpisodeSpec, source: Fact, stated: Sequence[Fact]) -> Fact:
    """Return a fact that is not stated and that no stated fact answers, as similar to `source` as possible."""
    while True:
        negative = _make_near_candidate(rng, spec, source, stated)
        if not any(topics_match(negative.topic, fact.topic) for fact in stated):
            return negative


def topics_match(asked: tuple[str, str], stated: tuple[str, str]) -> bool:
    """Return True if a fact about one topic answers a question about another; a topic is a kind and a subject."""
    if asked[1].removeprefix("the ") != stated[1].removeprefix("the "):
        return False
    kinds = {asked[0], stated[0]}
    return len(kinds) == 1 or any(kinds <= group for group in AMBIGUOUS_KINDS)


def _make_near_candidate(rng: random.Random, spec: EpisodeSpec, source: Fact, stated: Sequence[Fact]) -> Fact:
    toss, subject_type = rng.random(), source.kind.subject_type
    similar, same_kind, in_episode, same_subject = SUBJECT_NEAR if spec.subject_negatives else NEAR
    if toss < similar:
        return replace(source, subject=subjects.make_similar_subject(subject_type, source.subject, rng))
    if toss < same_kind:
        user_share = SUBJECT_USER_SHARE if spec.subject_negatives else USER_SHARE
        return replace(source, subject=subjects.make_subject(subject_type, rng, user_share))
    others = [
        fact.subject for fact in stated if fact.kind.subject_type == subject_type and fact.subject != source.subject
    ]
    if toss < in_episode and others:
        return replace(source, subject=rng.choice(others))
    kinds = [kind for kind in spec.kinds if kind.subject_type == subject_type and kind is not source.kind]
    if toss < same_subject and kinds:
        return replace(make_fact(rng, spec, kind=rng.choice(kinds)), subject=source.subject)
    return make_fact(rng, spec)
