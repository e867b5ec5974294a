"""Every bad input against one real server: its status and code, nothing stored, the next request works, memory flat."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.bad_inputs import CASES, CLOSED, MIB, BadInput, Kept, event, listed_items
from tests.serving import Server

ANSWER_S_MAX = 60.0
HEAVY_BYTES_MIN = 50_000
HEAVY_PAIRS_MAX = 5
GROWTH_BYTES_MAX = 24 * MIB


class Answer:
    """Status (`CLOSED` when the connection ended without one), headers and body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def exchange(port: int, request: bytes, *, shuts_down: bool = False) -> Answer:
    """Sends bytes as they are and reads one answer. A server may answer, and close, before it has read them all."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S_MAX) as connection:
        try:
            connection.sendall(request)
            if shuts_down:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # what matters is whether there is an answer to read
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return Answer(CLOSED, {}, b"")
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def request_of(case: BadInput) -> bytes:
    if case.raw is not None:
        return case.raw
    body = case.body_bytes
    lines = [f"{case.method} {case.path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in case.headers]
    if case.method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(port: int, path: str) -> Answer:
    return exchange(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())


class Target:
    """The server, and how many good events were sent to it in between."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = server.port
        self._good = 0

    def figures(self) -> tuple[int, int, int]:
        stats = get(self.port, "/stats").document
        assert stats["received"] == stats["unique_processed"] + stats["duplicate_dropped"]
        return stats["received"], stats["unique_processed"], stats["topics_total"]

    def publish_a_good_one(self) -> Answer:
        self._good += 1
        body = event(f"good-{self._good}", topic="good")
        case = BadInput("", "", "", (200,), body=body)
        return exchange(self.port, request_of(case))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    server = Server(tmp_path_factory.mktemp("bad-inputs"))
    try:
        made = Target(server)
        server.start()
        assert made.publish_a_good_one().status == 200
        yield made
    finally:
        server.kill()


def check_problem(answer: Answer, case: BadInput) -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.document
    assert (problem["status"], problem["code"]) == (answer.status, case.code), problem
    assert problem["type"] == f"/errors/{case.code}"
    assert problem["title"]
    assert problem["detail"]
    assert [error["code"] for error in problem.get("errors", [])[:1]] == ([case.item_code] if case.item_code else [])
    assert len(answer.body) < 40_000, "the input is not echoed"


def check_comes_back(port: int, kept: Kept) -> None:
    query = urlencode({"topic": kept.topic, "event_id": kept.event_id})
    answer = get(port, f"/event?{query}")
    assert answer.status == 200, answer.body[:300]
    found = json.loads(answer.body, parse_int=str)  # Python refuses to make a number of 4,301 digits
    names = (found["topic"], found["event_id"], found["timestamp"], found["source"])
    assert names == (kept.topic, kept.event_id, kept.timestamp, kept.source)
    assert b'"payload":' + kept.payload in answer.body
    assert kept.extras in answer.body


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input_gets_its_answer_and_harms_nothing(case: BadInput, target: Target) -> None:
    received, unique, topics = target.figures()
    answer = exchange(target.port, request_of(case), shuts_down=case.raw is not None)
    assert answer.status in case.statuses, answer.body[:300]
    if case.code is not None:
        check_problem(answer, case)
    if case.answer is not None:
        assert {name: answer.document[name] for name in case.answer} == case.answer
    for kept in case.comes_back:
        check_comes_back(target.port, kept)
    received_now, unique_now, topics_now = target.figures()
    assert unique_now - unique == case.stores
    if not case.is_accepted:
        assert (received_now, topics_now) == (received, topics), "nothing of it was counted"
    good = target.publish_a_good_one()
    assert (good.status, good.headers["sekali-receipt"].partition(";")[0]) == (200, "stored")


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_over_rounds_of_the_heaviest(target: Target) -> None:
    """Python and the allocator keep what they once needed, in steps of a body's size; a leak grows with every round."""
    heavy = [request_of(case) for case in CASES if case.raw is None and len(case.body_bytes) >= HEAVY_BYTES_MIN]
    assert len(heavy) >= 8
    process = target.server.process
    assert process is not None

    def largest_of_two_rounds() -> int:
        sizes = []
        for _ in range(2):
            for request in heavy:
                exchange(target.port, request)
            sizes.append(resident_bytes(process.pid))
        return max(sizes)

    sizes = [largest_of_two_rounds()]
    while len(sizes) < HEAVY_PAIRS_MAX and (len(sizes) < 2 or sizes[-1] - sizes[-2] >= GROWTH_BYTES_MAX):
        sizes.append(largest_of_two_rounds())
    print([size // MIB for size in sizes], "MiB after each two rounds")
    assert sizes[-1] - sizes[-2] < GROWTH_BYTES_MAX
    assert "Traceback" not in target.server.log


def test_every_listed_item_has_a_case() -> None:
    covered = {(case.line, case.item) for case in CASES}
    assert [item for item in listed_items() if item not in covered] == []
    assert len({case.name for case in CASES}) == len(CASES)
