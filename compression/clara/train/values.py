"""What fills a fact's holes: names, places, numbers, phrases, from a seeded generator; knows no sentences.

Every value belongs to one of two sides by its own hash: a tenth is held out, and no training fact ever has it. Values
whose choice is a closed list by nature (months, relations, pets) are on both sides.
"""

import random
import zlib
from collections.abc import Callable

from . import words

Make = Callable[[random.Random], str]
CLOSED = frozenset({"weekday", "container", "pet", "relative", "role", "thing"})


def held_out(value: str) -> bool:
    """Say whether a value belongs to the held-out tenth."""
    return zlib.crc32(value.lower().encode()) % 10 == 0


_KNOWN = [word for word in words.every() if not held_out(word)]


def place(rng: random.Random) -> str:
    """Return a city, real or made up."""
    return rng.choice(words.PLACES) if rng.random() < 0.5 else made_up(rng)


def made_up(rng: random.Random) -> str:
    """Return a pronounceable word that nobody has seen, with a capital."""
    return (
        "".join(rng.choice(words.SYLLABLES) for _ in range(rng.randint(1, 2))) + rng.choice(words.CODAS)
    ).capitalize()


def blend(rng: random.Random) -> str:
    """Return the beginning of one known word with the end of another: letters in an order that nobody has seen."""
    one, other = (rng.choice(_KNOWN) for _ in range(2))
    return one[: rng.randint(2, max(2, len(one) - 1))].lower() + other[rng.randint(1, max(1, len(other) - 2)) :].lower()


def spelled(rng: random.Random, least: int, most: int) -> str:
    """Return unconnected words, blends, numbers and made-up names: what must be copied letter by letter.

    Unlike in `facts.noise`, no word in it is one that is held out.
    """
    makers: tuple[Make, ...] = (_known, blend, blend, made_up, lambda rng: str(rng.randint(0, 10 ** rng.randint(1, 5))))
    parts = [rng.choice(makers)(rng) for _ in range(rng.randint(least, most))]
    return " ".join(part.capitalize() if rng.random() < 0.2 else part for part in parts if not held_out(part)) or "so"


def _known(rng: random.Random) -> str:
    return rng.choice(_KNOWN)


def first(rng: random.Random) -> str:
    """Return a given name."""
    return rng.choice(words.FIRST_NAMES) if rng.random() < 0.7 else made_up(rng)


def name(rng: random.Random) -> str:
    """Return a given name and a family name."""
    return f"{first(rng)} {rng.choice(words.LAST_NAMES) if rng.random() < 0.6 else made_up(rng)}"


def activity(rng: random.Random) -> str:
    """Return what somebody likes doing, such as "hiking in quiet valleys"."""
    if rng.random() < 0.4:
        phrase = rng.choice(words.OBJECT_ACTIVITIES).replace("_", " ").replace(":", " ")
    else:
        phrase = rng.choice(words.ACTIVITIES)
    if rng.random() < 0.6:
        where = rng.choice(("in", "in", "in", "near", "around"))
        kind = f"{rng.choice(words.ADJECTIVES)} " if rng.random() < 0.6 else ""
        phrase += f" {where} {kind}{rng.choice(words.PLACE_NOUNS)}"
    return phrase


def job(rng: random.Random) -> str:
    """Return an occupation of one or two words."""
    return f"{rng.choice(words.JOB_FIELDS)} {rng.choice(words.JOBS)}" if rng.random() < 0.6 else rng.choice(words.JOBS)


def day(rng: random.Random) -> str:
    """Return a date, "3 May", "May 3" or with a year."""
    number, month = rng.randint(1, 28), rng.choice(words.MONTHS)
    year = f" {rng.randint(1950, 2030)}" if rng.random() < 0.3 else ""
    return f"{number} {month}{year}" if rng.random() < 0.7 else f"{month} {number}{',' * bool(year)}{year}"


def time(rng: random.Random) -> str:
    """Return a time of day, "14:35" or "9 am"."""
    if rng.random() < 0.25:
        return f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}"
    return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"


def money(rng: random.Random) -> str:
    """Return an amount, "$45", "120 euros" or "89.90 dollars"."""
    amount = str(rng.randint(2, 10 ** rng.randint(1, 5)))
    if rng.random() < 0.2:
        amount += f".{rng.randint(10, 99)}"
    return rng.choice((f"${amount}", f"{amount} euros", f"{amount} dollars", f"{amount} EUR"))


def title(rng: random.Random) -> str:
    """Return a book's title."""
    adjective, noun, other = rng.choice(words.ADJECTIVES), rng.choice(words.NOUNS), rng.choice(words.NOUNS)
    shapes = (
        f"The {adjective} {noun}",
        f"The {noun} of {made_up(rng)}",
        f"A {noun} and a {other}",
        f"{adjective} {noun}",
    )
    capital = [word if word in ("of", "and", "a") else word.capitalize() for word in rng.choice(shapes).split()]
    return " ".join(capital)


def code(rng: random.Random) -> str:
    """Return a code of digits, or of letters and digits."""
    digits = "".join(str(rng.randint(0, 9)) for _ in range(rng.randint(3, 6)))
    letters = "".join(rng.choice("ABCDEFGHKLMNPQRSTUVWXYZ") for _ in range(2))
    return rng.choice((digits, digits, f"{letters}-{digits[:4]}", f"{letters}{digits[:3]}"))


def email(rng: random.Random) -> str:
    """Return an address at one of the domains kept for examples."""
    local = rng.choice(
        (first(rng), f"{first(rng)}.{rng.choice(words.LAST_NAMES)}", f"{first(rng)}{rng.randint(1, 99)}")
    )
    return f"{local.lower()}@example.{rng.choice(('com', 'org', 'net'))}"


def address(rng: random.Random) -> str:
    """Return a street and a number."""
    street = rng.choice((rng.choice(words.NOUNS).capitalize(), made_up(rng), rng.choice(words.LAST_NAMES)))
    return f"{rng.randint(1, 199)} {street} {rng.choice(words.STREET_ENDINGS)}"


def company(rng: random.Random) -> str:
    """Return a company's name."""
    stem = rng.choice((made_up(rng), rng.choice(words.NOUNS).capitalize(), rng.choice(words.LAST_NAMES)))
    return f"{stem} {rng.choice(words.COMPANY_ENDINGS)}" if rng.random() < 0.8 else stem


def things(rng: random.Random) -> str:
    """Return several things of a kind, with or without an adjective."""
    adjective = f"{rng.choice(words.ADJECTIVES)} " if rng.random() < 0.7 else ""
    return f"{adjective}{rng.choice([noun for noun in words.NOUNS if noun[-1] not in 'fshxy'])}s"


def food(rng: random.Random) -> str:
    """Return something to eat."""
    return f"{rng.choice(words.FOODS)} {rng.choice(words.DISHES)}" if rng.random() < 0.6 else rng.choice(words.FOODS)


def drink(rng: random.Random) -> str:
    """Return a drink, perhaps with a word more."""
    plain = rng.choice(words.DRINKS)
    more = (f"{rng.choice(words.ADJECTIVES)} {plain}", f"{plain} with {rng.choice(words.FOODS)}", plain)
    return rng.choice(more)


def venue(rng: random.Random) -> str:
    """Return a place where something is held."""
    return rng.choice(
        (
            f"room {rng.randint(1, 499)}",
            f"the {rng.choice(words.ADJECTIVES)} {rng.choice(('hall', 'room', 'garden', 'cafe', 'library'))}",
            place(rng),
        )
    )


def _pick(choices: list[str]) -> Make:
    return lambda rng: rng.choice(choices)


def _number(low: int, high: int, shape: str = "{}") -> Make:
    return lambda rng: shape.format(rng.randint(low, high))


def _car(rng: random.Random) -> str:
    colour = f"{rng.choice(words.COLOURS)} " if rng.random() < 0.5 else ""
    return f"{colour}{rng.choice(words.CARS)}"


def _school(rng: random.Random) -> str:
    where = place(rng)
    return rng.choice((f"{where} University", f"the University of {where}", f"{where} College"))


VALUES: dict[str, Make] = {
    "activity": activity,
    "job": job,
    "company": company,
    "first": first,
    "name": name,
    "place": place,
    "day": day,
    "time": time,
    "money": money,
    "title": title,
    "code": code,
    "email": email,
    "address": address,
    "things": things,
    "food": food,
    "drink": drink,
    "venue": venue,
    "car": _car,
    "school": _school,
    "age": _number(2, 99),
    "food1": _pick(words.FOODS),
    "colour": _pick(words.COLOURS),
    "country": _pick(words.COUNTRIES),
    "language": _pick(words.LANGUAGES),
    "field": _pick(words.FIELDS),
    "instrument": _pick(words.INSTRUMENTS),
    "weekday": _pick(words.WEEKDAYS),
    "container": _pick(words.CONTAINERS),
    "pet": _pick(words.PETS),
    "relative": _pick(words.RELATIVES),
    "role": _pick(words.ROLES),
    "thing": _pick([thing.replace("_", " ") for thing in words.KEPT]),
    "team": lambda rng: f"{place(rng)} {rng.choice(words.TEAM_ENDINGS)}",
    "height": lambda rng: f"{rng.randint(120, 205)} cm" if rng.random() < 0.6 else f"1.{rng.randint(40, 99)} m",
    "phone": lambda rng: f"{rng.randint(100, 999)} {rng.randint(1000, 9999)}",
    "gate": lambda rng: f"{rng.choice('ABCDEFGH')}{rng.randint(1, 60)}",
    "version": lambda rng: ".".join(str(rng.randint(0, 20)) for _ in range(rng.randint(2, 3))),
    "ip": lambda rng: f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}",
}


def value(kind: str, rng: random.Random, *, unseen: bool) -> str:
    """Return a value of a kind, from the held-out side or from the other one."""
    while True:
        made = VALUES[kind](rng)
        if kind in CLOSED or held_out(made) == unseen:
            return made
