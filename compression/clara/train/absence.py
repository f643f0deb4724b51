"""Questions that nothing in an episode answers, and that look as if something did; not how they are asked.

What is asked for is the same of somebody else, whose name may be in the episode too, or something else of the same one.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from . import subjects
from .fact import Fact, Mix, fact

# Kinds whose questions can mean one another: "Where does she live?", "What is she studying?", "When is the exam?".
CONFUSED = (
    frozenset({"city", "address"}),
    frozenset({"studies", "learns", "school"}),
    frozenset({"starts", "weekday"}),
    frozenset({"relative", "role"}),
)


# How often what is asked is of a subject almost the same, of another one, of another one in the episode, or another
# kind of the same subject; added up. Then how often another person is the user.
NEAR, WHOSE = (0.35, 0.55, 0.7, 0.95), (0.15, 0.6, 0.75, 0.95)
USER, WHOSE_USER = 0.45, 0.15


def other(rng: random.Random, mix: Mix, source: Fact, stated: Sequence[Fact]) -> Fact:
    """Return a fact that an episode does not hold: mostly another of the same subject, or the same of another one."""
    while True:
        toss = rng.random()
        if toss < (0.2 if mix.hard else 0.5) and source.kind.about == "person":
            made = fact(rng, mix, subject=source.subject)
        elif toss < 0.85:
            made = fact(rng, mix, kind=source.kind)
        else:
            made = fact(rng, mix)
        if not any(each.key[:2] == made.key[:2] for each in stated):
            return made


def near(rng: random.Random, mix: Mix, source: Fact, stated: Sequence[Fact]) -> Fact:
    """Return a fact that an episode does not hold and that is nearer still to one of those that it does."""
    while True:
        made = _near(rng, mix, source, stated)
        if not any(answered(made, each) for each in stated):
            return made


def answered(asked: Fact, known: Fact) -> bool:
    """Say whether somebody who knows one fact could answer a question about another."""
    return tells(asked.key[:2], known.key[:2])


def tells(asked: tuple[str, str], known: tuple[str, str]) -> bool:
    """Say the same of what two facts are about: their kinds' names and their subjects."""
    if asked[1].removeprefix("the ") != known[1].removeprefix("the "):
        return False
    kinds = {asked[0], known[0]}
    return len(kinds) == 1 or any(kinds <= each for each in CONFUSED)


def _near(rng: random.Random, mix: Mix, source: Fact, stated: Sequence[Fact]) -> Fact:
    toss, about = rng.random(), source.kind.about
    alike, same_kind, here, same_subject = WHOSE if mix.whose else NEAR
    if toss < alike:
        return replace(source, subject=subjects.alike(about, source.subject, rng))
    if toss < same_kind:
        return replace(source, subject=subjects.subject(about, rng, WHOSE_USER if mix.whose else USER))
    others = [each.subject for each in stated if each.kind.about == about and each.subject != source.subject]
    if toss < here and others:
        return replace(source, subject=rng.choice(others))
    kinds = [kind for kind in mix.kinds if kind.about == about and kind is not source.kind]
    if toss < same_subject and kinds:
        return replace(fact(rng, mix, kind=rng.choice(kinds)), subject=source.subject)
    return fact(rng, mix)
