"""Counting the items of an array without building them."""

from __future__ import annotations

import json
import random

import pytest

from sekali.errors import TooManyEvents
from sekali.wire.body import refuse_too_many_items
from sekali.wire.rules import DecodeLimits

SCALARS = [
    '"a"',
    '""',
    '"],[,"',
    '"\\"],["',
    '"\\\\"',
    "1",
    "null",
    "-1.5e3",
    '"' + ",[" * 300 + '"',
    '"' + "\u00e9," * 80 + '"',
]


def limits(events_max: int) -> DecodeLimits:
    return DecodeLimits(batch_events_max=events_max, event_bytes_max=1 << 20, depth_max=128, body_bytes_max=32 << 20)


def some_value(rng: random.Random, levels: int) -> str:
    kind = rng.random() if levels else 0
    if kind < 0.5:
        return rng.choice(SCALARS)
    children = [some_value(rng, levels - 1) for _ in range(rng.randint(0, 4))]
    comma = rng.choice([",", " ,\n"])
    if kind < 0.75:
        return "[" + comma.join(children) + "]"
    return "{" + comma.join(f"{rng.choice(SCALARS[:5])}:{child}" for child in children) + "}"


def assert_counted_as(body: bytes, items: int) -> None:
    refuse_too_many_items(body, limits(items))
    with pytest.raises(TooManyEvents):
        refuse_too_many_items(body, limits(items - 1))


def test_the_count_is_that_of_the_parser(rng: random.Random) -> None:
    for size in (2, 3, 10, 1000):
        for _ in range(20):
            items = [some_value(rng, rng.randint(0, 6)) for _ in range(size)]
            body = ("[" + rng.choice([",", " , "]).join(items) + "]").encode()
            assert len(json.loads(body)) == size
            assert_counted_as(body, size)


@pytest.mark.parametrize("filling", ["1,", '"",', '"a",', "[],", "[[1,2],{}],", '{"a":[1,","]},', '"\\",[",', "  1  ,"])
@pytest.mark.parametrize("shift", [0, 1, 255, 256, 257])
def test_the_count_goes_on_across_pieces(filling: str, shift: int) -> None:
    body = (" " * shift + "[" + filling * 50_000 + "1]").encode()
    assert_counted_as(body, 50_001)
    nested = (" " * shift + "[[" + filling * 50_000 + "1],2]").encode()
    assert_counted_as(nested, 2)
