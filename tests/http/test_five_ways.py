"""The same requests however the app is driven: a lifespan twice, none at all, two event loops, a reload, a real server.

`talk` is the suite: some thirty requests that cover every endpoint and the errors. It leaves its events under topics of
its own, so that it can be run on one store again and again.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.serving import Server

Send = Callable[[str, str, bytes | None, Mapping[str, str]], Any]
"""Method, target, body and headers to a response of httpx, httpx2 or TestClient."""

JSON = {"content-type": "application/json"}


class Talk:
    """One run of the suite through `send`."""

    def __init__(self, send: Send, name: str) -> None:
        self._send = send
        self.alpha, self.beta = f"{name}/alpha", f"{name} beta"

    def event(self, event_id: str, payload: str = "{}", topic: str | None = None) -> str:
        names = json.dumps({"topic": topic or self.alpha, "event_id": event_id, "timestamp": "2024-01-01T00:00:00Z"})
        return names[:-1] + f',"source":"manual","payload":{payload}}}'

    def publish(self, body: str, query: str = "", headers: Mapping[str, str] = JSON) -> Any:
        return self._send("POST", f"/publish{query}", body.encode(), headers)

    def get(self, target: str, method: str = "GET") -> Any:
        return self._send(method, target, None, {})

    def post(self, target: str, body: str, headers: Mapping[str, str] = JSON) -> Any:
        return self._send("POST", target, body.encode(), headers)


def talk(send: Send, name: str = "t") -> None:
    """All of the suite, in order."""
    talking = Talk(send, name)
    before = talking.get("/stats").json()
    _publish(talking)
    _read(talking)
    _errors(talking)
    _figures(talking, before)


def _publish(talk: Talk) -> None:
    one = talk.publish(talk.event("e-1", '{"x":1}'))
    assert (one.status_code, one.json()) == (200, {"accepted": 1, "queued": 1})
    assert one.headers["content-type"] == "application/json"
    status, _, offset = one.headers["sekali-receipt"].partition("; offset=")
    assert (status, int(offset) > 0) == ("stored", True)
    again = talk.publish(talk.event("e-1", '{ "x": 1 }'))
    assert (again.status_code, again.headers["sekali-receipt"]) == (200, f"duplicate; offset={offset}")
    other = talk.publish(talk.event("e-1", '{"x":2}'))
    assert other.json() == {"accepted": 1, "queued": 1, "conflicts": [0]}
    batch = "[" + ",".join([talk.event("b-1"), talk.event("b-1"), talk.event("b-2", topic=talk.beta)]) + "]"
    assert talk.publish(batch).json() == {"accepted": 3, "queued": 3}
    told = talk.publish(batch, "?receipts=true").json()
    assert [receipt["status"] for receipt in told["receipts"]] == ["duplicate"] * 3
    partial = talk.publish("[" + talk.event("p-1") + ",{}]", "?partial=true&receipts=1").json()
    assert (partial["accepted"], [r["status"] for r in partial["receipts"]]) == (1, ["stored", "rejected"])
    assert talk.publish("[]").json() == {"accepted": 0, "queued": 0}
    large = "[" + ",".join(talk.event(f"l-{i}", '{"text":"' + "x" * 300 + '"}') for i in range(1000)) + "]"
    assert talk.publish(large).json() == {"accepted": 1000, "queued": 1000}


def _read(talk: Talk) -> None:
    everything = talk.get(f"/events?topic={talk.alpha}")
    events = everything.json()
    assert (everything.status_code, len(events)) == (200, 1003)
    assert [event["event_id"] for event in events[:4]] == ["e-1", "b-1", "p-1", "l-0"]
    assert list(events[0]) == ["topic", "event_id", "timestamp", "source", "payload", "offset", "received_at"]
    page = talk.get(f"/events?topic={talk.alpha}&limit=2")
    assert page.json() == events[:2]
    assert 'rel="next"' in page.headers["link"]
    newest = talk.get(f"/events?topic={talk.alpha}&order=desc&limit=2").json()
    assert newest == events[:-3:-1]
    after = talk.get(f"/events?topic={talk.alpha}&after={events[-2]['offset']}").json()
    assert after == events[-1:]
    lines = talk.get(f"/events?topic={talk.alpha}&topic={talk.beta}&format=ndjson").text.splitlines()
    assert len(lines) == 1004
    assert talk.get("/events?topic=never-seen").json() == []
    assert talk.get("/events", "HEAD").content == b""
    one = talk.get(f"/event?topic={talk.alpha}&event_id=e-1")
    assert (one.status_code, one.json()) == (200, events[0])
    keys = [{"topic": talk.alpha, "event_id": event_id} for event_id in ("e-1", "never")]
    seen = talk.post("/seen", json.dumps(keys)).json()
    assert seen == [{"seen": True, "offset": events[0]["offset"]}, {"seen": False}]


def _errors(talk: Talk) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    too_many = "[" + ",".join(["1"] * 50_001) + "]"
    for answer, status, code in (
        (talk.publish("{"), 400, "not_json"),
        (talk.publish("17"), 400, "wrong_root"),
        (talk.publish("{}"), 422, "invalid_event"),
        (talk.publish("[" + talk.event("never") + ",{}]"), 422, "invalid_event"),
        (talk.publish(talk.event("never"), headers=form), 415, "unsupported_media_type"),
        (talk.publish(talk.event("x"), "?receipts=maybe"), 422, "invalid_parameter"),
        (talk.publish(too_many), 413, "too_many_events"),
        (talk.get("/event?topic=never&event_id=never"), 404, "event_not_found"),
        (talk.get("/events?limit=0"), 422, "invalid_parameter"),
        (talk.get("/no-such-page"), 404, "not_found"),
        (talk.get("/publish"), 405, "method_not_allowed"),
    ):
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert answer.headers["content-type"] == "application/problem+json"


def _figures(talk: Talk, before: Mapping[str, Any]) -> None:
    stats = talk.get("/stats").json()
    assert stats["unique_processed"] - before["unique_processed"] == 1004
    assert stats["duplicate_dropped"] - before["duplicate_dropped"] == 6
    assert stats["received"] == stats["unique_processed"] + stats["duplicate_dropped"]
    assert stats["queue_depth"] == 0
    assert {talk.alpha, talk.beta} <= set(stats["topics"])
    topics = {topic["topic"]: topic for topic in talk.get("/topics").json()}
    assert topics[talk.alpha]["events"] == 1003
    assert topics[talk.alpha]["conflicts"] == 1
    assert topics[talk.beta]["duplicates"] == 1
    assert talk.get("/healthz").json() == talk.get("/livez").json() == {"ok": True}
    assert talk.get("/readyz").status_code == 200
    assert talk.get("/").status_code == talk.get("/openapi.json").status_code == talk.get("/docs").status_code == 200


def talk_again(send: Send, name: str = "t") -> None:
    """What an earlier `talk` of that name stored is there, and is known."""
    talking = Talk(send, name)
    assert len(talking.get(f"/events?topic={talking.alpha}").json()) == 1003
    assert talking.publish(talking.event("e-1", '{"x":1}')).headers["sekali-receipt"].startswith("duplicate; ")


def through(client: Any) -> Send:
    """A client of httpx or httpx2, or a TestClient: they are driven alike."""

    def send(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        return client.request(method, target, content=body, headers=dict(headers))

    return send


def through_asgi(library: ModuleType, app: FastAPI) -> Iterator[Send]:
    """ASGITransport, which runs no lifespan, on one event loop of its own."""
    loop = asyncio.new_event_loop()
    client = library.AsyncClient(transport=library.ASGITransport(app=app), base_url="http://sekali.test")

    def send(method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Any:
        return loop.run_until_complete(client.request(method, target, content=body, headers=dict(headers)))

    try:
        yield send
    finally:
        loop.run_until_complete(client.aclose())
        loop.close()


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`src.main`, loaded anew with a DB_PATH of this test. What its apps have open is closed with the test."""
    monkeypatch.setenv("DB_PATH", str(tmp_path / "store.db"))
    monkeypatch.setenv("CONSUMER_WORKERS", "2")
    module = importlib.reload(importlib.import_module("src.main"))
    yield module
    with TestClient(module.app):
        pass  # the end of a lifespan closes the store, whoever opened it
    gc.collect()


def test_twice_with_a_lifespan_on_one_app(main: ModuleType) -> None:
    with TestClient(main.app) as client:
        talk(through(client))
    with TestClient(main.app) as client:
        talk_again(through(client))
        talk(through(client), "second")


def test_a_lifespan_within_a_lifespan(main: ModuleType) -> None:
    with TestClient(main.app) as outer:
        with TestClient(main.app) as inner:
            talk(through(inner))
        talk_again(through(outer))
        talk(through(outer), "second")


def test_without_a_lifespan(main: ModuleType) -> None:
    talk(through(TestClient(main.app)))
    talk_again(through(TestClient(main.app)))


def test_first_without_a_lifespan_and_then_with_one(main: ModuleType) -> None:
    bare = TestClient(main.app)
    talk(through(bare))
    with TestClient(main.app) as client:
        talk_again(through(client))
    talk_again(through(bare))


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_without_a_lifespan_from_two_event_loops_one_after_the_other(main: ModuleType, library: ModuleType) -> None:
    for send in through_asgi(library, main.app):
        talk(send)
    for send in through_asgi(library, main.app):
        talk_again(send)
        talk(send, "second")


def test_without_a_lifespan_from_two_event_loops_at_the_same_time(main: ModuleType) -> None:
    both = threading.Barrier(2)
    faults: list[BaseException] = []

    def run(library: ModuleType, topic: str) -> None:
        try:
            for send in through_asgi(library, main.app):
                both.wait()
                publishing = Talk(send, topic)
                for number in range(100):
                    answer = publishing.publish(publishing.event(f"e-{number}", topic="shared"))
                    assert answer.status_code == 200, answer.text
                both.wait()
                assert len(publishing.get("/events?topic=shared").json()) == 100
        except BaseException as error:  # noqa: BLE001  (handed on to the test)
            faults.append(error)
            both.abort()

    threads = [threading.Thread(target=run, args=each) for each in ((httpx, "one"), (httpx2, "two"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults


def test_reloaded_with_the_same_store(main: ModuleType) -> None:
    with TestClient(main.app) as client:
        talk(through(client))
    reloaded = importlib.reload(main)
    with TestClient(reloaded.app) as client:
        talk_again(through(client))
        talk(through(client), "second")


def test_reloaded_with_the_same_store_while_the_old_app_is_still_in_use(main: ModuleType) -> None:
    old = TestClient(main.app)
    talk(through(old))
    new = TestClient(importlib.reload(main).app)
    talk_again(through(new))
    talk(through(new), "second")
    talk_again(through(old))
    talk_again(through(old), "second")


def test_reloaded_with_another_store(main: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first_path = str(tmp_path / "store.db")
    second_path = str(tmp_path / "other" / "store.db")
    talk(through(TestClient(main.app)))
    for path, is_new in ((second_path, True), (first_path, False)):
        monkeypatch.setenv("DB_PATH", path)
        client = TestClient(importlib.reload(main).app)
        stats = client.get("/stats").json()
        assert (stats["db_path"], stats["received"] == 0) == (path, is_new)
        if is_new:
            talk(through(client))
        else:
            talk_again(through(client))


def test_one_app_with_another_store_for_its_second_lifespan(
    main: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(main.app) as client:
        talk(through(client))
    monkeypatch.setenv("DB_PATH", str(tmp_path / "other.db"))
    with TestClient(main.app) as client:
        assert client.get("/stats").json()["received"] == 0
        talk(through(client))


def test_a_real_server(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.start()
        with httpx2.Client(base_url=server.url) as client:
            talk(through(client))
        code = server.terminate()
        assert code == 0 or sys.platform == "win32" or code in (-15, 143)
        server.start()
        with httpx.Client(base_url=server.url) as client:
            talk_again(through(client))
            talk(through(client), "second")
        assert "Traceback" not in server.log
    finally:
        server.kill()
