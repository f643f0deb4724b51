"""Word lists for synthetic facts, read from `word_lists.txt`.

The names and places are common ones. `values` makes up further words from `SYLLABLES` and `CODAS`.
"""

from pathlib import Path


def _read_lists() -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    name = ""
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        else:
            lists.setdefault(name, []).extend(line.split())
    return lists


_LISTS = _read_lists()


def all_words() -> list[str]:
    """Return all distinct words of more than two letters."""
    return sorted({word for words in _LISTS.values() for word in words if len(word) > 2 and word.isalpha()})


FIRST_NAMES = _LISTS["FIRST_NAMES"]
LAST_NAMES = _LISTS["LAST_NAMES"]
PLACES = _LISTS["PLACES"]
COUNTRIES = _LISTS["COUNTRIES"]
LANGUAGES = _LISTS["LANGUAGES"]
COLOURS = _LISTS["COLOURS"]
FOODS = _LISTS["FOODS"]
DISHES = _LISTS["DISHES"]
DRINKS = _LISTS["DRINKS"]
ACTIVITIES = _LISTS["ACTIVITIES"]
OBJECT_ACTIVITIES = _LISTS["OBJECT_ACTIVITIES"]
PLACE_NOUNS = _LISTS["PLACE_NOUNS"]
ADJECTIVES = _LISTS["ADJECTIVES"]
NOUNS = _LISTS["NOUNS"]
JOBS = _LISTS["JOBS"]
JOB_FIELDS = _LISTS["JOB_FIELDS"]
FIELDS = _LISTS["FIELDS"]
PETS = _LISTS["PETS"]
RELATIVES = _LISTS["RELATIVES"]
ROLES = _LISTS["ROLES"]
INSTRUMENTS = _LISTS["INSTRUMENTS"]
CARS = _LISTS["CARS"]
COMPANY_ENDINGS = _LISTS["COMPANY_ENDINGS"]
TEAM_ENDINGS = _LISTS["TEAM_ENDINGS"]
STREET_ENDINGS = _LISTS["STREET_ENDINGS"]
CONTAINERS = _LISTS["CONTAINERS"]
BELONGINGS = _LISTS["BELONGINGS"]
MONTHS = _LISTS["MONTHS"]
WEEKDAYS = _LISTS["WEEKDAYS"]
EVENTS = _LISTS["EVENTS"]
SYLLABLES = _LISTS["SYLLABLES"]
CODAS = _LISTS["CODAS"]
GENERAL = _LISTS["GENERAL"]
