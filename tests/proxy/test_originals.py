import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.originals import AROUND, LENGTH, MATCHES, PIECE, Originals, OriginalsError, name, part

TEXT = st.text(st.characters(codec=None))
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(path: Path, seconds: float = DAY, clock: Clock | None = None) -> AsyncGenerator[Originals]:
    originals = Originals(path, seconds, clock or Clock())
    await originals.start()
    try:
        yield originals
    finally:
        await originals.stop()


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("SELECT count(*) FROM originals").fetchone()[0])


# names


@given(TEXT, TEXT)
def test_a_name_is_short_and_always_the_same(owner: str, text: str) -> None:
    assert re.fullmatch(rf"[0-9a-f]{{{LENGTH}}}", name(owner, text))
    assert name(owner, text) == name(owner, text)


def test_a_name_is_the_same_on_every_machine() -> None:
    assert name("owner", "text") == "d31d9a9731d45bb6"  # printf 'owner\0text' | sha256sum


@given(TEXT, TEXT, TEXT)
def test_owners_do_not_share_names(one: str, other: str, text: str) -> None:
    assert (name(one, text) == name(other, text)) == (one == other)


# the store


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(TEXT | st.text("ab\n", min_size=5_000), max_size=5), other=st.text(min_size=1, max_size=3))
def test_what_was_put_comes_back_to_its_owner_alone(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], other: str
) -> None:
    async def there_and_back() -> None:
        async with opened(tmp_path_factory.mktemp("originals") / "o.sqlite3") as originals:
            names = await originals.put("owner", texts)
            assert names == [name("owner", text) for text in texts]
            assert [await originals.get("owner", its_name) for its_name in names] == texts
            assert [await originals.get(f"owner{other}", its_name) for its_name in names] == [None] * len(texts)

    asyncio.run(there_and_back())


async def test_another_process_finds_it_as_soon_as_put_returns(tmp_path: Path) -> None:
    async with opened(tmp_path / "o.sqlite3") as one, opened(tmp_path / "o.sqlite3") as other:
        names = await one.put("owner", [f"text {number}" for number in range(200)])
        assert [await other.get("owner", its_name) for its_name in names] == [f"text {n}" for n in range(200)]


async def test_putting_again_changes_nothing_but_the_expiry(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path / "o.sqlite3", 100.0, clock) as originals:
        its_name = (await originals.put("owner", ["text", "text"]))[0]
        for _ in range(20):
            clock.now += 60.0
            await originals.put("owner", ["text"])
            assert count(tmp_path / "o.sqlite3") == 1
        clock.now += 99.9
        assert await originals.get("owner", its_name) == "text"


async def test_what_is_known_to_be_stored_costs_no_transaction(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path / "o.sqlite3", 100.0, clock) as originals:
        await originals.put("owner", ["text"])
        with closing(sqlite3.connect(tmp_path / "o.sqlite3")) as database:
            database.execute("ALTER TABLE originals RENAME TO elsewhere")
        clock.now += 9.0
        await originals.put("owner", ["text"])
        clock.now += 2.0
        with pytest.raises(OriginalsError):
            await originals.put("owner", ["text"])


@given(st.lists(st.floats(0.1, 300.0), max_size=12))
@settings(max_examples=15, deadline=None)
def test_a_text_can_be_had_for_as_long_as_was_promised(
    tmp_path_factory: pytest.TempPathFactory, pauses: list[float]
) -> None:
    async def wait_and_see() -> None:
        clock = Clock()
        async with opened(tmp_path_factory.mktemp("originals") / "o.sqlite3", 100.0, clock) as originals:
            for pause in pauses:
                await originals.put("owner", ["text"])
                clock.now += pause
                await originals.purge()
                found = await originals.get("owner", name("owner", "text"))
                assert found == "text" or pause > 100.0
                assert found is None or pause < 111.0

    asyncio.run(wait_and_see())


async def test_what_has_expired_is_gone_and_wiped_from_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "o.sqlite3"
    async with opened(path, 100.0, clock) as originals:
        old = (await originals.put("owner", [os.urandom(200_000).hex()]))[0]
        await originals.purge()
        full = path.stat().st_size + path.with_name("o.sqlite3-wal").stat().st_size
        clock.now += 60.0
        young = (await originals.put("owner", ["young"]))[0]
        clock.now += 60.0
        assert await originals.get("owner", old) is None
        assert await originals.purge() == 1
        assert await originals.purge() == 0
        assert await originals.get("owner", young) == "young"
        assert path.stat().st_size + path.with_name("o.sqlite3-wal").stat().st_size < full / 4


@pytest.mark.parametrize("odd", ["", "x", "0" * (LENGTH - 1), "0" * LENGTH, "F" * LENGTH, "\ud800", "%' OR 1=1 --"])
async def test_a_name_that_nobody_gave_finds_nothing(tmp_path: Path, odd: str) -> None:
    async with opened(tmp_path / "o.sqlite3") as originals:
        await originals.put("owner", ["text"])
        assert await originals.get("owner", odd) is None


async def test_puts_that_meet_are_all_stored(tmp_path: Path) -> None:
    async with opened(tmp_path / "o.sqlite3") as originals:
        texts = [[f"{who} {number}" for number in range(who % 7)] for who in range(50)]
        names = await asyncio.gather(*(originals.put(str(who), some) for who, some in enumerate(texts)))
        assert count(tmp_path / "o.sqlite3") == sum(map(len, texts))
        for who, some in enumerate(texts):
            assert [await originals.get(str(who), its_name) for its_name in names[who]] == some


async def test_a_caller_who_leaves_disturbs_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path / "o.sqlite3") as originals:
        leaving = asyncio.create_task(originals.put("a", ["one"]))
        staying = asyncio.create_task(originals.put("b", ["two"]))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await originals.get("b", (await staying)[0]) == "two"
        assert (await asyncio.gather(leaving, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_disk_that_fails_is_told_and_not_remembered_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    async with opened(path) as originals:
        with closing(sqlite3.connect(path)) as database:
            database.execute("ALTER TABLE originals RENAME TO elsewhere")
            with pytest.raises(OriginalsError, match="OperationalError"):
                await originals.put("owner", ["text"])
            with pytest.raises(OriginalsError):
                await originals.get("owner", name("owner", "text"))
            database.execute("ALTER TABLE elsewhere RENAME TO originals")
        its_name = (await originals.put("owner", ["text"]))[0]
        assert await originals.get("owner", its_name) == "text"


async def test_a_store_that_is_not_open_is_told(tmp_path: Path) -> None:
    originals = Originals(tmp_path / "o.sqlite3", DAY)
    with pytest.raises(OriginalsError):
        await originals.put("owner", ["text"])
    await originals.start()
    await originals.stop()
    with pytest.raises(OriginalsError):
        await originals.put("owner", ["other"])


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    originals = Originals(tmp_path / "file" / "o.sqlite3", DAY)
    with pytest.raises(OriginalsError):
        await originals.start()
    await originals.stop()


async def test_the_file_is_the_owner_s_alone_and_shows_no_text(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    async with opened(path) as originals:
        await originals.put("owner", ["x"])
        for suffix in ("", "-wal", "-shm"):
            assert path.with_name(path.name + suffix).lstat().st_mode & 0o777 == 0o600


CHILD = """
import asyncio, sys
from pathlib import Path
from clara_proxy.proxy.originals import Originals

async def main():
    originals = Originals(Path(sys.argv[1]), 86400)
    await originals.start()
    for number in range(10**9):
        names = await originals.put("owner", [f"{sys.argv[2]} {number} {part}" for part in range(5)])
        print(number, *names, flush=True)

asyncio.run(main())
"""


async def test_kill_9_loses_nothing_that_put_has_returned(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    for run in range(2):
        command = [sys.executable, "-c", CHILD, str(path), str(run)]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        said = [await child.stdout.readline()]
        await asyncio.sleep(0.5)
        os.kill(child.pid, 9)
        said += (await child.stdout.read()).splitlines(keepends=True)
        await child.wait()
        promised = [line.split() for line in said if line.endswith(b"\n")]
        assert len(promised) > 10
        async with opened(path) as originals:
            for number, *names in promised[-50:]:
                found = [await originals.get("owner", its_name.decode()) for its_name in names]
                assert found == [f"{run} {int(number)} {index}" for index in range(5)]
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# parts

LINES = "\n".join(f"line {number}" for number in range(1, 31))


def test_the_whole_is_a_part() -> None:
    assert part(LINES) == LINES


@given(st.lists(st.text(st.characters(exclude_characters="\n"))).filter(bool), st.data())
def test_lines_are_verbatim_and_meet_where_they_were_cut(rows: list[str], data: st.DataObject) -> None:
    text = "\n".join(rows)
    first = data.draw(st.integers(1, len(rows)))
    last = data.draw(st.integers(first, len(rows) + 3))
    assert part(text, lines=f"{first}-{last}") == "\n".join(rows[first - 1 : last])
    assert part(text, lines=f"{first}-") == "\n".join(rows[first - 1 :])
    assert part(text, lines=f"{first}") == rows[first - 1]
    if first > 1:
        assert part(text, lines=f"1-{first - 1}") + "\n" + part(text, lines=f"{first}-") == text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("0", "counted from 1"),
        ("0-5", "counted from 1"),
        ("9-5", "end .5. before they begin .9."),
        ("31", "begin at 31, but there are only 30"),
        ("31-40", "begin at 31, but there are only 30"),
        *(
            (odd, "N, N-M or N-")
            for odd in ("", "-", "-5", "a-b", "1-2-3", "1,5", "1 - 5", "١-٢", "9" * 99, "1.5", "--1")
        ),
    ],
)
def test_lines_that_make_no_sense_are_refused(lines: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        part(LINES, lines=lines)


def test_a_query_gives_the_lines_that_answer_it_with_those_around() -> None:
    rows = [f"step {number} went well" for number in range(1, 41)]
    rows[9] = "step 10: ERROR disk_full on /dev/sda"
    assert part("\n".join(rows), query="which disk full error?") == "\n".join(
        [
            "8-step 8 went well",
            "9-step 9 went well",
            "10:step 10: ERROR disk_full on /dev/sda",
            "11-step 11 went well",
            "12-step 12 went well",
        ]
    )


def test_places_that_are_apart_stand_apart() -> None:
    rows = ["-"] * 30
    rows[4] = rows[20] = "needle"
    assert [piece.split("\n") for piece in part("\n".join(rows), query="needle").split("\n--\n")] == [
        ["3--", "4--", "5:needle", "6--", "7--"],
        ["19--", "20--", "21:needle", "22--", "23--"],
    ]


def test_rare_words_outweigh_common_ones() -> None:
    rows = ["the error code"] * 50 + ["zebra"] + ["the error code"] * 50
    assert ":zebra" in part("\n".join(rows), query="the error code zebra")


def test_the_query_as_it_stands_outweighs_its_words() -> None:
    rows = ["full disk"] * 5 + ["-"] * 10 + ["a disk full of b"] + ["-"] * 10
    assert "16:a disk full of b" in part("\n".join(rows), query="Disk full").split("\n")
    assert part("x\n=> !!\ny", query="!!") == "1-x\n2:=> !!\n3-y"


def test_a_query_within_lines_keeps_their_numbers() -> None:
    assert part("a\nneedle\nb\nneedle\nc", query="needle", lines="3-5") == "3-b\n4:needle\n5-c"


@pytest.mark.parametrize("query", ["", "   ", "absent", "?!"])
def test_a_query_that_nothing_answers_gives_nothing(query: str) -> None:
    assert part(LINES, query=query) == ""


def test_of_a_long_line_only_the_piece_that_answers_is_given() -> None:
    text = "x" * 5_500 + " needle " + "y" * 10_000
    found = part(text, query="needle")
    assert f"1@5001:{text[5_000:6_000]}" in found.split("\n")
    assert len(found) < (2 * AROUND + 2) * PIECE


@settings(deadline=None)
@given(st.text("ab \nc", max_size=300), st.text("ab ", max_size=5))
def test_every_line_of_an_answer_stands_in_the_text(text: str, query: str) -> None:
    rows = text.split("\n")
    found = part(text, query=query)
    hits = 0
    for line in found.split("\n") if found else []:
        if line != "--":
            number, sign, row = re.fullmatch(r"(\d+)([:-])(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
            assert row == rows[int(number) - 1]
            hits += sign == ":"
    assert hits <= MATCHES
    phrase = query.strip()
    assert (hits > 0) == bool((phrase and phrase in text) or set(query.split()) & set(text.split()))
