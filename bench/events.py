"""The events that every peer is given: about 217 bytes of JSON each, varied as a service's log is.

Per event, what a compressor cannot remove:
  event_id   UUIDv4: 122 random bits (`random`); UUIDv7: 74 random bits after a rising millisecond (`ordered`)
  timestamp  a clock that advances 250 us an event, with a jitter of 8 bits
  req        32 random bits, as eight hexadecimal digits
  user       one of 100,000, skewed to the low ones: about 16 bits
  ms         log-normal, one decimal: about 10 bits
  source     one of 24 hosts: 4.6 bits; topic: log2(topics) bits, even; msg and level: one of 24 pairs, skewed: 4 bits
so some 197 bits (25 bytes) with random ids, besides the order. Everything else is constant text.

A repeat is the very bytes of an earlier event of the same stream.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

IdKind = Literal["random", "ordered"]

STEP_US: Final = 250
REPEATABLE_EVENTS_MAX: Final = 200_000
"""How far back a repeat may reach, so that an endless stream needs bounded memory."""

_TOPICS: Final = ("orders", "payments", "sessions", "search", "mailer")
_HOSTS: Final = tuple(f"{role}-{number}" for role in ("web", "api", "job") for number in range(1, 9))
_LINES: Final = (
    ("info", "request served"),
    ("info", "cache hit"),
    ("info", "order accepted"),
    ("info", "session opened"),
    ("debug", "query planned"),
    ("info", "mail queued"),
    ("info", "cache miss"),
    ("debug", "token renewed"),
    ("warn", "slow upstream"),
    ("info", "session closed"),
    ("info", "payment captured"),
    ("debug", "pool resized"),
    ("warn", "retry scheduled"),
    ("info", "file uploaded"),
    ("info", "webhook sent"),
    ("error", "upstream timed out"),
    ("info", "stock reserved"),
    ("warn", "rate limited"),
    ("debug", "lock acquired"),
    ("info", "invoice written"),
    ("error", "payment refused"),
    ("warn", "disk above 80 %"),
    ("error", "connection reset"),
    ("info", "user signed up"),
)


@dataclass(frozen=True, slots=True)
class EventPlan:
    """Which events to make. `dup`: share of repeats, 0 to below 1. The same plan and seed give the same ids."""

    events: int
    batch: int
    seed: int
    dup: float = 0.0
    topics: int = 5
    ids: IdKind = "random"


@dataclass(frozen=True, slots=True)
class Body:
    """One request body: `events` events, of which `new` were not in an earlier body nor earlier in this one."""

    data: bytes
    events: int
    new: int
    sample: bytes
    """One of its events, to be looked up afterwards."""


def topic_names(count: int) -> list[str]:
    """`count` names: five plain words, then numbered ones."""
    return [*_TOPICS[:count], *(f"tenant-{number:05d}" for number in range(count - len(_TOPICS)))]


def bodies(plan: EventPlan) -> Iterator[Body]:
    """The plan's events as request bodies: objects when `batch` is 1, else arrays of `batch` (the last shorter)."""
    rng = random.Random(plan.seed)
    fresh = _fresh_events(plan, rng)
    earlier: list[bytes] = []
    made = 0
    for start in range(0, plan.events, plan.batch):
        count = min(plan.batch, plan.events - start)
        items: list[bytes] = []
        new = 0
        for _ in range(count):
            if plan.dup and earlier and rng.random() < plan.dup:
                items.append(earlier[rng.randrange(len(earlier))])
                continue
            event = next(fresh)
            items.append(event)
            new += 1
            if plan.dup:
                if made < REPEATABLE_EVENTS_MAX:
                    earlier.append(event)
                else:
                    earlier[made % REPEATABLE_EVENTS_MAX] = event
                made += 1
        data = items[0] if plan.batch == 1 else b"[" + b",".join(items) + b"]"
        yield Body(data, count, new, items[-1])


def _fresh_events(plan: EventPlan, rng: random.Random) -> Iterator[bytes]:
    topics = topic_names(plan.topics)
    weights = [1 / (rank + 1) for rank in range(len(_LINES))]
    lines = rng.choices([f'"level":"{level}","msg":"{text}"' for level, text in _LINES], weights, k=4096)
    clock_us = time.time_ns() // 1000
    uuid_text = _uuid4_text if plan.ids == "random" else _uuid7_text
    pick, gauss, random_ = rng.getrandbits, rng.lognormvariate, rng.random
    topic_count, host_count = len(topics), len(_HOSTS)
    second, prefix = -1, ""
    while True:
        clock_us += STEP_US
        stamp_us = clock_us + pick(8)
        if stamp_us // 1_000_000 != second:
            second = stamp_us // 1_000_000
            prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        yield (
            f'{{"topic":"{topics[int(random_() * topic_count)]}","event_id":"{uuid_text(pick(128), clock_us)}",'
            f'"timestamp":"{prefix}.{stamp_us % 1_000_000:06d}Z","source":"{_HOSTS[int(random_() * host_count)]}",'
            f'"payload":{{{lines[pick(12)]},"user":{int(random_() ** 2 * 100_000)},"ms":{gauss(2.5, 1.0):.1f},'
            f'"req":"{pick(32):08x}"}}}}'
        ).encode()


def _uuid4_text(bits: int, _clock_us: int) -> str:
    h = f"{bits:032x}"
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{'89ab'[bits & 3]}{h[17:20]}-{h[20:]}"


def _uuid7_text(bits: int, clock_us: int) -> str:
    """RFC 9562, 5.7: milliseconds since 1970, version, 12 bits of the fraction of a millisecond, variant, random."""
    millis, micros = divmod(clock_us, 1000)
    h = f"{millis:012x}{bits & (1 << 64) - 1:016x}"
    return f"{h[:8]}-{h[8:12]}-7{micros * 4096 // 1000:03x}-{'89ab'[bits & 3]}{h[13:16]}-{h[16:]}"
