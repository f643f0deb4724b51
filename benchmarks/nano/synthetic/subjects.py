"""Random subjects of facts: the user, people, and numbered or named things."""

import random

from . import word_lists
from .values import ValueMaker, make_city, make_first_name, make_full_name, make_title, make_word


def make_subject(subject_type: str, rng: random.Random, user_share: float = 0.45) -> str:
    """Return a subject of a type; a person is the user with probability `user_share`."""
    if subject_type != "person":
        return SUBJECT_MAKERS[subject_type](rng)
    if rng.random() < user_share:
        return "the user"
    return make_first_name(rng) if rng.random() < 0.4 else make_full_name(rng)


def make_similar_subject(subject_type: str, subject: str, rng: random.Random) -> str:
    """Return another subject of a type, often with one digit or one name of `subject` changed."""
    digits = [index for index, character in enumerate(subject) if character.isdigit()]
    if digits and rng.random() < 0.5:
        index = rng.choice(digits)
        digit = (int(subject[index]) + rng.randint(1, 9)) % 10
        return subject[:index] + str(digit) + subject[index + 1 :]
    if subject_type != "person":
        return SUBJECT_MAKERS[subject_type](rng)
    first_name, *last_names = subject.split()
    if subject != "the user" and last_names and rng.random() < 0.5:
        other_first_name, *other_last_names = make_full_name(rng).split()
        if rng.random() < 0.5:
            return f"{first_name} {other_last_names[-1]}"
        return f"{other_first_name} {last_names[0]}"
    return make_subject(subject_type, rng)


def _make_invoice(rng: random.Random) -> str:
    return f"{rng.choice(('the invoice', 'invoice'))} {rng.randint(100, 9999)}"


def _make_order(rng: random.Random) -> str:
    return f"{rng.choice(('the order', 'order', 'the package', 'package'))} {rng.randint(100, 9999)}"


def _make_event(rng: random.Random) -> str:
    event = rng.choice(word_lists.EVENTS)
    addition = (f"with {make_first_name(rng)}", f"about {rng.choice(word_lists.NOUNS)}s", f"of {make_word(rng)}")
    return f"the {event} {rng.choice(addition)}"


def _make_project(rng: random.Random) -> str:
    return f"project {rng.choice((make_word(rng), rng.choice(word_lists.NOUNS).capitalize()))}"


def _make_flight(rng: random.Random) -> str:
    article = rng.choice(("flight", "the flight"))
    return f"{article} {rng.choice('ABDEKLQSUX')}{rng.choice('ABEFKLRSWZ')}{rng.randint(10, 999)}"


def _make_server(rng: random.Random) -> str:
    article = rng.choice(("server", "the server", "the service"))
    return f"{article} {rng.choice((make_word(rng).lower(), rng.choice(word_lists.NOUNS)))}"


def _make_door(rng: random.Random) -> str:
    thing = rng.choice(("door", "safe", "gate", "locker", "garage"))
    return f"the {thing} of {rng.choice((make_first_name(rng), make_word(rng), f'room {rng.randint(1, 99)}'))}"


def _make_shop(rng: random.Random) -> str:
    building = rng.choice(("shop", "library", "museum", "bakery", "cafe", "pharmacy"))
    addition = (f"in {make_city(rng)}", f"at {rng.choice(word_lists.NOUNS).capitalize()} Street", make_word(rng))
    return f"the {building} {rng.choice(addition)}"


def _make_product(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return f"the {rng.choice(word_lists.ADJECTIVES)} {rng.choice(word_lists.NOUNS)}"
    return f"the {rng.choice(word_lists.NOUNS)} of {make_first_name(rng)}"


SUBJECT_MAKERS: dict[str, ValueMaker] = {
    "invoice": _make_invoice,
    "order": _make_order,
    "event": _make_event,
    "project": _make_project,
    "flight": _make_flight,
    "server": _make_server,
    "door": _make_door,
    "shop": _make_shop,
    "bookname": make_title,
    "product": _make_product,
}
