"""The design most people write: a queue in memory, one consumer, one INSERT OR IGNORE and commit per event.

It answers when the events are in the queue, so a crash loses what was acknowledged: `answers_before_stored`.
SQLite in WAL mode with synchronous=FULL: one fsync per event, the kinder of the durable modes.

    SIMPLE_DB=/tmp/simple.db uvicorn bench.peers.simple:app --port 8090
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, TypeAdapter


class Event(BaseModel):
    topic: str
    event_id: str
    timestamp: str
    source: str
    payload: dict[str, Any]


EVENTS = TypeAdapter(list[Event])


class State:
    """The database, the queue and the counters of one run."""

    def __init__(self) -> None:
        path = os.environ.get("SIMPLE_DB", "simple.db")
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS events (topic TEXT, event_id TEXT, timestamp TEXT, source TEXT, payload TEXT,"
            " PRIMARY KEY (topic, event_id))"
        )
        self.queue: asyncio.Queue[Event] = asyncio.Queue()
        self.received = 0
        self.unique = 0
        self.started = time.monotonic()

    async def consume(self) -> None:
        while True:
            event = await self.queue.get()
            row = (event.topic, event.event_id, event.timestamp, event.source, json.dumps(event.payload))
            self.unique += await asyncio.to_thread(self._insert, row)
            self.received += 1

    def _insert(self, row: tuple[str, ...]) -> int:
        return self.db.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)", row).rowcount


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.own = State()
    consumer = asyncio.create_task(app.state.own.consume())
    yield
    consumer.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/publish")
async def publish(request: Request) -> dict[str, int]:
    body = await request.json()
    events = EVENTS.validate_python(body if isinstance(body, list) else [body])
    own: State = request.app.state.own
    for event in events:
        own.queue.put_nowait(event)
    return {"accepted": len(events), "queued": own.queue.qsize()}


@app.get("/stats")
async def stats(request: Request) -> dict[str, Any]:
    own: State = request.app.state.own
    return {
        "received": own.received,
        "unique_processed": own.unique,
        "duplicate_dropped": own.received - own.unique,
        "queue_depth": own.queue.qsize(),
        "uptime_seconds": time.monotonic() - own.started,
    }


@app.get("/event")
async def event(request: Request, topic: str, event_id: str) -> dict[str, Any]:
    own: State = request.app.state.own
    row = own.db.execute("SELECT * FROM events WHERE topic = ? AND event_id = ?", (topic, event_id)).fetchone()
    if row is None:
        raise HTTPException(404)
    return dict(zip(("topic", "event_id", "timestamp", "source"), row, strict=False)) | {"payload": json.loads(row[4])}


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    return {"ok": True}
