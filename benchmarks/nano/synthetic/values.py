"""Random values for facts: names, places, numbers and phrases, from a seeded generator.

A tenth of all values, by hash, is held out and never used in training. Values from closed lists (weekdays, relatives,
pets, ...) are used on both sides.
"""

import random
import zlib
from collections.abc import Callable

from . import word_lists

ValueMaker = Callable[[random.Random], str]
CLOSED_TYPES = frozenset({"weekday", "container", "pet", "relative", "role", "thing"})


def is_held_out(value: str) -> bool:
    """Return True if a value belongs to the held-out tenth."""
    return zlib.crc32(value.lower().encode()) % 10 == 0


_TRAINING_WORDS = [word for word in word_lists.all_words() if not is_held_out(word)]


def make_city(rng: random.Random) -> str:
    """Return a real or invented city."""
    return rng.choice(word_lists.PLACES) if rng.random() < 0.5 else make_word(rng)


def make_word(rng: random.Random) -> str:
    """Return an invented, pronounceable, capitalised word."""
    return (
        "".join(rng.choice(word_lists.SYLLABLES) for _ in range(rng.randint(1, 2))) + rng.choice(word_lists.CODAS)
    ).capitalize()


def make_blend(rng: random.Random) -> str:
    """Return the beginning of a training word joined to the end of another: an unfamiliar sequence of letters."""
    start, end = (rng.choice(_TRAINING_WORDS) for _ in range(2))
    return start[: rng.randint(2, max(2, len(start) - 1))].lower() + end[rng.randint(1, max(1, len(end) - 2)) :].lower()


def make_spelled_words(rng: random.Random, least: int, most: int) -> str:
    """Return random words, blends, numbers and invented names, which a model can only copy letter by letter.

    Unlike `facts.make_noise` it never returns a held-out word.
    """
    makers: tuple[ValueMaker, ...] = (
        _choose_training_word,
        make_blend,
        make_blend,
        make_word,
        lambda rng: str(rng.randint(0, 10 ** rng.randint(1, 5))),
    )
    parts = [rng.choice(makers)(rng) for _ in range(rng.randint(least, most))]
    return (
        " ".join(part.capitalize() if rng.random() < 0.2 else part for part in parts if not is_held_out(part)) or "so"
    )


def _choose_training_word(rng: random.Random) -> str:
    return rng.choice(_TRAINING_WORDS)


def make_first_name(rng: random.Random) -> str:
    """Return a given name."""
    return rng.choice(word_lists.FIRST_NAMES) if rng.random() < 0.7 else make_word(rng)


def make_full_name(rng: random.Random) -> str:
    """Return a given name and a family name."""
    return f"{make_first_name(rng)} {rng.choice(word_lists.LAST_NAMES) if rng.random() < 0.6 else make_word(rng)}"


def make_activity(rng: random.Random) -> str:
    """Return an activity, such as "hiking in quiet valleys"."""
    if rng.random() < 0.4:
        phrase = rng.choice(word_lists.OBJECT_ACTIVITIES).replace("_", " ").replace(":", " ")
    else:
        phrase = rng.choice(word_lists.ACTIVITIES)
    if rng.random() < 0.6:
        preposition = rng.choice(("in", "in", "in", "near", "around"))
        adjective = f"{rng.choice(word_lists.ADJECTIVES)} " if rng.random() < 0.6 else ""
        phrase += f" {preposition} {adjective}{rng.choice(word_lists.PLACE_NOUNS)}"
    return phrase


def make_job(rng: random.Random) -> str:
    """Return an occupation of one or two words."""
    return (
        f"{rng.choice(word_lists.JOB_FIELDS)} {rng.choice(word_lists.JOBS)}"
        if rng.random() < 0.6
        else rng.choice(word_lists.JOBS)
    )


def make_date(rng: random.Random) -> str:
    """Return a date, "3 May", "May 3" or with a year."""
    number, month = rng.randint(1, 28), rng.choice(word_lists.MONTHS)
    year = f" {rng.randint(1950, 2030)}" if rng.random() < 0.3 else ""
    return f"{number} {month}{year}" if rng.random() < 0.7 else f"{month} {number}{',' * bool(year)}{year}"


def make_time(rng: random.Random) -> str:
    """Return a time of day, "14:35" or "9 am"."""
    if rng.random() < 0.25:
        return f"{rng.randint(1, 12)} {rng.choice(('am', 'pm'))}"
    return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}"


def make_money(rng: random.Random) -> str:
    """Return an amount, "$45", "120 euros" or "89.90 dollars"."""
    amount = str(rng.randint(2, 10 ** rng.randint(1, 5)))
    if rng.random() < 0.2:
        amount += f".{rng.randint(10, 99)}"
    return rng.choice((f"${amount}", f"{amount} euros", f"{amount} dollars", f"{amount} EUR"))


def make_title(rng: random.Random) -> str:
    """Return a book's title."""
    adjective, noun, other = (
        rng.choice(word_lists.ADJECTIVES),
        rng.choice(word_lists.NOUNS),
        rng.choice(word_lists.NOUNS),
    )
    shapes = (
        f"The {adjective} {noun}",
        f"The {noun} of {make_word(rng)}",
        f"A {noun} and a {other}",
        f"{adjective} {noun}",
    )
    capitalized = [word if word in ("of", "and", "a") else word.capitalize() for word in rng.choice(shapes).split()]
    return " ".join(capitalized)


def make_code(rng: random.Random) -> str:
    """Return a code of digits, or of letters and digits."""
    digits = "".join(str(rng.randint(0, 9)) for _ in range(rng.randint(3, 6)))
    letters = "".join(rng.choice("ABCDEFGHKLMNPQRSTUVWXYZ") for _ in range(2))
    return rng.choice((digits, digits, f"{letters}-{digits[:4]}", f"{letters}{digits[:3]}"))


def make_email(rng: random.Random) -> str:
    """Return an e-mail address at a domain reserved for examples."""
    local = rng.choice(
        (
            make_first_name(rng),
            f"{make_first_name(rng)}.{rng.choice(word_lists.LAST_NAMES)}",
            f"{make_first_name(rng)}{rng.randint(1, 99)}",
        )
    )
    return f"{local.lower()}@example.{rng.choice(('com', 'org', 'net'))}"


def make_address(rng: random.Random) -> str:
    """Return a street and a number."""
    street = rng.choice((rng.choice(word_lists.NOUNS).capitalize(), make_word(rng), rng.choice(word_lists.LAST_NAMES)))
    return f"{rng.randint(1, 199)} {street} {rng.choice(word_lists.STREET_ENDINGS)}"


def make_company(rng: random.Random) -> str:
    """Return a company's name."""
    stem = rng.choice((make_word(rng), rng.choice(word_lists.NOUNS).capitalize(), rng.choice(word_lists.LAST_NAMES)))
    return f"{stem} {rng.choice(word_lists.COMPANY_ENDINGS)}" if rng.random() < 0.8 else stem


def make_things(rng: random.Random) -> str:
    """Return several things of a kind, with or without an adjective."""
    adjective = f"{rng.choice(word_lists.ADJECTIVES)} " if rng.random() < 0.7 else ""
    return f"{adjective}{rng.choice([noun for noun in word_lists.NOUNS if noun[-1] not in 'fshxy'])}s"


def make_food(rng: random.Random) -> str:
    """Return a food or a dish."""
    return (
        f"{rng.choice(word_lists.FOODS)} {rng.choice(word_lists.DISHES)}"
        if rng.random() < 0.6
        else rng.choice(word_lists.FOODS)
    )


def make_drink(rng: random.Random) -> str:
    """Return a drink, with or without an adjective or an ingredient."""
    drink = rng.choice(word_lists.DRINKS)
    drinks = (f"{rng.choice(word_lists.ADJECTIVES)} {drink}", f"{drink} with {rng.choice(word_lists.FOODS)}", drink)
    return rng.choice(drinks)


def make_venue(rng: random.Random) -> str:
    """Return a place for an event."""
    return rng.choice(
        (
            f"room {rng.randint(1, 499)}",
            f"the {rng.choice(word_lists.ADJECTIVES)} {rng.choice(('hall', 'room', 'garden', 'cafe', 'library'))}",
            make_city(rng),
        )
    )


def _choice_maker(choices: list[str]) -> ValueMaker:
    return lambda rng: rng.choice(choices)


def _number_maker(low: int, high: int, shape: str = "{}") -> ValueMaker:
    return lambda rng: shape.format(rng.randint(low, high))


def _make_car(rng: random.Random) -> str:
    colour = f"{rng.choice(word_lists.COLOURS)} " if rng.random() < 0.5 else ""
    return f"{colour}{rng.choice(word_lists.CARS)}"


def _make_school(rng: random.Random) -> str:
    city = make_city(rng)
    return rng.choice((f"{city} University", f"the University of {city}", f"{city} College"))


VALUE_MAKERS: dict[str, ValueMaker] = {
    "activity": make_activity,
    "job": make_job,
    "company": make_company,
    "first": make_first_name,
    "name": make_full_name,
    "place": make_city,
    "day": make_date,
    "time": make_time,
    "money": make_money,
    "title": make_title,
    "code": make_code,
    "email": make_email,
    "address": make_address,
    "things": make_things,
    "food": make_food,
    "drink": make_drink,
    "venue": make_venue,
    "car": _make_car,
    "school": _make_school,
    "age": _number_maker(2, 99),
    "food1": _choice_maker(word_lists.FOODS),
    "colour": _choice_maker(word_lists.COLOURS),
    "country": _choice_maker(word_lists.COUNTRIES),
    "language": _choice_maker(word_lists.LANGUAGES),
    "field": _choice_maker(word_lists.FIELDS),
    "instrument": _choice_maker(word_lists.INSTRUMENTS),
    "weekday": _choice_maker(word_lists.WEEKDAYS),
    "container": _choice_maker(word_lists.CONTAINERS),
    "pet": _choice_maker(word_lists.PETS),
    "relative": _choice_maker(word_lists.RELATIVES),
    "role": _choice_maker(word_lists.ROLES),
    "thing": _choice_maker([thing.replace("_", " ") for thing in word_lists.BELONGINGS]),
    "team": lambda rng: f"{make_city(rng)} {rng.choice(word_lists.TEAM_ENDINGS)}",
    "height": lambda rng: f"{rng.randint(120, 205)} cm" if rng.random() < 0.6 else f"1.{rng.randint(40, 99)} m",
    "phone": lambda rng: f"{rng.randint(100, 999)} {rng.randint(1000, 9999)}",
    "gate": lambda rng: f"{rng.choice('ABCDEFGH')}{rng.randint(1, 60)}",
    "version": lambda rng: ".".join(str(rng.randint(0, 20)) for _ in range(rng.randint(2, 3))),
    "ip": lambda rng: f"10.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}",
}


def make_value(value_type: str, rng: random.Random, *, unseen: bool) -> str:
    """Return a value of a type, from the held-out side if `unseen`."""
    while True:
        value = VALUE_MAKERS[value_type](rng)
        if value_type in CLOSED_TYPES or is_held_out(value) == unseen:
            return value
