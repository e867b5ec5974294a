"""Redis by redis-py: one script call a request, SET NX and XADD an event; commands are packed before the clock.

python -m bench.drivers.redis --port 6379 --batch 1000 --connections 8
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import Any, Final

from bench.drivers.driver import Driver, events_of, run_driver
from bench.events import Body
from bench.optional import load_module

redis: Final = load_module("redis.asyncio")

LOG: Final = "log"
SCRIPT: Final = """local new = 0
for i = 2, #KEYS do
  if redis.call('SET', KEYS[i], '', 'NX') then
    local a = (i - 2) * 5
    redis.call('XADD', KEYS[1], '*', 'topic', ARGV[a + 1], 'event_id', ARGV[a + 2], 'timestamp', ARGV[a + 3],
      'source', ARGV[a + 4], 'payload', ARGV[a + 5])
    new = new + 1
  end
end
return new"""
SCRIPT_SHA1: Final = hashlib.sha1(SCRIPT.encode()).hexdigest()


class Redis(Driver):
    errors = (OSError, redis.RedisError)

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[Any] = []

    async def open(self, connections: int) -> None:
        for _ in range(connections):
            connection = redis.Connection(host="127.0.0.1", port=self.port)
            await connection.connect()
            self.connections.append(connection)
        await self._ask("SCRIPT", "LOAD", SCRIPT)

    async def _ask(self, *words: str) -> Any:
        connection = self.connections[0]
        await connection.send_command(*words)
        return await connection.read_response()

    def prepare(self, body: Body) -> list[bytes]:
        events = events_of(body)
        keys = [f"seen:{event.topic}:{event.event_id}" for event in events]
        values: list[str | bytes] = []
        for event in events:
            values += (event.topic, event.event_id, event.timestamp, event.source, bytes(event.payload))
        packed = self.connections[0].pack_command("EVALSHA", SCRIPT_SHA1, len(keys) + 1, LOG, *keys, *values)
        return [b"".join(packed)]

    async def send(self, connection: int, prepared: list[bytes]) -> int:
        own = self.connections[connection]
        await own.send_packed_command(prepared, check_health=False)
        return int(await own.read_response())

    async def stored_events(self) -> int:
        return int(await self._ask("XLEN", LOG))

    async def close(self) -> None:
        for connection in self.connections:
            await connection.disconnect()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drivers.redis")
    return run_driver(parser, lambda given: Redis(given.port))


if __name__ == "__main__":
    sys.exit(main())
