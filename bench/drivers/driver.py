"""A closed loop over any client library: what a driver has to be able to do, and the run that times it.

All requests are built in the client's own form before the clock starts. Each of `connections` workers sends its next
request when the last one is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from bench.events import Body, EventPlan, bodies
from bench.generator import add_plan_arguments, plan_of
from bench.load_report import LoadReport, own_cpu_s, percentiles_ms


class Columns(msgspec.Struct):
    """One event, decoded before the clock. The payload stays JSON text."""

    topic: str
    event_id: str
    timestamp: str
    source: str
    payload: msgspec.Raw


_ONE = msgspec.json.Decoder(Columns)
_MANY = msgspec.json.Decoder(list[Columns])


def events_of(body: Body) -> list[Columns]:
    return [_ONE.decode(body.data)] if body.data[:1] == b"{" else _MANY.decode(body.data)


class Driver(ABC):
    """One peer's client."""

    errors: tuple[type[Exception], ...] = (OSError,)
    """What a refused or lost request raises."""

    @abstractmethod
    async def open(self, connections: int) -> None:
        """Connects `connections` times; makes the table, stream or script where it is missing."""

    @abstractmethod
    def prepare(self, body: Body) -> Any:
        """The request in the form that costs the client least to send."""

    @abstractmethod
    async def send(self, connection: int, prepared: Any) -> int:
        """Returns, once it is answered, how many of its events were new."""

    @abstractmethod
    async def stored_events(self) -> int:
        """Distinct events held, asked of the peer."""

    @abstractmethod
    async def close(self) -> None: ...


@dataclass(slots=True)
class Tally:
    """What the workers counted."""

    requests: int = 0
    events: int = 0
    events_new: int = 0
    told_new: int = 0
    bytes_sent: int = 0
    unknown: int = 0
    first_error: str = ""


async def _work(
    driver: Driver, number: int, stream: Iterator[tuple[Body, Any]], stop_ns: int, tally: Tally, took_ns: list[int]
) -> None:
    for body, prepared in stream:
        begun_ns = time.perf_counter_ns()
        try:
            told_new = await driver.send(number, prepared)
        except driver.errors as error:
            tally.unknown += 1
            tally.first_error = tally.first_error or f"{type(error).__name__}: {error}"
            return
        ended_ns = time.perf_counter_ns()
        took_ns.append(ended_ns - begun_ns)
        tally.requests += 1
        tally.events += body.events
        tally.events_new += body.new
        tally.told_new += told_new
        tally.bytes_sent += len(body.data)
        if ended_ns >= stop_ns:
            return


async def drive(driver: Driver, plan: EventPlan, connections: int, seconds: float) -> LoadReport:
    """Sends the plan, then compares what the peer holds, and what it called new, with what was acknowledged."""
    await driver.open(connections)
    stored_before = await driver.stored_events()
    stream = iter([(body, driver.prepare(body)) for body in bodies(plan)])
    report = LoadReport(plan=asdict(plan), connections=connections, prebuilt=True)
    tally, took_ns = Tally(), list[int]()
    gc.collect()
    gc.disable()
    cpu_before_s, begun_ns = own_cpu_s(), time.perf_counter_ns()
    stop_ns = begun_ns + int(seconds * 1e9)
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(_work(driver, number, stream, stop_ns, tally, took_ns))
    report.elapsed_s = report.settled_s = (time.perf_counter_ns() - begun_ns) / 1e9
    report.generator_cpu_s = round(own_cpu_s() - cpu_before_s, 3)
    gc.enable()
    report.requests, report.events, report.events_new = tally.requests, tally.events, tally.events_new
    report.bytes_sent, report.unknown = tally.bytes_sent, tally.unknown
    report.latency_ms = percentiles_ms(took_ns)
    if tally.unknown:
        report.faults.append(f"{tally.unknown} requests failed, the first: {tally.first_error}")
    else:
        report.expect("stored", await driver.stored_events() - stored_before, tally.events_new)
        report.expect("told as new", tally.told_new, tally.events_new)
    report.set_rates()
    await driver.close()
    return report


def run_driver(parser: argparse.ArgumentParser, make: Any) -> int:
    """The main of a driver: `make(arguments)` gives the Driver. Prints the report as one line of JSON."""
    add_plan_arguments(parser)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    report = asyncio.run(drive(make(given), plan_of(given), given.connections, given.seconds))
    print(json.dumps(asdict(report)))
    return 0 if report.sound else 1
