"""`clara-proxy serve --processes 2`: shared limits, metrics of all processes, a killed process, and a graceful stop."""

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson
import pytest

from clara_proxy.tests import faulty
from clara_proxy.tests.faulty import DONE_EVENT, EVENT_STREAM_HEAD, Connection, FaultyUpstream, http_chunk, sse_event
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.commands import shell
from clara_proxy.tests.running import TIMEOUT, short_chat

READY = "ready: OPENAI_BASE_URL="
TOKENS_PER_DAY, STARTS_PER_MINUTE, MAX_TOKENS = 400, 10, 20


class Group(NamedTuple):
    """A proxy of two processes, with the keys of its clients by name."""

    url: str
    command: shell.RunningCommand
    folder: Path
    keys: dict[str, str]
    client: httpx.Client  # closes each connection, so that any process may get the next request

    def post(self, key: str) -> int:
        """Send a request on a connection of its own and return the status.

        Threads that share a client may be given a connection that the client closes as idle (a race of httpcore).
        """
        headers = {"x-clara-key": self.keys[key], "authorization": "Bearer sk-client"}
        url, body = f"{self.url}/v1/chat/completions", short_chat(max_tokens=MAX_TOKENS)
        return httpx.post(url, json=body, headers=headers, timeout=TIMEOUT, verify=False).status_code

    def post_many(self, key: str, count: int) -> Counter[int]:
        """Send requests at the same time and count their statuses."""
        with ThreadPoolExecutor(8) as pool:
            return Counter(pool.map(self.post, [key] * count))

    def list_processes(self) -> list[int]:
        """List the process ids of the servers."""
        parent = self.command.process.pid
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    def count_requests(self) -> float:
        """Return the sum of all requests on the metrics page."""
        headers = {"x-clara-key": self.keys["admin"]}
        page = self.client.get(f"{self.url}/metrics", headers=headers).text
        return sum(float(value) for value in re.findall(r"^clara_requests_total\{.*\} (\S+)$", page, re.M))

    def count_shared_requests(self) -> int:
        """Return the sum of all requests in the files by which the processes share their metrics."""
        files = [orjson.loads(path.read_bytes()) for path in self.folder.glob("clara-proxy-*/*.json")]
        return sum(count for file in files for _, count in file["requests"])


@pytest.fixture(scope="module")
def running_upstream() -> Generator[FaultyUpstream]:
    with faulty.run_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def group(running_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Generator[Group]:
    folder = tmp_path_factory.mktemp("processes")
    keys = {
        "free": issue.create_key(folder, "free"),
        "admin": issue.create_key(folder, "admin", admin=True),
        "tokens": issue.create_key(folder, "tokens", tokens_per_day=TOKENS_PER_DAY),
        "starts": issue.create_key(folder, "starts", requests_per_minute=STARTS_PER_MINUTE),
    }
    arguments = ("serve", "--port", "0", "--processes", "2", "--upstream", f"{running_upstream.url}/v1")
    client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=TIMEOUT)
    with shell.start(folder, *arguments, CLARA_DATA_DIR=str(folder), TMPDIR=str(folder)) as command, client:
        url = command.wait_for_line(READY).partition(READY)[2].partition("/v1")[0]
        yield Group(url, command, folder, keys, client)


def test_each_process_serves_the_port(group: Group) -> None:
    processes = group.list_processes()
    assert len(processes) == 2
    for stopped in processes:
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert group.post("free") == 200
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_starts_a_minute_are_those_of_all_processes(group: Group) -> None:
    statuses = group.post_many("starts", 3 * STARTS_PER_MINUTE)
    while statuses[200] < STARTS_PER_MINUTE:  # a process may hold starts that the other one gets in two seconds
        statuses += group.post_many("starts", STARTS_PER_MINUTE)
    statuses += group.post_many("starts", STARTS_PER_MINUTE)
    assert statuses[200] == STARTS_PER_MINUTE
    assert statuses.keys() == {200, 429}


def test_a_budget_is_exceeded_by_one_reservation_at_most(group: Group) -> None:
    statuses = group.post_many("tokens", 80)
    assert statuses.keys() == {200, 429}

    def list_bills() -> list[int]:
        rows = [row for row in issue.read_rows(group.folder) if row.key == "tokens" and row.status == 200]
        return [(row.billed_input or 0) + (row.billed_output or 0) for row in rows]

    issue.wait_until(lambda: len(list_bills()) == statuses[200])
    used = sum(list_bills())
    reservation = 100 + MAX_TOKENS  # more than the bytes of the request and its longest answer
    assert TOKENS_PER_DAY / 2 < used <= TOKENS_PER_DAY + reservation


def test_metrics_add_up_the_processes_and_survive_the_death_of_one(group: Group) -> None:
    group.post_many("free", 20)
    issue.wait_until(lambda: group.count_shared_requests() == len(issue.read_rows(group.folder)))
    before = group.count_requests()
    assert before == len(issue.read_rows(group.folder))
    killed, other = group.list_processes()
    os.kill(killed, signal.SIGKILL)
    issue.wait_until(lambda: len(processes := group.list_processes()) == 2 and killed not in processes)
    assert other in group.list_processes()
    assert f"server process {killed} of the proxy ended" in group.command.err
    assert group.post("free") == 200
    issue.wait_until(lambda: group.count_requests() == before + 1)


def test_a_stop_waits_for_the_requests_of_all_processes(group: Group, running_upstream: FaultyUpstream) -> None:
    async def stream_slowly(connection: Connection) -> None:
        await connection.send(EVENT_STREAM_HEAD, http_chunk(sse_event(faulty.completion_chunk("so far"))))
        await asyncio.sleep(0.5)
        await connection.send(http_chunk(sse_event(faulty.completion_chunk("the rest"))), http_chunk(DONE_EVENT))
        await connection.send(b"0\r\n\r\n")

    running_upstream.script = stream_slowly
    headers = {"x-clara-key": group.keys["free"], "authorization": "Bearer sk-client"}
    processes, url = group.list_processes(), f"{group.url}/v1/chat/completions"
    with group.client.stream("POST", url, json=short_chat(stream=True), headers=headers) as answer:
        pieces = answer.iter_raw()
        received = next(pieces)
        group.command.process.terminate()
        received += b"".join(pieces)
    assert received.endswith(DONE_EVENT)
    assert b"the rest" in received
    assert group.command.wait() == -signal.SIGTERM
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
