"""Finds lines by their values: the greatest or least of a field or column, odd values and numbers, named keys."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from . import answer_types, bm25, severity
from .bm25 import Query, Span
from .outliers import DEFAULT_OUTLIER_WEIGHTS, find_outliers, find_outlying_numbers, is_quantity, rank_numbers

ASKED_LINES = 3  # with the greatest or least values of a field
MAX_COMPARED_COLUMNS = 3  # more columns give one line each
MAX_NAMED_FIELDS = 8  # whose values are compared, those with most values first
MAX_COLUMNS = 10  # of lines with columns, from the left
MIN_NUMERIC_SHARE = 0.8  # of the lines with a number in a column
MIN_COLUMN_LINES = 5
SAMPLED_FIELDS = 2_000  # lines examined to find fields
SAMPLED_INLINE_FIELDS = 200  # the same, of fields inside lines
SAMPLED_ROWS = 400  # lines examined to find columns of numbers
MIN_ALIKE_LINES = 12  # whose numbers are compared
MAX_COMPARED_NUMBERS = 12  # of a line
MAX_NAMED_LINES = 5  # more lines with a key are not told apart by it
MIN_SHAPED_LINES = 30
MIN_SHAPE_SHARE = 0.2  # of the lines
MIN_AFFIX_CHARACTERS = 4  # of a word inside a key such as `passwordauthentication`
MIN_PAIRS = 8  # with a key whose values are compared
MAX_ODD_SHARE = 0.1  # pairs with an odd flag or without a value, at most
MAX_NAMES = 30  # words of the question that may be keys

_FIELD = re.compile(
    r"[\s-]{0,80}[\"']?([A-Za-z][\w .-]{0,40}?)[\"']?\s{0,20}[:=|]\s{0,20}[\"']?"
    r"([-+]?\d[\d.,]{0,20}(?:[kKMGT](?![a-z])| ?[kKMGT]?i?[bB]\b)?)"
)
_INLINE_FIELD = re.compile(  # `seconds="12"`, `<price unit="EUR">12</price>`
    r"(?:(?<![\w.-])([A-Za-z][\w.-]{0,40})=[\"']?|<([A-Za-z][\w.-]{0,40})(?:\s[^<>\n]{0,80})?>)"
    r"([-+]?\d[\d.,]{0,20}[kKMGT]?)(?![\w-])"
)
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
_MONTH = r"((?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec))"
_DATE_FIELD = re.compile(  # an ISO date, `Mon Nov 30 07:57:47 2026`, or `Mon, 30 Nov 2026 07:57:47`
    r"\s{0,40}<?([A-Za-z][\w -]{0,30})\s{0,20}[:=>]\s{0,20}(?:(\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?)"
    rf"|(?:[A-Z][a-z]{{2}},? )?(?:{_MONTH} {{1,2}}(\d{{1,2}}) (\d\d:\d\d:\d\d) (\d{{4}})"
    rf"|(\d{{1,2}}) {_MONTH} (\d{{4}}) (\d\d:\d\d(?::\d\d)?)))"
)
_COUNTED_NOUN = re.compile(r"(?<![\w.-])(\d{1,12}) ([a-z]{4,20})(?![\w.-])")  # `12 insertions`
_PAIR = re.compile(
    r"[\s-]{0,80}(?:export )?[\"'<]?([A-Za-z_][^\n:=|<>]{0,60}?)[\"']?\s{0,40}([:=|]|>(?=[^\n>]{0,80}</))[ \t]{0,40}"
    r"([^\n<]{0,80})"
)
_FLAGS = [
    frozenset(words.split())
    for words in ("on off", "yes no", "true false", "enabled disabled", "up down", "active inactive", "ok failed")
]
_ALL_FLAGS = frozenset[str]().union(*_FLAGS)
_CHANGE_BAR = re.compile(r"[^\n|]{1,300}\|\s{1,20}(?:\d{1,9} (?=[+-])|(?=Bin))(B(?=in)|[+-]+\s*$)")
_CHANGE_WORDS = [  # question, characters of a bar of `git diff --stat`
    (re.compile(pattern, re.IGNORECASE), set(characters))
    for pattern, characters in (
        (r"\b(?:delet|remov|gelöscht|entfernt|supprim|elimin)", "-"),
        (r"\b(?:add|new|neu|hinzu|ajout|nouve|añad|nuev)", "+"),
        (r"\bbinar|\bbinär", "B"),
    )
]
_STATUS_LINE = re.compile(r"[<>* ]{0,4}HTTP/\d(?:\.\d)? [1-5]\d\d\b")
_ENDING = r"(?:ations?|ments?|ings?|e[dsr]?|ers|ie[sd]|ly|[sy])"  # that a stem lacks
_NUMBER = re.compile(r"\d(?<![\w.]\d)\d{0,14}(?:\.\d{1,9})?(?![\w.])")  # begins with a set, which is searched fast
_IDENTIFIER = re.compile(r"\d\D*\d|\d.*[A-Za-z]|[A-Za-z].*\d")
_NAME = re.compile(r"[\w@][\w@+.-]*[\w+]")


def find_asked_values(text: str, spans: Sequence[Span], question: str, query: Query) -> dict[int, float]:
    """Return the lines with the greatest or least values, if the question asks for them: 2.0 for the first, and less.

    The values are those of the fields that it names (`Memory: 12`); without such fields, those of all columns.
    """
    directions = answer_types.list_directions(question)
    if not directions:
        return dict.fromkeys(_find_asked_changes(text, spans, question), 1.0)
    named = _find_date_fields(text, spans) if answer_types.asks_for_age(question) else []
    named = named or _find_named_fields(text, spans, question, query)
    columns = named or list(_iter_columns(text, spans))
    count = ASKED_LINES if len(columns) <= MAX_COMPARED_COLUMNS or named else 1
    asked: dict[int, float] = {}
    for values in columns:
        for least in directions:
            for rank, position in enumerate(rank_numbers([value for _, value in values], count, least=least)):
                index = values[position][0]
                asked[index] = max(asked.get(index, 0.0), 1.0 + 1.0 / (1 + rank) if named else 1.0)
    return asked


def _find_asked_changes(text: str, spans: Sequence[Span], question: str) -> list[int]:
    """Return the few files of a diffstat with only the kind of change that the question asks for."""
    signs = [sign for pattern, sign in _CHANGE_WORDS if pattern.search(question)]
    bars = {index: match[1] for index, span in enumerate(spans) if signs and (match := _CHANGE_BAR.match(text, *span))}
    asked = [index for index, bar in bars.items() if set(bar) in signs]
    return asked if len(asked) <= MAX_ODD_SHARE * len(bars) else []


def rank_asked_columns(
    columns: Sequence[tuple[str, Sequence[str]]], question: str, query: Query, count: int, *, least: bool
) -> list[tuple[int, list[int]]]:
    """Return the columns that measure what is asked, else those that are named, with their greatest or least rows.

    A column is its name and its cells; only columns of numbers count.
    """
    rankings: list[tuple[int, list[int]]] = []
    for index, (name, cells) in enumerate(columns):
        if answer_types.is_measure(name, question) or bm25.is_named(name, query):
            is_reversed = answer_types.is_reversed(name, question)
            rankings.append((index, rank_numbers(cells, count, least=least != is_reversed)))
    return rankings if any(rows for _, rows in rankings) else []


def find_month(name: str) -> int:
    """Return the index of a month, 0 for `Jan`; -1 for other text."""
    return _MONTHS.find(name) // 3


def has_asked_fields(text: str, spans: Sequence[Span], question: str, query: Query) -> bool:
    """Return True if the lines have dates or numbers in fields that a question for an extreme names."""
    if not answer_types.list_directions(question):
        return False
    is_dated = answer_types.asks_for_age(question) and _find_date_fields(text, spans) != []
    return is_dated or _find_named_fields(text, spans, question, query) != []


def _find_named_fields(text: str, spans: Sequence[Span], question: str, query: Query) -> list[list[tuple[int, str]]]:
    """Return the lines and values of each field that the query names; the names of fields come from a sample."""
    for read, size in ((_read_field, SAMPLED_FIELDS), (_read_inline_fields, SAMPLED_INLINE_FIELDS)):
        sample = spans[:: max(1, len(spans) // size)]
        names = dict.fromkeys(name for span in sample for name, _ in read(text, span))
        named = [name for name in names if answer_types.is_measure(name, question)]
        named = named or [name for name in names if bm25.is_named(name, query)]
        fields: dict[str, list[tuple[int, str]]] = {name: [] for name in named}
        for index in severity.find_lines_with_words(text, [name.lower() for name in named], spans):
            for name, value in read(text, spans[index]):
                if name in fields:
                    fields[name].append((index, value))
        columns = sorted((values for values in fields.values() if len(values) > 1), key=len, reverse=True)
        if columns:
            return columns[:MAX_NAMED_FIELDS]
    return []


def _find_date_fields(text: str, spans: Sequence[Span]) -> list[list[tuple[int, str]]]:
    """Return the lines and dates of each field with dates, such as `Date: Mon Nov 30 07:57:47 2026`, as ISO dates."""
    fields: dict[str, list[tuple[int, str]]] = {}
    for index, span in enumerate(spans):
        match = _DATE_FIELD.match(text, *span)
        if match is not None:
            name, iso, month, day, time, year, other_day, other_month, other_year, other_time = match.groups()
            number = find_month(month or other_month or "") + 1
            date = iso or f"{year or other_year}-{number:02}-{int(day or other_day):02} {time or other_time}"
            fields.setdefault(name, []).append((index, date))
    return [values for values in fields.values() if len(values) >= MIN_COLUMN_LINES]


def _read_field(text: str, span: Span) -> list[tuple[str, str]]:
    """Return the key and the number of a line such as `Memory: 12`."""
    match = _FIELD.match(text, *span)
    return [(match[1], match[2])] if match is not None else []


def _read_inline_fields(text: str, span: Span) -> list[tuple[str, str]]:
    """Return the keys and the numbers of a line such as `<job id="a" seconds="12">` and `3 files, 12 insertions`."""
    nouns = ((noun, number) for number, noun in _COUNTED_NOUN.findall(text, *span))
    return [*((key or tag, number) for key, tag, number in _INLINE_FIELD.findall(text, *span)), *nouns]


def _iter_columns(text: str, spans: Sequence[Span]) -> Iterator[list[tuple[int, str]]]:
    """Yield the columns of numbers of lines with columns, such as those of `du` and `git diff --stat`."""
    step = max(1, len(spans) // SAMPLED_ROWS)
    sample = [_split_words(text[start:end], MAX_COLUMNS) for start, end in spans[::step]]
    counts = [sum(len(row) > column and is_quantity(row[column]) for row in sample) for column in range(MAX_COLUMNS)]
    numeric = [column for column, count in enumerate(counts) if 2 * count >= MIN_NUMERIC_SHARE * len(sample)]
    if not numeric:
        return
    rows = [_split_words(text[start:end], numeric[-1] + 1) for start, end in spans]
    for column in numeric:
        values = [
            (index, row[column])
            for index, row in enumerate(rows)
            if len(row) > column and (row[column].isdecimal() or is_quantity(row[column]))
        ]
        if len(values) >= max(MIN_COLUMN_LINES, MIN_NUMERIC_SHARE * len(rows)):
            yield values


def _split_words(line: str, count: int) -> list[str]:
    """Return the first words of a line, without brackets."""
    plain = line.replace("(", " ").replace(")", " ") if "(" in line else line
    return plain.split(None, count)[:count]


def find_status_lines(text: str, spans: Sequence[Span]) -> list[int]:
    """Return the lines that begin with the status of an HTTP response."""
    candidates = severity.find_lines_with_words(text, ["http/"], spans)
    return [index for index in candidates if _STATUS_LINE.match(text, *spans[index])]


def find_key_elements(text: str, spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Yield the lines with the key of a property list, and with its value, each with the other one."""
    for index, (start, end) in enumerate(spans[:-1]) if "<key>" in text else ():
        if text.endswith("</key>", start, end):
            yield index, index + 1
            yield index + 1, index


def find_odd_values(text: str, spans: Sequence[Span], negated: Collection[str]) -> tuple[list[int], ...]:
    """Return the lines with a value unlike those of the same key, or an odd flag; those without a value; and others.

    A rare `On` among lines with `Off` is odd, whatever their keys. The others have a value other than a negated one
    that most lines with their key have: `size = large`, if "not small" is asked for.
    """
    columns: dict[str, list[tuple[int, str]]] = {}
    assigned: list[tuple[int, str]] = []
    flagged: list[tuple[int, str]] = []
    for index, span in enumerate(spans):
        match = _PAIR.match(text, *span)
        if match is not None:
            value = match[3].strip(" \t\r\"',;")
            columns.setdefault(match[1], []).append((index, value))
            if (flag := value.lower()) in _ALL_FLAGS:
                flagged.append((index, flag))
            if match[2] == "=":
                assigned.append((index, value))
    odd: set[int] = set()
    empty = {index for index, value in assigned if not value}
    if len(empty) > MAX_ODD_SHARE * len(assigned):
        empty.clear()
    for flags in _FLAGS:
        values = [(index, flag) for index, flag in flagged if flag in flags]
        counts = Counter(flag for _, flag in values) if len(values) >= MIN_PAIRS else Counter[str]()
        odd.update(index for index, flag in values if 0 < counts[flag] <= MAX_ODD_SHARE * len(values))
    others: set[int] = set()
    for column in columns.values():
        named = {index for index, value in column if value.lower() in negated} if negated else set[int]()
        if 2 * len(named) > len(column):
            others.update(index for index, _ in column if index not in named)
        if len(column) >= MIN_PAIRS:
            outliers = find_outliers([value for _, value in column], DEFAULT_OUTLIER_WEIGHTS)
            odd.update(column[row][0] for row in outliers if len(outliers) <= max(2, MAX_ODD_SHARE * len(column)))
            blank = [index for index, value in column if not value]
            empty.update(blank if len(blank) <= MAX_ODD_SHARE * len(column) else ())
    return sorted(odd), sorted(empty), sorted(others)


def find_named_lines(text: str, spans: Sequence[Span], query: Query) -> list[int]:
    """Return the lines whose key, name, first cell or whole value is a word of the question, if they are few."""
    words = [*query.literals, *(term for term in query.term_weights if len(term) > 1)]
    names = list(dict.fromkeys(word for word in words if _NAME.fullmatch(word)))[:MAX_NAMES]
    mentions = list(_iter_rare_mentions(text, spans, query.literals))
    if not names:
        return mentions
    alternatives = "|".join(map(re.escape, names))
    key = re.compile(
        r"[\s\"'-]{0,40}[A-Za-z][\w .-]{0,40}[\"']?[ \t]{0,40}[:=|][ \t]{0,40}"
        rf"[\"']?(?:{alternatives}){_ENDING}?[\"']?,?\s{{0,8}}\Z"
        rf"|[^\w\n]{{0,12}}(?:\S{{1,4}}[ \t]{{1,8}})?(?:[\w-]{{1,60}}[./]){{0,8}}(?:{alternatives}){_ENDING}?"
        r"(?:\(s\)|\.[a-z]{2,8})?(?=\s{2}|[\t:=|,@\"']|\Z)",
        re.IGNORECASE,
    )
    affixes = "|".join(re.escape(name) for name in names if len(name) >= MIN_AFFIX_CHARACTERS)
    compound = (
        re.compile(
            rf"\s{{0,40}}[a-z]{{0,40}}({affixes})[a-z]{{0,40}}(?=(?:[ \t]{{1,80}}\S{{1,300}}){{1,3}}\s*\Z|=)"
            rf"|\s{{0,40}}(?:[A-Za-z]\w{{0,40}}[_-]){{1,4}}({affixes}){_ENDING}?(?=[:=])",
            re.IGNORECASE,
        )
        if affixes
        else key
    )
    lines_by_name: dict[str, list[int]] = {}
    for index in severity.find_lines_with_words(text, [name.lower() for name in names], spans):
        match = key.match(text, *spans[index])
        if match is not None:
            lines_by_name.setdefault(match[0].strip().lower(), []).append(index)
        elif (match := compound.match(text, *spans[index])) is not None:
            lines_by_name.setdefault(f"*{(match[1] or match[2]).lower()}", []).append(index)
    named = (index for lines in lines_by_name.values() if len(lines) <= MAX_NAMED_LINES for index in lines)
    return list(dict.fromkeys([*named, *mentions]))


def _iter_rare_mentions(text: str, spans: Sequence[Span], literals: Sequence[str]) -> Iterator[int]:
    """Yield the few lines with an address or identifier of the question, such as `10.0.0.7` and `inc-0044`."""
    for literal in literals:
        if _IDENTIFIER.search(literal):
            whole = re.compile(rf"(?<![\w.-]){re.escape(literal)}(?![\w-]|\.\w)")
            candidates = severity.find_lines_with_words(text, [literal.lower()], spans)
            lines = [index for index in candidates[: 4 * MAX_NAMED_LINES] if whole.search(text, *spans[index])]
            yield from lines if len(lines) <= MAX_NAMED_LINES else ()


def find_named_titles(text: str, spans: Sequence[Span], titles: Sequence[int], query: Query) -> list[int]:
    """Return the titles of records with a word of the question that few of many titles have."""
    if len(titles) <= MAX_NAMED_LINES:
        return []
    counts = bm25.count_terms(text, [spans[title] for title in titles], query)
    frequencies = Counter(term for title_counts in counts.values() for term in title_counts)
    limit = min(MAX_NAMED_LINES, len(titles) // MIN_PAIRS)
    return [titles[i] for i, title_counts in counts.items() if any(frequencies[term] <= limit for term in title_counts)]


def find_shapes(templates: Sequence[str]) -> list[object]:
    """Return the shape of each line if it is that of many: its numbers of words and of separators; else None."""
    shapes = {template: _measure_shape(template) for template in set(templates)}
    frequencies: Counter[object] = Counter()
    for template, count in Counter(templates).items():
        frequencies[shapes[template]] += count
    limit = max(MIN_SHAPED_LINES, MIN_SHAPE_SHARE * len(templates))
    common = {template: shape for template, shape in shapes.items() if frequencies[shape] >= limit}
    return [common.get(template) for template in templates]


def _measure_shape(template: str) -> tuple[int, ...]:
    return len(template.split()), template.count("|"), template.count(":"), template.count("=")


def find_far_numbers(text: str, spans: Sequence[Span], templates: Sequence[str]) -> list[int]:
    """Return the indices of the lines with a number far from those at the same place of their look-alikes."""
    lines_by_template: dict[str, list[int]] = {}
    for index, template in enumerate(templates):
        lines_by_template.setdefault(template, []).append(index)
    alike: dict[str, list[int]] = {}
    for template, lines in lines_by_template.items():
        if "0" in template:
            alike.setdefault(" ".join(template.rstrip("\0").split()), []).extend(lines)
    indices: list[int] = []
    for group in alike.values():
        if len(group) >= MIN_ALIKE_LINES:
            group.sort()
            rows = [_NUMBER.findall(text, *spans[index])[:MAX_COMPARED_NUMBERS] for index in group]
            width = len(rows[0])
            columns = zip(*[row for row in rows if len(row) == width], strict=True)
            members = [index for index, row in zip(group, rows, strict=True) if len(row) == width]
            indices.extend(members[row] for column in columns for row in find_outlying_numbers(column))
    return sorted(set(indices))
