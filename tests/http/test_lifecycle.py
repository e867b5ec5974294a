"""However the app is driven inside a process: lifespans, bare clients, several event loops, reloads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from fastapi.testclient import TestClient

import src.main
from sekali.errors import Draining, OutcomeUnknown, StoreUnusable
from sekali.http import deadlines
from sekali.http.app import SekaliApp, create_app
from sekali.http.deadlines import Cut, Deadlines, Watched
from sekali.settings import Settings
from sekali.store.store import Store
from tests.serving import ROOT
from tests.support.stores import WAIT_S_MAX, wait_for

EVENT = {"topic": "alpha", "timestamp": "2024-01-01T00:00:00Z", "source": "test", "payload": {"x": 1}}


def event(event_id: str) -> dict[str, Any]:
    return {**EVENT, "event_id": event_id}


def publish(client: TestClient, event_id: str) -> str:
    """The receipt."""
    answer = client.post("/publish", json=event(event_id))
    assert answer.status_code == 200, answer.text
    return str(answer.headers["sekali-receipt"])


def stored_ids(client: TestClient) -> list[str]:
    return [each["event_id"] for each in client.get("/events").json()]


@pytest.fixture
def db_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "made" / "store.db"
    monkeypatch.setenv("DB_PATH", str(path))
    monkeypatch.setenv("SEKALI_PREDECESSOR_WAIT_S", "0.2")
    return path


@pytest.fixture
def app(db_path: Path) -> Iterator[SekaliApp]:
    made = create_app()
    yield made
    made.lifecycle._close()


def is_open(path: Path) -> bool:
    return str(path.resolve()) in Store._open_stores


def test_making_an_app_touches_nothing(db_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONSUMER_WORKERS", "not a number")
    threads = threading.active_count()
    create_app()
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


def test_one_app_starts_and_stops_twice(app: SekaliApp, db_path: Path) -> None:
    with TestClient(app) as client:
        assert publish(client, "a") == "stored; offset=1"
    assert app.lifecycle.current is None
    assert not is_open(db_path)
    with TestClient(app) as client:
        assert publish(client, "a") == "duplicate; offset=1"
        assert publish(client, "b") == "stored; offset=2"
        assert stored_ids(client) == ["a", "b"]
    assert not is_open(db_path)


def test_a_bare_client_opens_the_store_with_its_first_request(app: SekaliApp, db_path: Path) -> None:
    client = TestClient(app)
    assert not db_path.parent.exists()
    assert publish(client, "a") == "stored; offset=1"
    assert TestClient(app).get("/stats").json()["received"] == 1
    assert stored_ids(TestClient(app)) == ["a"]


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_two_event_loops_share_one_opening_without_a_lifespan(app: SekaliApp, library: Any, db_path: Path) -> None:
    both = threading.Barrier(2, timeout=WAIT_S_MAX)
    answers: list[int] = []

    async def drive(name: str) -> None:
        async with library.AsyncClient(transport=library.ASGITransport(app=app), base_url="http://test") as client:
            both.wait()
            posted = [await client.post("/publish", json=event(f"{name}-{i}")) for i in range(20)]
            answers.extend(each.status_code for each in [*posted, await client.get("/events")])

    threads = [threading.Thread(target=asyncio.run, args=(drive(name),)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S_MAX)
    assert answers == [200] * 42
    assert Store._open_stores[str(db_path.resolve())]._openings == 1
    assert TestClient(app).get("/stats").json()["unique_processed"] == 40


def test_a_reload_with_the_same_path_shares_the_store(db_path: Path) -> None:
    before = TestClient(importlib.reload(src.main).app)
    assert publish(before, "a") == "stored; offset=1"
    after = TestClient(importlib.reload(src.main).app)
    assert before.app is not after.app
    assert publish(after, "a") == "duplicate; offset=1"
    assert publish(before, "b") == "stored; offset=2"
    assert stored_ids(after) == ["a", "b"]


def test_a_reload_with_another_path_is_another_store(
    db_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = TestClient(importlib.reload(src.main).app)
    assert publish(before, "a") == "stored; offset=1"
    monkeypatch.setenv("DB_PATH", str(tmp_path / "other.db"))
    with TestClient(importlib.reload(src.main).app) as after:
        assert publish(after, "b") == "stored; offset=1"
        assert stored_ids(after) == ["b"]
        assert stored_ids(before) == ["a"]


def test_settings_are_read_anew_at_every_start(app: SekaliApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(app)
    publish(client, "a")
    with TestClient(app) as same:
        assert stored_ids(same) == ["a"]
    publish(client, "b")
    monkeypatch.setenv("DB_PATH", str(tmp_path / "other.db"))
    with TestClient(app) as other:
        assert stored_ids(other) == []
        assert other.get("/stats").json()["db_path"] == str(tmp_path / "other.db")


def test_settings_that_were_given_win_over_the_environment(db_path: Path, tmp_path: Path) -> None:
    with TestClient(create_app(Settings(db_path=str(tmp_path / "given.db"), consumer_workers=3))) as client:
        stats = client.get("/stats").json()
    assert (stats["db_path"], stats["workers"]) == (str(tmp_path / "given.db"), 3)
    assert not db_path.exists()


def test_two_apps_on_one_path_share_the_store(db_path: Path) -> None:
    with TestClient(create_app()) as one:
        with TestClient(create_app()) as two:
            assert publish(one, "a") == "stored; offset=1"
            assert publish(two, "a") == "duplicate; offset=1"
        assert publish(one, "b") == "stored; offset=2"
    assert not is_open(db_path)


def test_the_store_closes_with_the_last_of_two_lifespans(app: SekaliApp, db_path: Path) -> None:
    with TestClient(app) as one:
        with TestClient(app) as two:
            publish(two, "a")
        publish(one, "b")
        assert is_open(db_path)
    assert not is_open(db_path)


def test_an_app_that_was_collected_closes_its_store(db_path: Path) -> None:
    client = TestClient(create_app())
    publish(client, "a")
    assert is_open(db_path)
    del client
    gc.collect()
    wait_for(lambda: not is_open(db_path), "the store of the collected app is closed")


def test_a_store_that_cannot_be_opened_fails_the_start_and_may_be_mended(app: SekaliApp, db_path: Path) -> None:
    db_path.parent.write_text("a file where a folder should be")
    with pytest.raises(StoreUnusable, match="DB_PATH"), TestClient(app):
        pass
    bare = TestClient(app)
    refused = bare.post("/publish", json=event("a"))
    assert (refused.status_code, refused.json()["code"]) == (500, "store_unusable")
    db_path.parent.unlink()
    assert publish(bare, "a") == "stored; offset=1"


def test_a_wrong_setting_is_named(app: SekaliApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUMER_WORKERS", "many")
    monkeypatch.setenv("SEKALI_DRAIN_S", "-1")
    with pytest.raises(StoreUnusable, match=r"CONSUMER_WORKERS: .*; SEKALI_DRAIN_S: ") as refusal, TestClient(app):
        pass
    assert "many" not in refusal.value.detail


def test_while_draining_publishing_is_refused_and_reading_goes_on(app: SekaliApp) -> None:
    with TestClient(app) as client:
        publish(client, "a")
        assert app.lifecycle.current is not None
        app.lifecycle.current.hub.start_draining()
        refused = client.post("/publish", json=event("b"))
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) > 0
        assert stored_ids(client) == ["a"]
        assert client.get("/readyz").status_code == 503
        with pytest.raises(Draining):
            app.lifecycle.current.hub.publish_now(None)  # type: ignore[arg-type]
    with TestClient(app) as client:
        assert publish(client, "b") == "stored; offset=2"


def test_a_store_that_fails_drains_the_hub_and_a_new_start_goes_on(app: SekaliApp) -> None:
    with TestClient(app) as client:
        publish(client, "a")
        assert app.lifecycle.current is not None
        hub = app.lifecycle.current.hub
        hub._store._fail(OutcomeUnknown("the disk went away"))
        refused = client.post("/publish", json=event("b"))
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        not_ready = client.get("/readyz")
        assert (not_ready.status_code, "the disk went away" in not_ready.text) == (503, True)
        assert hub.failed is not None
    with TestClient(app) as client:
        assert publish(client, "b") == "stored; offset=2"


def test_a_process_that_never_closes_its_app_exits_by_itself(db_path: Path) -> None:
    program = textwrap.dedent("""
        from fastapi.testclient import TestClient
        from src.main import app
        event = {"topic": "t", "event_id": "a", "timestamp": "2024-01-01", "source": "s", "payload": {}}
        print(TestClient(app).post("/publish", json=event).headers["sekali-receipt"])
    """)
    receipts = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=WAIT_S_MAX
        )
        for _ in range(2)
    ]
    assert [(each.stdout, each.stderr) for each in receipts] == [
        ("stored; offset=1\n", ""),
        ("duplicate; offset=1\n", ""),
    ]


# Deadlines


class HubThatDrains:
    """As much of a hub as deadlines look at."""

    cut_at_s: float | None = None


@contextlib.contextmanager
def watching(
    monkeypatch: pytest.MonkeyPatch, on_overdue: Callable[[], None]
) -> Iterator[tuple[HubThatDrains, Deadlines]]:
    monkeypatch.setattr(deadlines, "TICK_S", 0.005)
    hub = HubThatDrains()
    made = Deadlines(hub, on_overdue)  # type: ignore[arg-type]
    try:
        yield hub, made
    finally:
        made.stop()


async def wait_until_cut(deadlines: Deadlines, watched: Watched) -> Cut | None:
    try:
        await asyncio.wait_for(asyncio.Event().wait(), WAIT_S_MAX)
    except asyncio.CancelledError:
        assert watched.was_cut()
    finally:
        deadlines.leave(watched)
    return watched.cut


async def test_a_request_is_cut_when_its_time_is_up_and_when_draining_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch, lambda: None) as (hub, made):
        assert await wait_until_cut(made, made.enter(0.0)) is Cut.TOO_SLOW
        hub.cut_at_s = float("inf")
        assert await wait_until_cut(made, made.enter(None, cut_when_draining=True)) is Cut.DRAINING
        hub.cut_at_s = 0.0
        assert await wait_until_cut(made, made.enter(None)) is Cut.DRAINING


async def test_a_request_that_somebody_else_cancels_is_not_taken_for_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch, lambda: None) as (_, made):
        entered: list[Watched] = []

        async def request() -> None:
            entered.append(made.enter(None))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                assert not entered[0].was_cut()
                raise
            finally:
                made.leave(entered[0])

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert entered[0].cut is None


def test_draining_for_too_long_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    overdue = threading.Event()
    with watching(monkeypatch, overdue.set) as (hub, _):
        hub.cut_at_s = 0.0
        assert overdue.wait(WAIT_S_MAX)
