"""Planted text: logs, test runs, diffs, searches, source, a web page, prose, and the same thing twice."""

from random import Random

from .plant import WORDS, Plant, choose_places, choose_word, choose_words, format_time, make_sentence


def app_log(chance: Random) -> Plant:
    """Return an application's log."""
    levels = ["INFO "] * 18 + ["DEBUG"] * 6 + ["WARN "]
    lines = [
        f"{format_time(at * 7)}.{chance.randint(0, 999):03}Z {level} "
        f"[{chance.choice(('api', 'jobs', 'auth', 'mail'))}-{chance.randint(1, 8)}] "
        + (
            f"slow query took {chance.randint(200, 900)} ms"
            if level == "WARN "
            else f"request req-{chance.randint(10**5, 10**6):06x} served in {chance.randint(2, 90)} ms, "
            f"{chance.randint(1, 40)} rows"
        )
        for at, level in enumerate(chance.choices(levels, k=2600))
    ]
    first, second, third = choose_places(chance, len(lines))
    lines[first] = f"{format_time(first * 7)}.120Z INFO  [jobs-3] export exp-77c1 finished: 48213 records in 1934 s"
    lines[second] = (
        f"{format_time(second * 7)}.009Z ERROR [mail-2] smtp handshake failed: certificate of mx4.example expired"
    )
    lines[third] = f"{format_time(third * 7)}.700Z WARN  [auth-1] clock moved backwards by 10794 s"
    question = "How many records did export exp-77c1 write?"
    return Plant("app log", "\n".join(lines), question, "48213 records", ("mx4.example expired", "10794 s"))


def test_run(chance: Random) -> Plant:
    """Return what pytest prints, verbosely."""
    names = [
        f"tests/{choose_word(chance)}/test_{choose_word(chance)}.py::test_{'_'.join(chance.choices(WORDS, k=3))}"
        for _ in range(1500)
    ]
    first, second, third = choose_places(chance, len(names))
    states = {first: "FAILED", second: "FAILED", third: "ERROR"}
    lines = [
        "============================= test session starts ==============================",
        f"collected {len(names)} items",
        "",
    ]
    lines += [f"{name} {states.get(at, 'PASSED')} [{at * 100 // len(names):3}%]" for at, name in enumerate(names)]
    lines += ["", "=================================== FAILURES ==================================="]
    said = (
        "E       AssertionError: assert 17.5 == 18.25",
        "E       ValueError: cannot parse tariff 'B-9x'",
        "E       fixture 'frozen_ledger' not found",
    )
    for at, reason in zip((first, second, third), said, strict=True):
        test = names[at].rsplit("::", 1)[1]
        lines += [
            f"_____ {test} _____",
            "",
            f"    def {test}():",
            *(f"        {choose_words(chance, 5)}" for _ in range(25)),
            reason,
            f"{names[at].split('::', 1)[0]}:41: Error",
            "",
        ]
    lines += [f"=========== 2 failed, {len(names) - 3} passed, 1 error in 93.10s ==========="]
    question = f"Why does {names[first].rsplit('::', 1)[1]} fail?"
    return Plant(
        "pytest", "\n".join(lines), question, "17.5 == 18.25", ("tariff 'B-9x'", "fixture 'frozen_ledger' not found")
    )


def git_diff(chance: Random) -> Plant:
    """Return a diff of a few source files and a lock file."""
    lines: list[str] = []
    changes: list[int] = []
    for file in range(24):
        path = f"src/{choose_word(chance)}s/{choose_word(chance)}_{file}.py"  # no folder of generated files, such as `vendor`
        lines += [
            f"diff --git a/{path} b/{path}",
            f"index {chance.randrange(16**7):07x}..{chance.randrange(16**7):07x} 100644",
            f"--- a/{path}",
            f"+++ b/{path}",
        ]
        for hunk in range(3):
            lines.append(
                f"@@ -{hunk * 90 + 10},21 +{hunk * 90 + 10},21 @@ def {'_'.join(chance.choices(WORDS, k=2))}(self):"
            )
            lines += [f"         {choose_words(chance, 7)}" for _ in range(10)]
            changes.append(len(lines) + 1)
            lines += [f"-        {choose_words(chance, 5)}", f"+        {choose_words(chance, 5)}"]
            lines += [f"         {choose_words(chance, 7)}" for _ in range(10)]
    first, second, third = (changes[at] for at in choose_places(chance, len(changes)))
    lines[first] = "+        self.max_redirects = 37"
    lines[second] = "+        session.verify = False"
    lines[third] = "+        raise NotImplementedError('rollback of partial refunds')"
    lines += [
        "diff --git a/package-lock.json b/package-lock.json",
        "--- a/package-lock.json",
        "+++ b/package-lock.json",
        "@@ -1,2000 +1,2000 @@",
    ]
    for _ in range(500):
        name = f'    "node_modules/{choose_word(chance)}-{choose_word(chance)}": {{"version": "'
        lines += [
            f'-{name}{chance.randint(1, 9)}.0.{chance.randint(0, 30)}"}},',
            f'+{name}{chance.randint(1, 9)}.1.{chance.randint(0, 30)}"}},',
        ]
    question = "What is max_redirects set to by this change?"
    return Plant(
        "git diff", "\n".join(lines), question, "max_redirects = 37", ("verify = False", "rollback of partial refunds")
    )


def grep(chance: Random) -> Plant:
    """Return what `grep -rn timeout` finds."""
    files = [
        f"./{choose_word(chance)}/{choose_word(chance)}/{choose_word(chance)}.{chance.choice(('py', 'go', 'ts', 'md'))}"
        for _ in range(150)
    ]
    lines = [
        f"{file}:{line * 11}:    {choose_words(chance, 3)} timeout = {choose_words(chance, 3)}"
        for file in sorted(files)
        for line in range(1, 9)
    ]
    first, second, third = choose_places(chance, len(lines))
    lines[first] = "./billing/dunning/reminder.go:218:    const dunningTimeout = 83 * time.Hour"
    lines[second] = "grep: ./vault/sealed: Permission denied"
    lines[third] = "./gateway/proxy/retry.ts:64:    // FIXME timeout is ignored here, payments are sent twice"
    question = "How long is the dunning timeout in the reminder?\ngrep -rn timeout ."
    return Plant(
        "grep",
        "\n".join(lines),
        question,
        "83 * time.Hour",
        ("./vault/sealed: Permission denied", "payments are sent twice"),
    )


def source_file(chance: Random) -> Plant:
    """Return a long source file."""
    names = ["_".join(chance.sample(WORDS, 3)) for _ in range(130)]
    first, second, third = choose_places(chance, len(names))
    bodies = {
        first: "    grace_days = 23\n    return grace_days * rate",
        second: "    # FIXME: loses every second record when the batch is empty\n    return None",
        third: "    raise RuntimeError('unreachable: tenant without region')",
    }
    blocks = [
        f'def {name}(rate, limit):\n    """{make_sentence(chance)}"""\n'
        + "".join(
            f"    {choose_word(chance)} = {choose_word(chance)}({choose_word(chance)}, limit)\n" for _ in range(9)
        )
        + bodies.get(at, f"    return {choose_word(chance)}")
        for at, name in enumerate(names)
    ]
    question = f"How many grace_days does {names[first]} use?"
    return Plant(
        "source file",
        "\n\n\n".join(blocks),
        question,
        "grace_days = 23",
        ("loses every second record", "tenant without region"),
    )


def web_page(chance: Random) -> Plant:
    """Return a page of a manual, menus, scripts and all."""
    menu = "".join(
        f'<li class="nav-item"><a href="/docs/{word}/{at}" class="nav-link">{word.title()}</a></li>\n'
        for at, word in enumerate(chance.choices(WORDS, k=220))
    )
    script = (
        "<script>"
        + ";".join(
            f"window.{choose_word(chance)}{at}=function(e){{return e.{choose_word(chance)}}}" for at in range(300)
        )
        + "</script>"
    )
    parts = [
        f'<section id="s{at}"><h2 class="title">{choose_words(chance, 3).title()}</h2>\n'
        f'<p class="body-text">{make_sentence(chance)} {make_sentence(chance)}</p>\n'
        f'<p class="body-text">{make_sentence(chance)} See <a href="/docs/{choose_word(chance)}">{choose_word(chance)}</a>. '
        f"{make_sentence(chance)}</p></section>"
        for at in range(120)
    ]
    first, second, third = choose_places(chance, len(parts))
    parts[first] = (
        '<section id="limits"><h2 class="title">Upload limits</h2>\n'
        '<p class="body-text">A single upload may have at most 731 parts.</p></section>'
    )
    parts[second] += '\n<div class="admonition error"><p>Error 4093 is returned when the bucket is locked.</p></div>'
    parts[third] += (
        '\n<div class="admonition warning"><p>Warning: deleting a region cannot be undone, even by support.</p></div>'
    )
    text = (
        f"<!DOCTYPE html>\n<html><head><title>Storage manual</title>\n<style>{'.x{margin:0}' * 400}</style>{script}"
        f"</head>\n<body><nav><ul>\n{menu}</ul></nav>\n<main>\n"
        + "\n".join(parts)
        + f"\n</main><footer><ul>{menu}</ul></footer></body></html>"
    )
    return Plant(
        "HTML",
        text,
        "How many parts may an upload have at most?",
        "at most 731 parts",
        ("Error 4093", "deleting a region cannot be undone"),
    )


def report(chance: Random) -> Plant:
    """Return a long report in running text."""
    paragraphs = [" ".join(make_sentence(chance) for _ in range(6)) for _ in range(110)]
    first, second, third = choose_places(chance, len(paragraphs))
    paragraphs[first] += " The Tamsin reservoir held 61 million litres in August."
    paragraphs[second] += " Warning: the figures of the northern stations were rejected by the auditors."
    paragraphs[third] += " On 9 May the backup generator failed and 14 wards were evacuated."
    text = "\n\n".join(paragraphs)
    return Plant(
        "prose",
        text,
        "How much did the Tamsin reservoir hold in August?",
        "61 million litres",
        ("rejected by the auditors", "14 wards were evacuated"),
    )


def stack_traces(chance: Random) -> Plant:
    """Return a log that is mostly stack traces of one kind."""

    def trace(at: int, kind: str, said: str) -> str:
        frames = "\n".join(
            f"\tat com.example.{choose_word(chance)}.{choose_word(chance).title()}.{choose_word(chance)}"
            f"({choose_word(chance).title()}.java:{chance.randint(10, 900)})"
            for _ in range(14)
        )
        return f"{format_time(at * 40)},301 ERROR [worker-{at % 9}] order {50_000 + at} was not booked\n{kind}: {said}\n{frames}"

    traces = [trace(at, "java.net.SocketTimeoutException", "Read timed out") for at in range(330)]
    first, second, third = choose_places(chance, len(traces))
    traces[first] = trace(first, "java.lang.IllegalStateException", "voucher SPRING-88 was already spent")
    traces[second] = trace(second, "java.lang.OutOfMemoryError", "Metaspace")
    traces[third] = trace(third, "java.sql.SQLException", "Deadlock found when locking ledger_2026")
    question = f"Why was order {50_000 + first} not booked?"
    return Plant(
        "stack traces",
        "\n".join(traces),
        question,
        "voucher SPRING-88 was already spent",
        ("java.lang.OutOfMemoryError: Metaspace", "Deadlock found when locking ledger_2026"),
    )


def package_log(chance: Random) -> Plant:
    """Return what a package manager prints while it installs."""
    lines: list[str] = []
    for _ in range(420):
        name = f"{choose_word(chance)}-{choose_word(chance)}"
        version = f"{chance.randint(0, 9)}.{chance.randint(0, 30)}.{chance.randint(0, 9)}"
        lines += [
            f"Collecting {name}>={version}",
            f"  Downloading {name.replace('-', '_')}-{version}-py3-none-any.whl ({chance.randint(10, 900)} kB)",
            f"Requirement already satisfied: {choose_word(chance)} in ./lib/site-packages (from {name}) ({version})",
        ]
    first, second, third = choose_places(chance, len(lines))
    lines[first] = "  Downloading cryptofold-41.7.2-py3-none-any.whl (388 kB)"
    lines[second] = "WARNING: lumenpack 2.0.1 does not provide the extra 'gpu'"
    lines[third] = "ERROR: orbital-client 3.4 requires idna<3, but you have idna 3.10 which is incompatible."
    return Plant(
        "package log",
        "\n".join(lines),
        "Which version of cryptofold was downloaded?",
        "cryptofold-41.7.2",
        ("does not provide the extra 'gpu'", "requires idna<3"),
    )


def repeated_reads(chance: Random) -> Plant:
    """Return two almost equal dumps of one configuration, one after the other."""
    names = ["_".join(chance.sample(WORDS, 2)) + f"_{at}" for at in range(620)]
    before = [f"{name} = {chance.randint(1, 900)}" for name in names]
    first, second, third = choose_places(chance, len(names))
    after = list(before)
    after[first] = f"{names[first]} = 7741"
    after[second] = f"{names[second]} = -1  # invalid, falls back to 0"
    after[third] = f"{names[third]} = !!error cannot read secret 'pg-main'"
    text = (
        "$ appctl config dump --env staging\n"
        + "\n".join(before)
        + "\n$ appctl config dump --env production\n"
        + "\n".join(after)
    )
    return Plant(
        "repeated reads",
        text,
        f"What is {names[first]} in production?",
        f"{names[first]} = 7741",
        ("-1  # invalid", "cannot read secret 'pg-main'"),
    )
