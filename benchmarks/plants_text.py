"""Planted text: logs, test runs, diffs, searches, source code, a web page, prose, and two similar dumps."""

from random import Random

from .plant import WORDS, Plant, choose_places, choose_word, choose_words, format_time, make_sentence


def app_log(rng: Random) -> Plant:
    """Return the log of an application."""
    levels = ["INFO "] * 18 + ["DEBUG"] * 6 + ["WARN "]
    lines = [
        f"{format_time(index * 7)}.{rng.randint(0, 999):03}Z {level} "
        f"[{rng.choice(('api', 'jobs', 'auth', 'mail'))}-{rng.randint(1, 8)}] "
        + (
            f"slow query took {rng.randint(200, 900)} ms"
            if level == "WARN "
            else f"request req-{rng.randint(10**5, 10**6):06x} served in {rng.randint(2, 90)} ms, "
            f"{rng.randint(1, 40)} rows"
        )
        for index, level in enumerate(rng.choices(levels, k=2600))
    ]
    first, second, third = choose_places(rng, len(lines))
    lines[first] = f"{format_time(first * 7)}.120Z INFO  [jobs-3] export exp-77c1 finished: 48213 records in 1934 s"
    lines[second] = (
        f"{format_time(second * 7)}.009Z ERROR [mail-2] smtp handshake failed: certificate of mx4.example expired"
    )
    lines[third] = f"{format_time(third * 7)}.700Z WARN  [auth-1] clock moved backwards by 10794 s"
    question = "How many records did export exp-77c1 write?"
    return Plant("app log", "\n".join(lines), question, "48213 records", ("mx4.example expired", "10794 s"))


def test_run(rng: Random) -> Plant:
    """Return the verbose output of pytest."""
    names = [
        f"tests/{choose_word(rng)}/test_{choose_word(rng)}.py::test_{'_'.join(rng.choices(WORDS, k=3))}"
        for _ in range(1500)
    ]
    first, second, third = choose_places(rng, len(names))
    states = {first: "FAILED", second: "FAILED", third: "ERROR"}
    lines = [
        "============================= test session starts ==============================",
        f"collected {len(names)} items",
        "",
    ]
    lines += [
        f"{name} {states.get(index, 'PASSED')} [{index * 100 // len(names):3}%]" for index, name in enumerate(names)
    ]
    lines += ["", "=================================== FAILURES ==================================="]
    reasons = (
        "E       AssertionError: assert 17.5 == 18.25",
        "E       ValueError: cannot parse tariff 'B-9x'",
        "E       fixture 'frozen_ledger' not found",
    )
    for index, reason in zip((first, second, third), reasons, strict=True):
        test = names[index].rsplit("::", 1)[1]
        lines += [
            f"_____ {test} _____",
            "",
            f"    def {test}():",
            *(f"        {choose_words(rng, 5)}" for _ in range(25)),
            reason,
            f"{names[index].split('::', 1)[0]}:41: Error",
            "",
        ]
    lines += [f"=========== 2 failed, {len(names) - 3} passed, 1 error in 93.10s ==========="]
    question = f"Why does {names[first].rsplit('::', 1)[1]} fail?"
    return Plant(
        "pytest", "\n".join(lines), question, "17.5 == 18.25", ("tariff 'B-9x'", "fixture 'frozen_ledger' not found")
    )


def git_diff(rng: Random) -> Plant:
    """Return a diff of a few source files and a lock file."""
    lines: list[str] = []
    changes: list[int] = []
    for file in range(24):
        path = f"src/{choose_word(rng)}s/{choose_word(rng)}_{file}.py"  # not `vendor`, whose files are generated
        lines += [
            f"diff --git a/{path} b/{path}",
            f"index {rng.randrange(16**7):07x}..{rng.randrange(16**7):07x} 100644",
            f"--- a/{path}",
            f"+++ b/{path}",
        ]
        for hunk in range(3):
            lines.append(
                f"@@ -{hunk * 90 + 10},21 +{hunk * 90 + 10},21 @@ def {'_'.join(rng.choices(WORDS, k=2))}(self):"
            )
            lines += [f"         {choose_words(rng, 7)}" for _ in range(10)]
            changes.append(len(lines) + 1)
            lines += [f"-        {choose_words(rng, 5)}", f"+        {choose_words(rng, 5)}"]
            lines += [f"         {choose_words(rng, 7)}" for _ in range(10)]
    first, second, third = (changes[index] for index in choose_places(rng, len(changes)))
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
        name = f'    "node_modules/{choose_word(rng)}-{choose_word(rng)}": {{"version": "'
        lines += [
            f'-{name}{rng.randint(1, 9)}.0.{rng.randint(0, 30)}"}},',
            f'+{name}{rng.randint(1, 9)}.1.{rng.randint(0, 30)}"}},',
        ]
    question = "What is max_redirects set to by this change?"
    return Plant(
        "git diff", "\n".join(lines), question, "max_redirects = 37", ("verify = False", "rollback of partial refunds")
    )


def grep(rng: Random) -> Plant:
    """Return the output of `grep -rn timeout`."""
    files = [
        f"./{choose_word(rng)}/{choose_word(rng)}/{choose_word(rng)}.{rng.choice(('py', 'go', 'ts', 'md'))}"
        for _ in range(150)
    ]
    lines = [
        f"{file}:{line * 11}:    {choose_words(rng, 3)} timeout = {choose_words(rng, 3)}"
        for file in sorted(files)
        for line in range(1, 9)
    ]
    first, second, third = choose_places(rng, len(lines))
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


def source_file(rng: Random) -> Plant:
    """Return a long source file."""
    names = ["_".join(rng.sample(WORDS, 3)) for _ in range(130)]
    first, second, third = choose_places(rng, len(names))
    bodies = {
        first: "    grace_days = 23\n    return grace_days * rate",
        second: "    # FIXME: loses every second record when the batch is empty\n    return None",
        third: "    raise RuntimeError('unreachable: tenant without region')",
    }
    blocks = [
        f'def {name}(rate, limit):\n    """{make_sentence(rng)}"""\n'
        + "".join(f"    {choose_word(rng)} = {choose_word(rng)}({choose_word(rng)}, limit)\n" for _ in range(9))
        + bodies.get(index, f"    return {choose_word(rng)}")
        for index, name in enumerate(names)
    ]
    question = f"How many grace_days does {names[first]} use?"
    return Plant(
        "source file",
        "\n\n\n".join(blocks),
        question,
        "grace_days = 23",
        ("loses every second record", "tenant without region"),
    )


def web_page(rng: Random) -> Plant:
    """Return a page of a manual with menus and scripts."""
    menu = "".join(
        f'<li class="nav-item"><a href="/docs/{word}/{index}" class="nav-link">{word.title()}</a></li>\n'
        for index, word in enumerate(rng.choices(WORDS, k=220))
    )
    script = (
        "<script>"
        + ";".join(
            f"window.{choose_word(rng)}{index}=function(e){{return e.{choose_word(rng)}}}" for index in range(300)
        )
        + "</script>"
    )
    sections = [
        f'<section id="s{index}"><h2 class="title">{choose_words(rng, 3).title()}</h2>\n'
        f'<p class="body-text">{make_sentence(rng)} {make_sentence(rng)}</p>\n'
        f'<p class="body-text">{make_sentence(rng)} See <a href="/docs/{choose_word(rng)}">{choose_word(rng)}</a>. '
        f"{make_sentence(rng)}</p></section>"
        for index in range(120)
    ]
    first, second, third = choose_places(rng, len(sections))
    sections[first] = (
        '<section id="limits"><h2 class="title">Upload limits</h2>\n'
        '<p class="body-text">A single upload may have at most 731 parts.</p></section>'
    )
    sections[second] += '\n<div class="admonition error"><p>Error 4093 is returned when the bucket is locked.</p></div>'
    sections[third] += (
        '\n<div class="admonition warning"><p>Warning: deleting a region cannot be undone, even by support.</p></div>'
    )
    text = (
        f"<!DOCTYPE html>\n<html><head><title>Storage manual</title>\n<style>{'.x{margin:0}' * 400}</style>{script}"
        f"</head>\n<body><nav><ul>\n{menu}</ul></nav>\n<main>\n"
        + "\n".join(sections)
        + f"\n</main><footer><ul>{menu}</ul></footer></body></html>"
    )
    return Plant(
        "HTML",
        text,
        "How many parts may an upload have at most?",
        "at most 731 parts",
        ("Error 4093", "deleting a region cannot be undone"),
    )


def report(rng: Random) -> Plant:
    """Return a long report in running text."""
    paragraphs = [" ".join(make_sentence(rng) for _ in range(6)) for _ in range(110)]
    first, second, third = choose_places(rng, len(paragraphs))
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


def stack_traces(rng: Random) -> Plant:
    """Return a log of mostly similar stack traces."""

    def trace(index: int, kind: str, message: str) -> str:
        frames = "\n".join(
            f"\tat com.example.{choose_word(rng)}.{choose_word(rng).title()}.{choose_word(rng)}"
            f"({choose_word(rng).title()}.java:{rng.randint(10, 900)})"
            for _ in range(14)
        )
        entry = f"{format_time(index * 40)},301 ERROR [worker-{index % 9}] order {50_000 + index} was not booked"
        return f"{entry}\n{kind}: {message}\n{frames}"

    traces = [trace(index, "java.net.SocketTimeoutException", "Read timed out") for index in range(330)]
    first, second, third = choose_places(rng, len(traces))
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


def package_log(rng: Random) -> Plant:
    """Return the output of a package manager that installs."""
    lines: list[str] = []
    for _ in range(420):
        name = f"{choose_word(rng)}-{choose_word(rng)}"
        version = f"{rng.randint(0, 9)}.{rng.randint(0, 30)}.{rng.randint(0, 9)}"
        lines += [
            f"Collecting {name}>={version}",
            f"  Downloading {name.replace('-', '_')}-{version}-py3-none-any.whl ({rng.randint(10, 900)} kB)",
            f"Requirement already satisfied: {choose_word(rng)} in ./lib/site-packages (from {name}) ({version})",
        ]
    first, second, third = choose_places(rng, len(lines))
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


def repeated_reads(rng: Random) -> Plant:
    """Return two almost equal dumps of one configuration, one after the other."""
    names = ["_".join(rng.sample(WORDS, 2)) + f"_{index}" for index in range(620)]
    before = [f"{name} = {rng.randint(1, 900)}" for name in names]
    first, second, third = choose_places(rng, len(names))
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
