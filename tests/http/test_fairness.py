"""The intake over HTTP: long batches and single events side by side, full queues, and draining.

Where a moment has to be caught, the store is held at it; nothing here depends on how fast the machine is, but for the
last test, which compares the server with itself.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from sekali.event import EventBatch
from sekali.http.app import SekaliApp, create_app
from sekali.store.append import PreparedGroup
from sekali.store.store import Store
from tests.serving import Server
from tests.support.stores import WAIT_S_MAX, store_settings

LONG_EVENTS = 50_000


def events(count: int, prefix: str) -> bytes:
    """A batch of `count` small events; one event for a count of 1."""
    made = [
        {"topic": "t", "event_id": f"{prefix}-{i}", "timestamp": "2024-01-01", "source": "s", "payload": {"n": i}}
        for i in range(count)
    ]
    return json.dumps(made if count > 1 else made[0]).encode()


class Held:
    """Calls to a method of the store that wait until they are released. `reached` counts those that came so far."""

    def __init__(self, method: Callable[..., Any], holds: Callable[..., bool]) -> None:
        self._method = method
        self._holds = holds
        self._released = threading.Event()
        self._count = threading.Semaphore(0)

    def __call__(self, *arguments: Any) -> Any:
        if self._holds(*arguments) and not self._released.is_set():
            self._count.release()
            assert self._released.wait(WAIT_S_MAX)
        return self._method(*arguments)

    async def wait_until_reached(self) -> None:
        reached = await asyncio.to_thread(self._count.acquire, timeout=WAIT_S_MAX)
        assert reached, "the store was not asked"

    def release(self) -> None:
        self._released.set()


class Serving:
    """An app on an event loop, its store, and a client that speaks to it."""

    def __init__(self, app: SekaliApp, client: httpx2.AsyncClient) -> None:
        assert app.lifecycle.current is not None
        self.hub = app.lifecycle.current.hub
        self.store: Store = self.hub._store
        self._client = client

    def publish(self, body: bytes, query: str = "") -> asyncio.Task[httpx2.Response]:
        request = self._client.post(f"/publish{query}", content=body, headers={"content-type": "application/json"})
        return asyncio.ensure_future(request)

    async def get(self, target: str) -> Any:
        return (await self._client.get(target)).json()

    async def wait_for_depth(self, count: int) -> None:
        """Until the intake holds `count` events."""
        deadline = time.monotonic() + WAIT_S_MAX
        while self.hub.stats()["queue_depth"] != count:
            assert time.monotonic() < deadline, self.hub.stats()
            await asyncio.sleep(0)

    def hold_commits(self) -> Held:
        held = Held(self.store.commit, lambda group, stamp_us: True)
        self.store.commit = held  # type: ignore[method-assign]
        return held

    def hold_preparing(self, holds: Callable[[Sequence[EventBatch]], bool]) -> Held:
        held = Held(self.store.prepare, holds)
        self.store.prepare = held  # type: ignore[method-assign]
        return held


@asynccontextmanager
async def serving(folder: Path, **settings: Any) -> AsyncIterator[Serving]:
    app = create_app(store_settings(folder / "store.db", **settings))
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://sekali.test") as client:
            yield Serving(app, client)


def is_problem(response: httpx2.Response, code: str) -> bool:
    return bool(
        response.status_code == 503
        and response.json()["code"] == code
        and response.headers["content-type"] == "application/problem+json"
        and int(response.headers["retry-after"]) >= 1
    )


async def test_single_events_are_answered_while_a_long_batch_is_prepared(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        held = server.hold_preparing(lambda batches: sum(map(len, batches)) >= LONG_EVENTS)
        long = server.publish(events(LONG_EVENTS, "long"))
        await held.wait_until_reached()
        for number in range(20):
            answer = await server.publish(events(1, f"single-{number}"))
            assert answer.status_code == 200
            assert answer.json()["queued"] == LONG_EVENTS + 1
        assert not long.done()
        held.release()
        assert (await long).json() == {"accepted": LONG_EVENTS, "queued": LONG_EVENTS}
        assert (await server.get("/stats"))["unique_processed"] == LONG_EVENTS + 20


async def test_of_many_long_batches_none_starves_and_single_events_go_between_them(tmp_path: Path) -> None:
    """While one long batch commits, three more long ones and a single event queue up: the single one is among the
    next two groups, and every long one is stored."""
    order: list[int] = []
    async with serving(tmp_path) as server:
        held = server.hold_commits()
        commit = server.store.commit

        def commit_in_order(group: PreparedGroup, stamp_us: int) -> Any:
            outcomes = commit(group, stamp_us)
            order.append(sum(group.batch_sizes))
            return outcomes

        server.store.commit = commit_in_order  # type: ignore[method-assign]
        long = [server.publish(events(3000, "long-0"))]
        await held.wait_until_reached()
        long += [server.publish(events(3000, f"long-{number}")) for number in range(1, 4)]
        await server.wait_for_depth(4 * 3000)
        single = server.publish(events(1, "single"))
        await server.wait_for_depth(4 * 3000 + 1)
        held.release()
        assert (await single).status_code == 200
        assert [(await task).status_code for task in long] == [200] * 4
    assert sorted(order) == [1, 3000, 3000, 3000, 3000]
    assert order.index(1) <= 2, order


async def test_requests_that_arrive_during_a_commit_share_the_next_one(tmp_path: Path) -> None:
    async with serving(tmp_path, consumer_workers=1) as server:
        held = server.hold_commits()
        first = server.publish(events(1, "first"))
        await held.wait_until_reached()
        rest = [server.publish(events(1, f"e-{number}")) for number in range(50)]
        await server.wait_for_depth(51)
        held.release()
        queued = [(await task).json()["queued"] for task in [first, *rest]]
        assert queued == list(range(1, 52)), "each is told of what was there before it, and of itself"
        stats = await server.get("/stats")
    assert (stats["received"], stats["commits"]) == (51, 2)


async def test_a_full_intake_refuses_with_503_and_stores_nothing_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path, intake_events_max=100) as server:
        held = server.hold_commits()
        first = server.publish(events(60, "first"))
        await held.wait_until_reached()
        second = server.publish(events(40, "second"))
        await server.wait_for_depth(100)
        for count in (1, 2, 100):
            assert is_problem(await server.publish(events(count, f"refused-{count}")), "overloaded")
        ready = await server._client.get("/readyz")
        assert (ready.status_code, "intake" in ready.text) == (503, True)
        held.release()
        assert [(await task).status_code for task in (first, second)] == [200, 200]
        stats = await server.get("/stats")
        assert (stats["received"], stats["queue_depth"]) == (100, 0)
        assert (await server.publish(events(2, "refused-2"))).json() == {"accepted": 2, "queued": 2}
        assert (await server._client.get("/readyz")).status_code == 200


async def test_bytes_bound_the_intake_too(tmp_path: Path) -> None:
    async with serving(tmp_path, intake_bytes_max=10_000) as server:
        held = server.hold_commits()
        first = server.publish(events(80, "first"))
        await held.wait_until_reached()
        assert is_problem(await server.publish(events(80, "second")), "overloaded")
        held.release()
        assert (await first).status_code == 200
        assert (await server.publish(events(80, "second"))).status_code == 200


async def test_an_empty_intake_takes_a_request_of_any_legal_size(tmp_path: Path) -> None:
    async with serving(tmp_path, intake_events_max=10, intake_bytes_max=2000, bodies_bytes_max=2000) as server:
        answer = await server.publish(events(1000, "large"))
        assert answer.json() == {"accepted": 1000, "queued": 1000}


async def test_a_request_answered_while_draining_was_admitted_before_it_and_later_ones_are_refused(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        held = server.hold_commits()
        admitted = server.publish(events(5, "admitted"))
        await held.wait_until_reached()
        waiting = server.publish(events(7, "waiting"))
        await server.wait_for_depth(12)
        server.hub.start_draining()
        refused = await server.publish(events(1, "refused"))
        assert is_problem(refused, "draining")
        assert refused.headers["connection"] == "close"
        held.release()
        assert [(await task).json()["accepted"] for task in (admitted, waiting)] == [5, 7]
        assert server.store.totals().received == 12


async def test_a_client_that_leaves_stops_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        held = server.hold_commits()
        gone = server.publish(events(3, "gone"))
        await held.wait_until_reached()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        held.release()
        answer = await server.publish(events(3, "gone"), "?receipts=true")
        assert [receipt["status"] for receipt in answer.json()["receipts"]] == ["duplicate"] * 3


def test_long_batches_hold_single_events_back_no_longer_than_one_of_them_takes(tmp_path: Path) -> None:
    """A real server. The slowest single publish beside long batches is compared with one long batch alone."""
    server = Server(tmp_path)
    stop = threading.Event()
    latencies: list[float] = []
    headers = {"content-type": "application/json"}

    def publish_singles(name: str) -> None:
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            number = 0
            while not stop.is_set():
                number += 1
                begun = time.perf_counter()
                answer = client.post("/publish", content=events(1, f"{name}-{number}"), headers=headers)
                latencies.append(time.perf_counter() - begun)
                assert answer.status_code == 200

    try:
        server.start()
        with httpx2.Client(base_url=server.url, timeout=60) as client:
            bodies = [events(LONG_EVENTS, f"long-{number}") for number in range(5)]
            begun = time.perf_counter()
            for body in bodies[:2]:
                assert client.post("/publish", content=body, headers=headers).status_code == 200
            alone_s = (time.perf_counter() - begun) / 2
            singles = [threading.Thread(target=publish_singles, args=(f"c{i}",)) for i in range(2)]
            for thread in singles:
                thread.start()
            for body in bodies[2:]:
                assert client.post("/publish", content=body, headers=headers).status_code == 200
            stop.set()
            for thread in singles:
                thread.join()
    finally:
        stop.set()
        server.kill()
    median_s = statistics.median(latencies)
    print(f"alone {alone_s:.3f} s; {len(latencies)} singles: p50 {median_s:.4f} s, slowest {max(latencies):.3f} s")
    assert max(latencies) < 1.5 * alone_s + 0.2
    assert median_s < alone_s / 5
