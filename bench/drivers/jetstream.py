"""NATS JetStream by nats-py: a message an event, its key in `Nats-Msg-Id`, one stream on files.

A request of many events is that many messages published without waiting, answered when the last of them is.

python -m bench.drivers.jetstream --port 4222 --batch 1000 --connections 4
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Final

import msgspec

from bench.drivers.driver import Driver, events_of, run_driver
from bench.events import Body
from bench.optional import load_module

nats: Final = load_module("nats")
api: Final = load_module("nats.js.api")

STREAM: Final = "LOG"
SUBJECT: Final = "log"
DEDUP_WINDOW_S: Final = 3600.0
"""Longer than any run: the default of two minutes would not compare with a store that never forgets."""
ANSWER_S_MAX: Final = 60.0


class JetStream(Driver):
    errors = (OSError, TimeoutError, nats.errors.Error)

    def __init__(self, port: int, in_flight_max: int) -> None:
        self.port, self.in_flight_max = port, in_flight_max

    async def open(self, _connections: int) -> None:
        """One connection carries them all: nats-py multiplexes."""
        self.client = await nats.connect(f"nats://127.0.0.1:{self.port}", pending_size=64 << 20)
        self.stream = self.client.jetstream(timeout=ANSWER_S_MAX, publish_async_max_pending=self.in_flight_max)
        config = api.StreamConfig(
            name=STREAM, subjects=[f"{SUBJECT}.>"], storage=api.StorageType.FILE, duplicate_window=DEDUP_WINDOW_S
        )
        await self.stream.add_stream(config)

    def prepare(self, body: Body) -> list[tuple[str, bytes, dict[str, str]]]:
        """The event itself is the message, so that the payload is what a reader of the stream would be given."""
        events = events_of(body)
        texts = [body.data] if body.events == 1 and body.data[:1] == b"{" else _split(body.data)
        return [
            (f"{SUBJECT}.{event.topic}", text, {"Nats-Msg-Id": f"{event.topic}:{event.event_id}"})
            for event, text in zip(events, texts, strict=True)
        ]

    async def send(self, _connection: int, prepared: list[tuple[str, bytes, dict[str, str]]]) -> int:
        waiting = [await self.stream.publish_async(subject, text, headers=head) for subject, text, head in prepared]
        async with asyncio.timeout(ANSWER_S_MAX):
            answers = await asyncio.gather(*waiting)
        return sum(not answer.duplicate for answer in answers)

    async def stored_events(self) -> int:
        return int((await self.stream.stream_info(STREAM)).state.messages)

    async def close(self) -> None:
        await self.client.close()


def _split(array: bytes) -> list[bytes]:
    return [bytes(each) for each in msgspec.json.decode(array, type=list[msgspec.Raw])]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.drivers.jetstream")
    return run_driver(parser, lambda given: JetStream(given.port, given.connections * given.batch))


if __name__ == "__main__":
    sys.exit(main())
