"""Planted stack traces of seven languages: alone, below the entries of a log, or among its lines.

Nearly all have the same message; one answers the question, and two others have messages of their own.
"""

from collections.abc import Callable
from random import Random

from .plant import Plant, choose_places, choose_word, format_time

TraceFunction = Callable[[Random, str, str], str]  # random generator, error name and message -> trace
FAILURE = ("ConnectionTimeout", "read timed out after 3000 ms")
ASKED = ("VoucherSpent", "voucher SPRING-88 was already spent")
UNASKED = (("HeapExhausted", "no room for 48 MiB"), ("LedgerLocked", "deadlock while locking ledger_2026"))
TRACE_COUNT = 320
FIRST_ORDER = 50_000  # number in the first trace
MEAN_QUIET_LINES = 4  # lines between two traces of a mixed log


def python(rng: Random, kind: str, message: str) -> str:
    """Return a traceback of Python."""
    frames = "".join(
        f'  File "/srv/{choose_word(rng)}/{choose_word(rng)}.py", line {rng.randint(10, 900)}, in {choose_word(rng)}\n'
        f"    {choose_word(rng)} = self.{choose_word(rng)}({choose_word(rng)})\n"
        for _ in range(rng.randint(4, 9))
    )
    return f"Traceback (most recent call last):\n{frames}shop.errors.{kind}: {message}"


def java(rng: Random, kind: str, message: str) -> str:
    """Return a trace of Java with its cause."""

    def frames(count: int) -> str:
        return "".join(
            f"\n\tat com.example.{choose_word(rng)}.{choose_word(rng).title()}.{choose_word(rng)}"
            f"({choose_word(rng).title()}.java:{rng.randint(10, 900)})"
            for _ in range(count)
        )

    return (
        f"com.example.web.RequestFailed: handler gave up{frames(rng.randint(5, 9))}"
        f"\nCaused by: com.example.{kind}Exception: {message}{frames(rng.randint(3, 6))}\n\t... 31 more"
    )


def node(rng: Random, kind: str, message: str) -> str:
    """Return the stack of an error in Node."""
    frames = "".join(
        f"\n    at {choose_word(rng).title()}.{choose_word(rng)} (/srv/{choose_word(rng)}/{choose_word(rng)}.js:"
        f"{rng.randint(10, 900)}:{rng.randint(1, 60)})"
        for _ in range(rng.randint(5, 9))
    )
    last = "process.processTicksAndRejections (node:internal/process/task_queues:95:5)"
    return f"{kind}Error: {message}{frames}\n    at {last}"


def go(rng: Random, kind: str, message: str) -> str:
    """Return a recovered panic of Go."""
    frames = "".join(
        f"\nexample.com/shop/{choose_word(rng)}.(*{choose_word(rng).title()}).{choose_word(rng).title()}(0xc{rng.randrange(16**9):09x})"
        f"\n\t/srv/{choose_word(rng)}/{choose_word(rng)}.go:{rng.randint(10, 900)} +0x{rng.randint(16, 999):x}"
        for _ in range(rng.randint(4, 7))
    )
    return f"panic: {kind}: {message}\n\ngoroutine {rng.randint(20, 99999)} [running]:{frames}"


def rust(rng: Random, kind: str, message: str) -> str:
    """Return a panic of Rust with its backtrace."""
    frames = "".join(
        f"\n  {index:>2}: {choose_word(rng)}::{choose_word(rng)}::{choose_word(rng)}"
        f"\n             at ./src/{choose_word(rng)}.rs:{rng.randint(10, 900)}:{rng.randint(1, 60)}"
        for index in range(rng.randint(4, 7))
    )
    return (
        f"thread 'worker-{rng.randint(1, 9)}' panicked at src/{choose_word(rng)}.rs:{rng.randint(10, 900)}:9:\n"
        f'called `Result::unwrap()` on an `Err` value: {kind}("{message}")\nstack backtrace:{frames}'
    )


def dotnet(rng: Random, kind: str, message: str) -> str:
    """Return a trace of .NET."""
    frames = "".join(
        f"\n   at Shop.{choose_word(rng).title()}.{choose_word(rng).title()}Async(String {choose_word(rng)})"
        f" in /src/{choose_word(rng).title()}.cs:line {rng.randint(10, 900)}"
        for _ in range(rng.randint(5, 9))
    )
    return f"Shop.{kind}Exception: {message}{frames}\n   --- End of inner exception stack trace ---"


def ruby(rng: Random, kind: str, message: str) -> str:
    """Return a backtrace of Ruby."""
    frames = "".join(
        f"\n\tfrom /srv/app/{choose_word(rng)}/{choose_word(rng)}.rb:{rng.randint(10, 900)}:in `{choose_word(rng)}'"
        for _ in range(rng.randint(5, 9))
    )
    return f"/srv/app/{choose_word(rng)}.rb:{rng.randint(10, 900)}:in `{choose_word(rng)}': {message} ({kind}){frames}"


LANGUAGES: tuple[TraceFunction, ...] = (python, java, node, go, rust, dotnet, ruby)


def bare_traces(rng: Random) -> Plant:
    """Return traces of one language, each below a line with its order."""
    return _build_plant("traces", rng, lambda index: f"order {FIRST_ORDER + index} was not booked:")


def log_of_traces(rng: Random) -> Plant:
    """Return a log in which each entry ends with a trace."""
    return _build_plant("log of traces", rng, _format_entry)


def log_with_traces(rng: Random) -> Plant:
    """Return a log in which some entries end with a trace."""

    def entries(index: int) -> str:
        quiet = "".join(
            f"{format_time(index * 40 + offset)},{rng.randint(100, 999)} INFO [worker-{rng.randint(1, 9)}] "
            f"order {rng.randint(10_000, FIRST_ORDER - 1)} booked in {rng.randint(2, 90)} ms\n"
            for offset in range(rng.randint(0, 2 * MEAN_QUIET_LINES))
        )
        return quiet + _format_entry(index)

    return _build_plant("log with traces", rng, entries)


def _format_entry(index: int) -> str:
    return f"{format_time(index * 40 + 30)},301 ERROR [worker-{index % 9}] order {FIRST_ORDER + index} was not booked"


def _build_plant(name: str, rng: Random, entry: Callable[[int], str]) -> Plant:
    trace = rng.choice(LANGUAGES)
    first, second, third = choose_places(rng, TRACE_COUNT)
    failures = {first: ASKED, second: UNASKED[0], third: UNASKED[1]}
    return Plant(
        f"{name}, {trace.__name__}",
        "\n".join(f"{entry(index)}\n{trace(rng, *failures.get(index, FAILURE))}" for index in range(TRACE_COUNT)),
        f"Why was order {FIRST_ORDER + first} not booked?",
        ASKED[1],
        (UNASKED[0][1], UNASKED[1][1]),
    )
