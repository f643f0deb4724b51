"""The options of one request: its `x-clara-*` headers override the settings.

An invalid header is a 400 that names it. These headers are never forwarded.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar, get_args

from ...config.setting_types import Mode, RetrieveMode, Role
from ...config.settings import Settings
from ...config.settings_errors import suggest_name
from ..protocols.api_errors import ApiError
from .request_headers import RequestHeaders

HEADER_PREFIX = "x-clara-"
_PREFIX = HEADER_PREFIX.encode()
MAX_TAGS, MAX_TAG_CHARACTERS = 16, 64  # of one request; of a tag's name and of its value
MODES: tuple[str, ...] = get_args(Mode)
RETRIEVE_MODES: tuple[str, ...] = get_args(RetrieveMode)
ROLES: tuple[str, ...] = get_args(Role)
Value = TypeVar("Value")


class CacheDirectives(NamedTuple):
    """How a request uses the response cache: `max_age` is in seconds."""

    may_read: bool = True
    may_store: bool = True
    max_age: int | None = None


DEFAULT_DIRECTIVES = CacheDirectives()


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The options of one request. Sizes in tokens, times in seconds.

    `deadline` is the time limit for counting and extraction, `model_deadline` that for compression by CLaRa.
    """

    mode: str
    ratio: float | None
    budget: int | None
    min_tokens: int
    roles: frozenset[str]
    deadline: float
    fail_closed: bool
    bypass: bool = False
    query: str | None = None
    store: str | None = None
    remember: str | None = None
    retrieve: str = "auto"
    session: str | None = None
    user: str | None = None
    project: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    cache: CacheDirectives = DEFAULT_DIRECTIVES
    model_deadline: float = 30.0
    key_name: str = ""  # the name of the proxy's key of this request, from `authentication.Caller`


def build_default_options(settings: Settings) -> RequestOptions:
    """Return the options of a request without `x-clara-*` headers."""
    return RequestOptions(
        mode=settings.mode,
        ratio=settings.ratio,
        budget=settings.budget,
        min_tokens=settings.min_tokens,
        roles=frozenset(settings.roles),
        deadline=settings.deadline_ms / 1000,
        model_deadline=settings.clara_deadline_ms / 1000,
        fail_closed=settings.fail == "closed",
        retrieve=settings.retrieve,
        session=settings.session,
        user=settings.user,
        project=settings.project,
    )


def has_options(headers: RequestHeaders) -> bool:
    """Return True if a request has `x-clara-*` headers."""
    return any(name.startswith(_PREFIX) for name in headers.by_name)


def parse_headers(headers: Mapping[str, str], default_options: RequestOptions) -> RequestOptions:
    """Apply a request's headers, names in lower case, to the defaults.

    Raises:
        ApiError: 400 that names an unknown header or one with an invalid value.
    """
    options = {
        name[len(HEADER_PREFIX) :]: value.strip() for name, value in headers.items() if name.startswith(HEADER_PREFIX)
    }
    if not options:
        return default_options
    changes: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for name, value in options.items():
        if name.startswith("tag-") and len(name) > 4:
            tags[name[4 : 4 + MAX_TAG_CHARACTERS]] = value[:MAX_TAG_CHARACTERS]
        elif name in _HEADER_PARSERS:
            field_name, parse, _ = _HEADER_PARSERS[name]
            changes[field_name] = _parse_value(name, value, parse)
        else:
            header = HEADER_PREFIX + name
            suggestion = suggest_name(header, (HEADER_PREFIX + known for known in _HEADER_PARSERS))
            raise ApiError(400, f"unknown header {header}{suggestion}", param=header, code="unknown_header")
    if "deadline" in changes:
        changes["model_deadline"] = changes["deadline"]
    if len(tags) > MAX_TAGS:
        message = f"a request may have at most {MAX_TAGS} tags, got {len(tags)}"
        raise ApiError(400, message, param=f"{HEADER_PREFIX}tag-*", code="too_many_tags")
    return replace(default_options, **changes, tags=tags)


def describe_headers() -> dict[str, str]:
    """Return the effect of each request header by its whole name."""
    return {HEADER_PREFIX + name: effect for name, (_, _, effect) in _HEADER_PARSERS.items()}


def _parse_value(name: str, value: str, parse: Callable[[str], Value]) -> Value:
    try:
        return parse(value)
    except ValueError as error:
        raise ApiError(
            400,
            f"{HEADER_PREFIX}{name}: {error}, got {value[:80]!r}",
            param=HEADER_PREFIX + name,
            code="invalid_header",
        ) from None


def _make_choice_parser(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return value.lower()

    return parse


def _parse_integer(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < 1:
        raise ValueError("expected a whole number of at least 1")
    return int(value)


def _parse_ratio(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?x?", value) or not 1 <= float(value.rstrip("x")) <= 1000:
        raise ValueError("expected a number from 1 to 1000, such as 4")
    return float(value.rstrip("x"))


def _parse_boolean(value: str) -> bool:
    return {"true": True, "1": True, "yes": True}.get(
        _make_choice_parser("true", "false", "1", "0", "yes", "no")(value), False
    )


def _parse_roles(value: str) -> frozenset[str]:
    roles = frozenset(part.strip().lower() for part in value.split(",") if part.strip())
    if not roles <= set(ROLES):
        raise ValueError(f"expected some of {', '.join(ROLES)}")
    return roles


def _parse_cache(value: str) -> CacheDirectives:
    directives = [part.strip().lower() for part in value.split(",")]
    lifetimes = [part.removeprefix("ttl=") for part in directives if part.startswith("ttl=")]
    others = {part for part in directives if not part.startswith("ttl=")}
    if not others <= {"no-cache", "no-store"} or len(lifetimes) > 1:
        raise ValueError("expected no-cache, no-store or ttl=SECONDS")
    max_age = _parse_integer(lifetimes[0]) if lifetimes else None
    return CacheDirectives("no-cache" not in others, "no-store" not in others, max_age)


def _truncate_label(value: str) -> str:
    return value[:200]


# Each header without its prefix: the field of the options, the parser of its value, and its effect.
_HEADER_PARSERS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "mode": ("mode", _make_choice_parser(*MODES), f"how passages are compressed: {', '.join(MODES)}"),
    "bypass": ("bypass", _parse_boolean, "`true` forwards this request unchanged"),
    "ratio": ("ratio", _parse_ratio, "how many times smaller a passage becomes, from 1 to 1000"),
    "budget": ("budget", _parse_integer, "most context tokens to send"),
    "min-tokens": ("min_tokens", _parse_integer, "shorter passages are not compressed"),
    "roles": ("roles", _parse_roles, f"roles whose text may be compressed: some of {', '.join(ROLES)}"),
    "query": ("query", lambda value: value or None, "the question for all passages"),
    "store": ("store", lambda value: value or None, "adds the best passages of this vector store to the request"),
    "remember": ("remember", lambda value: value or None, "keeps long tool outputs in this vector store"),
    "deadline-ms": (
        "deadline",
        lambda value: _parse_integer(value) / 1000,
        "time limit for counting and compression, in milliseconds",
    ),
    "fail": (
        "fail_closed",
        lambda value: _make_choice_parser("open", "closed")(value) == "closed",
        "`closed` returns a 503 if a compressor failed or was late",
    ),
    "retrieve": (
        "retrieve",
        _make_choice_parser(*RETRIEVE_MODES),
        f"how omitted text is fetched back: {', '.join(RETRIEVE_MODES)}",
    ),
    "cache": ("cache", _parse_cache, "`no-cache`, `no-store` or `ttl=SECONDS`: use of the response cache"),
    "session": ("session", _truncate_label, "a label in the ledger"),
    "user": ("user", _truncate_label, "a label in the ledger"),
    "project": ("project", _truncate_label, "a label in the ledger"),
}
