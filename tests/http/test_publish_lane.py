"""`POST /publish` has a short way through the app and a route: both must give the same answers, byte for byte."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sekali.http import publish
from sekali.http.app import SekaliApp, create_app
from sekali.settings import Settings
from tests.support.stores import store_settings

JSON = (b"content-type", b"application/json")
EVENT = {
    "topic": "alpha",
    "event_id": "e-1",
    "timestamp": "2024-01-01T00:00:00Z",
    "source": "manual",
    "payload": {"x": 1},
}


class Answer:
    """What an app sent for one request."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message["body"]

    @property
    def everything(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        return self.status, sorted(self.headers), self.body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


async def post(
    app: Any,
    body: bytes | Sequence[bytes],
    *,
    query: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (JSON,),
    path: str = "/publish",
    ends_with: str = "http.request",
) -> Answer:
    """One request, its body in the chunks given. `ends_with="http.disconnect"`: the client leaves after the last."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ends_with == "http.request":
        messages[-1]["more_body"] = False
    else:
        messages.append({"type": ends_with})
    waiting = iter(messages)

    async def receive() -> Message:
        return next(waiting, {"type": "http.disconnect"})

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"test"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    answer = Answer()
    await app(scope, receive, answer.send)
    return answer


class Observer:
    """A middleware that changes nothing."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way each publish went."""
    ways: list[str] = []
    lane, answer = SekaliApp._publish, publish.answer_publish

    async def observed_lane(self: SekaliApp, scope: Scope, receive: Receive, send: Send) -> None:
        ways.append("lane")
        await lane(self, scope, receive, send)

    async def observed_answer(*args: Any) -> Any:
        ways.append("answer")
        return await answer(*args)

    monkeypatch.setattr(SekaliApp, "_publish", observed_lane)
    monkeypatch.setattr(publish, "answer_publish", observed_answer)
    return ways


def limits(folder: Path) -> Settings:
    return store_settings(
        folder / "store.db",
        body_bytes_max=4_096,
        batch_events_max=20,
        event_bytes_max=1_024,
        depth_max=10,
        topics_max=8,
    )


@pytest.fixture
async def lane(tmp_path: Path) -> AsyncIterator[SekaliApp]:
    app = create_app(limits(tmp_path / "lane"))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def route(tmp_path: Path) -> AsyncIterator[SekaliApp]:
    app = create_app(limits(tmp_path / "route"))
    app.dependency_overrides[Observer] = Observer
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture(params=["lane", "route"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SekaliApp]:
    made = create_app(limits(tmp_path / "either"))
    if request.param == "route":
        made.dependency_overrides[Observer] = Observer
    async with made.router.lifespan_context(made):
        yield made


def event(**members: Any) -> dict[str, Any]:
    return {**EVENT, **members}


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


BODIES = [
    encoded(EVENT),
    encoded(EVENT),
    encoded(event(payload={"x": 2})),
    encoded(event(event_id="e-2", more={"kept": [1, 2]})),
    encoded([]),
    encoded([EVENT, event(event_id="e-3"), event(event_id="e-3", payload={}), event(event_id="e-4")]),
    encoded([event(event_id="e-5"), event(event_id=5), event(event_id="e-6"), {}]),
    encoded([event(event_id=f"many-{i}") for i in range(21)]),
    encoded([event(topic=f"topic-{i}", event_id="x") for i in range(9)]),
    encoded(event(event_id="large", payload={"text": "x" * 1_100})),
    encoded([event(event_id=f"long-{i}", payload={"text": "x" * 900}) for i in range(6)]),
    encoded(event(event_id="emoji", source="\N{SNOWMAN}")),
    encoded({"events": [EVENT]}),
    b"",
    b" ",
    b"null",
    b"[" * 30,
    b'{"topic":"alpha"',
    b"\xff\xfe",
    b'{"event_id":"a","event_id":"b"}',
]
QUERIES = [
    b"",
    b"receipts=true",
    b"receipts=1&partial=1",
    b"partial=true",
    b"receipts=0&partial=false",
    b"receipts=yes",
    b"receipts=true&receipts=true",
    b"recepits=true",
    b"receipts=%00",
    b"partial=%ff",
]
HEADERS: list[list[tuple[bytes, bytes]]] = [
    [JSON],
    [],
    [(b"content-type", b"")],
    [(b"content-type", b"application/json; charset=UTF-8")],
    [(b"content-type", b'Application/JSON;version=1;charset="utf-8"')],
    [(b"content-type", b"application/json; charset=latin-1")],
    [(b"content-type", b"application/vnd.acme+json")],
    [(b"content-type", b"application/cloudevents+json")],
    [(b"content-type", b"application/x-www-form-urlencoded")],
    [(b"content-type", b"text/plain")],
    [(b"content-type", b"multipart/form-data; boundary=x")],
    [(b"content-type", b"text/plain"), JSON],
    [(b"origin", b"https://elsewhere.example")],
    [(b"sec-fetch-site", b"cross-site")],
    [(b"sec-fetch-site", b"same-origin")],
    [(b"sec-fetch-site", b"none")],
    [JSON, (b"origin", b"https://elsewhere.example")],
    [JSON, (b"content-length", b"4097")],
    [JSON, (b"content-length", b"-1")],
    [JSON, (b"content-length", b"9" * 5_000)],
    [JSON, (b"content-encoding", b"gzip")],
    [JSON, (b"content-encoding", b"identity")],
]


async def test_both_ways_give_the_same_answers(
    lane: SekaliApp, route: SekaliApp, taken: list[str], rng: random.Random
) -> None:
    requests = [
        *((body, query, [JSON]) for body, query in itertools.product(BODIES, QUERIES)),
        *((BODIES[0], b"", headers) for headers in HEADERS),
        *((rng.choice(BODIES), rng.choice(QUERIES), rng.choice(HEADERS)) for _ in range(200)),
    ]
    rng.shuffle(requests)
    statuses = set()
    for body, query, headers in requests:
        cut = rng.randrange(len(body) + 1)
        chunks = rng.choice([[body], [body[:cut], body[cut:]], [body, b""]])
        taken.clear()
        by_lane = await post(lane, chunks, query=query, headers=headers)
        by_route = await post(route, chunks, query=query, headers=headers)
        assert taken == ["lane", "answer", "answer"]
        assert by_lane.everything == by_route.everything, (body, query, headers)
        statuses.add(by_lane.status)
    assert statuses == {200, 400, 413, 415, 422, 429}


async def test_both_ways_answer_alike_while_draining_and_when_the_memory_for_bodies_is_full(
    lane: SekaliApp, route: SekaliApp
) -> None:
    answers = []
    for app in (lane, route):
        serving = await app.lifecycle.serving()
        serving.bodies.take(serving.hub.settings.bodies_bytes_max, 0)
        full = await post(app, [b"[", b"]"])
        serving.bodies.give_back(serving.hub.settings.bodies_bytes_max)
        serving.hub.start_draining()
        answers.append([full, await post(app, encoded(EVENT))])
    assert [each.everything for each in answers[0]] == [each.everything for each in answers[1]]
    full, draining = answers[0]
    assert (full.status, full.json["code"], full.header(b"connection")) == (503, "overloaded", b"close")
    assert (draining.status, draining.json["code"], draining.header(b"connection")) == (503, "draining", b"close")
    assert full.header(b"retry-after")
    assert draining.header(b"retry-after")


async def test_middleware_overrides_handlers_and_mounts_take_the_route(tmp_path: Path, taken: list[str]) -> None:
    def fresh(name: str) -> SekaliApp:
        return create_app(limits(tmp_path / name))

    plain, with_middleware, with_handler, mounted = fresh("a"), fresh("b"), fresh("c"), fresh("d")
    with_middleware.add_middleware(Observer)
    with_handler.add_exception_handler(ZeroDivisionError, lambda *_: Response())
    outer = FastAPI()
    outer.mount("/below", mounted)
    for app, path, ways in [
        (plain, "/publish", ["lane", "answer"]),
        (with_middleware, "/publish", ["answer"]),
        (with_handler, "/publish", ["answer"]),
        (outer, "/below/publish", ["answer"]),
    ]:
        taken.clear()
        assert (await post(app, encoded(EVENT), path=path)).status == 200
        assert taken == ways


async def test_a_client_that_leaves_in_the_body_stores_nothing_and_frees_its_memory(app: SekaliApp) -> None:
    answer = await post(app, [encoded(EVENT)], ends_with="http.disconnect")
    serving = await app.lifecycle.serving()
    assert answer.status == 0
    assert serving.bodies.reserved_bytes == 0
    assert serving.hub.stats()["received"] == 0


async def test_every_answer_frees_the_memory_of_its_body(app: SekaliApp) -> None:
    serving = await app.lifecycle.serving()
    for body in BODIES:
        await post(app, [body[:5], body[5:]])
        assert serving.bodies.reserved_bytes == 0


async def test_an_internal_error_is_answered_and_handed_to_the_server(
    app: SekaliApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **named: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(publish, "decode_publish", fails)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/publish", "raw_path": b"/publish",
        "query_string": b"", "root_path": "", "headers": [JSON], "scheme": "http", "server": ("x", 1), "client": None,
    }  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        await app(scope, receive, send)
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["code"] == "internal_error"
    assert b"secret" not in sent[1]["body"]


async def test_answers_of_the_seed_and_more(lane: SekaliApp) -> None:
    first = await post(lane, encoded(EVENT))
    again = await post(lane, encoded(event(payload={"x": 1})))
    other = await post(lane, encoded(event(payload={"x": 2})))
    batch = await post(lane, encoded([event(event_id="b-1"), event(event_id="b-1")]), query=b"receipts=1")
    assert first.body == b'{"accepted":1,"queued":1}'
    assert first.header(b"sekali-receipt") == b"stored; offset=1"
    assert again.header(b"sekali-receipt") == b"duplicate; offset=1"
    assert (other.header(b"sekali-receipt"), other.json["conflicts"]) == (b"conflict; offset=1", [0])
    assert batch.json["receipts"] == [{"status": "stored", "offset": 2}, {"status": "duplicate", "offset": 2}]
    assert batch.header(b"sekali-receipt") is None
    assert (await post(lane, b"[]")).json == {"accepted": 0, "queued": 0}


async def test_a_large_body_and_many_receipts_leave_the_loop_to_others(tmp_path: Path) -> None:
    app = create_app(store_settings(tmp_path / "store.db"))
    events = [event(event_id=f"e-{i}", payload={"text": "x" * 100}) for i in range(5_000)]
    async with app.router.lifespan_context(app):
        large, *small = await asyncio.gather(
            post(app, encoded(events), query=b"receipts=true"),
            *(post(app, encoded(event(event_id=f"s-{i}"))) for i in range(20)),
        )
    assert large.json["accepted"] == len(large.json["receipts"]) == 5_000
    assert {answer.status for answer in small} == {200}
