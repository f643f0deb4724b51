"""Whom clara-nano's facts are about: the user, people, and numbered or named things; made up like the values."""

import random

from . import words
from .values import Make, first, made_up, name, place, title


def subject(kind: str, rng: random.Random, user: float = 0.45) -> str:
    """Return whom a fact is about: the user, a person, or a thing of this kind."""
    if kind != "person":
        return SUBJECTS[kind](rng)
    if rng.random() < user:
        return "the user"
    return first(rng) if rng.random() < 0.4 else name(rng)


def alike(kind: str, near: str, rng: random.Random) -> str:
    """Return another subject of a kind: often one that looks like this one, with one digit or one name changed."""
    digits = [place for place, letter in enumerate(near) if letter.isdigit()]
    if digits and rng.random() < 0.5:
        place = rng.choice(digits)
        return near[:place] + str((int(near[place]) + rng.randint(1, 9)) % 10) + near[place + 1 :]
    if kind != "person":
        return SUBJECTS[kind](rng)
    given, *family = near.split()
    if near != "the user" and family and rng.random() < 0.5:
        other, *others = name(rng).split()
        return f"{given} {others[-1]}" if rng.random() < 0.5 else f"{other} {family[0]}"
    return subject(kind, rng)


def _invoice(rng: random.Random) -> str:
    return f"{rng.choice(('the invoice', 'invoice'))} {rng.randint(100, 9999)}"


def _order(rng: random.Random) -> str:
    return f"{rng.choice(('the order', 'order', 'the package', 'package'))} {rng.randint(100, 9999)}"


def _event(rng: random.Random) -> str:
    event = rng.choice(words.EVENTS)
    more = (f"with {first(rng)}", f"about {rng.choice(words.NOUNS)}s", f"of {made_up(rng)}")
    return f"the {event} {rng.choice(more)}"


def _project(rng: random.Random) -> str:
    return f"project {rng.choice((made_up(rng), rng.choice(words.NOUNS).capitalize()))}"


def _flight(rng: random.Random) -> str:
    article = rng.choice(("flight", "the flight"))
    return f"{article} {rng.choice('ABDEKLQSUX')}{rng.choice('ABEFKLRSWZ')}{rng.randint(10, 999)}"


def _server(rng: random.Random) -> str:
    article = rng.choice(("server", "the server", "the service"))
    return f"{article} {rng.choice((made_up(rng).lower(), rng.choice(words.NOUNS)))}"


def _door(rng: random.Random) -> str:
    what = rng.choice(("door", "safe", "gate", "locker", "garage"))
    return f"the {what} of {rng.choice((first(rng), made_up(rng), f'room {rng.randint(1, 99)}'))}"


def _shop(rng: random.Random) -> str:
    what = rng.choice(("shop", "library", "museum", "bakery", "cafe", "pharmacy"))
    where = (f"in {place(rng)}", f"at {rng.choice(words.NOUNS).capitalize()} Street", made_up(rng))
    return f"the {what} {rng.choice(where)}"


def _product(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"the {rng.choice(words.ADJECTIVES)} {rng.choice(words.NOUNS)}"
    return f"the {rng.choice(words.NOUNS)} of {first(rng)}"


SUBJECTS: dict[str, Make] = {
    "invoice": _invoice,
    "order": _order,
    "event": _event,
    "project": _project,
    "flight": _flight,
    "server": _server,
    "door": _door,
    "shop": _shop,
    "bookname": title,
    "product": _product,
}
