"""All that can be measured, by name."""

from __future__ import annotations

from bench.peers.jetstream import JetStream
from bench.peers.over_http import Hello, Sekali, Simple, SlowDisk
from bench.peers.peer import Peer
from bench.peers.postgres import Postgres
from bench.peers.redis import Redis

SYNC_DELAYS_MS = (0, 5, 20)


def peers() -> dict[str, Peer]:
    """A fresh object each. The order is that of the tables."""
    every: list[Peer] = [
        Hello(),
        Sekali(),
        Postgres(),
        Postgres("text"),
        Redis(),
        JetStream(sync_always=True),
        JetStream(sync_always=False),
        Simple(),
        *(SlowDisk(delay_ms) for delay_ms in SYNC_DELAYS_MS),
    ]
    return {peer.name: peer for peer in every}
