"""PostgreSQL by asyncpg: one prepared INSERT over arrays of columns, a transaction each.

python -m bench.drivers.postgres --port 5432 --user postgres --payload jsonb --batch 1000 --connections 2
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import Any, Final

from bench.drivers.driver import Driver, events_of, run_driver
from bench.events import Body
from bench.optional import load_module

asyncpg: Final = load_module("asyncpg")

DATABASE: Final = "postgres"
TABLE: Final = """CREATE TABLE IF NOT EXISTS events (
    topic text, event_id text, ts timestamptz NOT NULL, source text NOT NULL, payload {payload} NOT NULL,
    PRIMARY KEY (topic, event_id))"""
INSERT: Final = """INSERT INTO events
    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::{payload}[])
    ON CONFLICT DO NOTHING RETURNING topic, event_id"""


class Postgres(Driver):
    """`payload`: the type of that column, jsonb or text."""

    errors = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)

    def __init__(self, port: int, user: str, payload: str) -> None:
        self.port, self.user, self.payload = port, user, payload
        self.connections: list[Any] = []
        self.inserts: list[Any] = []

    async def open(self, connections: int) -> None:
        for _ in range(connections):
            self.connections.append(await connect(self.port, self.user))
        await self.connections[0].execute(TABLE.format(payload=self.payload))
        for connection in self.connections:
            self.inserts.append(await connection.prepare(INSERT.format(payload=self.payload)))

    def prepare(self, body: Body) -> tuple[list[Any], ...]:
        events = events_of(body)
        return (
            [event.topic for event in events],
            [event.event_id for event in events],
            [datetime.fromisoformat(event.timestamp) for event in events],
            [event.source for event in events],
            [bytes(event.payload).decode() for event in events],
        )

    async def send(self, connection: int, prepared: tuple[list[Any], ...]) -> int:
        return len(await self.inserts[connection].fetch(*prepared))

    async def stored_events(self) -> int:
        return int(await self.connections[0].fetchval("SELECT count(*) FROM events"))

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()


async def connect(port: int, user: str) -> Any:
    return await asyncpg.connect(host="127.0.0.1", port=port, user=user, database=DATABASE, ssl=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drivers.postgres")
    parser.add_argument("--user", default="postgres")
    parser.add_argument("--payload", choices=("jsonb", "text"), default="jsonb")
    return run_driver(parser, lambda given: Postgres(given.port, given.user, given.payload))


if __name__ == "__main__":
    sys.exit(main())
