"""Planted stack traces, as seven languages print them: alone, below the entries of a log, or among its lines.

Nearly all say the same; one is asked for, and two others fail in a way of their own.
"""

from collections.abc import Callable
from random import Random

from .plant import Plant, choose_places, choose_word, format_time

TraceFunction = Callable[[Random, str, str], str]  # the exception's name and what it says, to a trace
FAILURE = ("ConnectionTimeout", "read timed out after 3000 ms")
ASKED = ("VoucherSpent", "voucher SPRING-88 was already spent")
UNASKED = (("HeapExhausted", "no room for 48 MiB"), ("LedgerLocked", "deadlock while locking ledger_2026"))
TRACE_COUNT = 320  # traces
FIRST_ORDER = 50_000  # the order that the first is about
MEAN_QUIET_LINES = 4  # lines of a mixed log between two traces, on average


def python(chance: Random, kind: str, said: str) -> str:
    """Return a traceback of Python's."""
    frames = "".join(
        f'  File "/srv/{choose_word(chance)}/{choose_word(chance)}.py", line {chance.randint(10, 900)}, in {choose_word(chance)}\n'
        f"    {choose_word(chance)} = self.{choose_word(chance)}({choose_word(chance)})\n"
        for _ in range(chance.randint(4, 9))
    )
    return f"Traceback (most recent call last):\n{frames}shop.errors.{kind}: {said}"


def java(chance: Random, kind: str, said: str) -> str:
    """Return a trace of the Java machine's with its cause below it."""

    def frames(many: int) -> str:
        return "".join(
            f"\n\tat com.example.{choose_word(chance)}.{choose_word(chance).title()}.{choose_word(chance)}"
            f"({choose_word(chance).title()}.java:{chance.randint(10, 900)})"
            for _ in range(many)
        )

    return (
        f"com.example.web.RequestFailed: handler gave up{frames(chance.randint(5, 9))}"
        f"\nCaused by: com.example.{kind}Exception: {said}{frames(chance.randint(3, 6))}\n\t... 31 more"
    )


def node(chance: Random, kind: str, said: str) -> str:
    """Return the stack of an error of Node's."""
    frames = "".join(
        f"\n    at {choose_word(chance).title()}.{choose_word(chance)} (/srv/{choose_word(chance)}/{choose_word(chance)}.js:"
        f"{chance.randint(10, 900)}:{chance.randint(1, 60)})"
        for _ in range(chance.randint(5, 9))
    )
    last = "process.processTicksAndRejections (node:internal/process/task_queues:95:5)"
    return f"{kind}Error: {said}{frames}\n    at {last}"


def go(chance: Random, kind: str, said: str) -> str:
    """Return a panic of Go's, as a server prints that goes on."""
    frames = "".join(
        f"\nexample.com/shop/{choose_word(chance)}.(*{choose_word(chance).title()}).{choose_word(chance).title()}(0xc{chance.randrange(16**9):09x})"
        f"\n\t/srv/{choose_word(chance)}/{choose_word(chance)}.go:{chance.randint(10, 900)} +0x{chance.randint(16, 999):x}"
        for _ in range(chance.randint(4, 7))
    )
    return f"panic: {kind}: {said}\n\ngoroutine {chance.randint(20, 99999)} [running]:{frames}"


def rust(chance: Random, kind: str, said: str) -> str:
    """Return a panic of Rust's with its backtrace."""
    frames = "".join(
        f"\n  {at:>2}: {choose_word(chance)}::{choose_word(chance)}::{choose_word(chance)}"
        f"\n             at ./src/{choose_word(chance)}.rs:{chance.randint(10, 900)}:{chance.randint(1, 60)}"
        for at in range(chance.randint(4, 7))
    )
    return (
        f"thread 'worker-{chance.randint(1, 9)}' panicked at src/{choose_word(chance)}.rs:{chance.randint(10, 900)}:9:\n"
        f'called `Result::unwrap()` on an `Err` value: {kind}("{said}")\nstack backtrace:{frames}'
    )


def dotnet(chance: Random, kind: str, said: str) -> str:
    """Return a trace of .NET's."""
    frames = "".join(
        f"\n   at Shop.{choose_word(chance).title()}.{choose_word(chance).title()}Async(String {choose_word(chance)})"
        f" in /src/{choose_word(chance).title()}.cs:line {chance.randint(10, 900)}"
        for _ in range(chance.randint(5, 9))
    )
    return f"Shop.{kind}Exception: {said}{frames}\n   --- End of inner exception stack trace ---"


def ruby(chance: Random, kind: str, said: str) -> str:
    """Return a backtrace of Ruby's."""
    frames = "".join(
        f"\n\tfrom /srv/app/{choose_word(chance)}/{choose_word(chance)}.rb:{chance.randint(10, 900)}:in `{choose_word(chance)}'"
        for _ in range(chance.randint(5, 9))
    )
    return f"/srv/app/{choose_word(chance)}.rb:{chance.randint(10, 900)}:in `{choose_word(chance)}': {said} ({kind}){frames}"


LANGUAGES: tuple[TraceFunction, ...] = (python, java, node, go, rust, dotnet, ruby)


def bare_traces(chance: Random) -> Plant:
    """Return traces of one language, each below a line that says what for."""
    return _build_plant("traces", chance, lambda at: f"order {FIRST_ORDER + at} was not booked:")


def log_of_traces(chance: Random) -> Plant:
    """Return a log in which each entry ends with a trace."""
    return _build_plant("log of traces", chance, _format_entry)


def log_with_traces(chance: Random) -> Plant:
    """Return a log in which some entries end with a trace."""

    def entries(at: int) -> str:
        quiet = "".join(
            f"{format_time(at * 40 + more)},{chance.randint(100, 999)} INFO [worker-{chance.randint(1, 9)}] "
            f"order {chance.randint(10_000, FIRST_ORDER - 1)} booked in {chance.randint(2, 90)} ms\n"
            for more in range(chance.randint(0, 2 * MEAN_QUIET_LINES))
        )
        return quiet + _format_entry(at)

    return _build_plant("log with traces", chance, entries)


def _format_entry(at: int) -> str:
    return f"{format_time(at * 40 + 30)},301 ERROR [worker-{at % 9}] order {FIRST_ORDER + at} was not booked"


def _build_plant(name: str, chance: Random, entry: Callable[[int], str]) -> Plant:
    trace = chance.choice(LANGUAGES)
    first, second, third = choose_places(chance, TRACE_COUNT)
    failures = {first: ASKED, second: UNASKED[0], third: UNASKED[1]}
    return Plant(
        f"{name}, {trace.__name__}",
        "\n".join(f"{entry(at)}\n{trace(chance, *failures.get(at, FAILURE))}" for at in range(TRACE_COUNT)),
        f"Why was order {FIRST_ORDER + first} not booked?",
        ASKED[1],
        (UNASKED[0][1], UNASKED[1][1]),
    )
