"""Blocks and their columns: what goes in comes out, in few bytes; damage is found; what was written stays readable."""

from __future__ import annotations

import base64
import random
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekali.errors import StoreCorrupt
from sekali.store import codec
from sekali.store.block import Columns, decode_block, encode_commit_block, encode_run_blocks

names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
payloads = st.binary(min_size=2, max_size=20).filter(lambda payload: b"\0" not in payload)


@st.composite
def columns(draw: st.DrawFn) -> Columns:
    """Events of a run, in any number of topics; ids of one width as often as not."""
    rows = draw(st.integers(1, 30))
    width = draw(st.integers(1, 8))
    ids = st.text("0123456789abcdef-", min_size=width, max_size=width) if draw(st.booleans()) else names
    offsets = sorted(draw(st.sets(st.integers(1, 1 << 39), min_size=rows, max_size=rows)))
    several = {"min_size": rows, "max_size": rows}
    return Columns(
        topics=draw(st.lists(st.integers(0, 3), **several)),
        event_ids=draw(st.lists(ids, **several)),
        timestamps=draw(st.lists(st.sampled_from(["2024-01-01", "2024-01-02", "20240103T00"]), **several)),
        sources=draw(st.lists(names, **several)),
        payloads=draw(st.lists(payloads, **several)),
        extras=draw(st.none() | st.lists(payloads, **several)),
        offsets=offsets,
        received_at_us=sorted(draw(st.lists(st.integers(0, 1 << 52), **several))),
    )


def stored(cell: codec.Cell) -> bytes:
    return codec.packed([cell])[0]


def listed(events: Columns) -> tuple[list[object], ...]:
    parts = (events.topics, events.event_ids, events.timestamps, events.sources, events.payloads)
    return (*map(list, parts), list(events.extras or []), list(events.offsets or []), list(events.received_at_us or []))


@given(columns())
def test_a_block_gives_back_what_it_was_made_of(events: Columns) -> None:
    assert listed(decode_block(encode_run_blocks([events])[0], len(events))) == listed(events)
    events.offsets = events.received_at_us = None
    assert listed(decode_block(encode_commit_block(events), len(events))) == listed(events)


@given(st.lists(columns(), min_size=1, max_size=4))
def test_blocks_that_are_packed_together_come_back_one_by_one(run: list[Columns]) -> None:
    for events, block in zip(run, encode_run_blocks(run), strict=True):
        assert listed(decode_block(block, len(events))) == listed(events)


@given(st.lists(names, min_size=1, max_size=40))
def test_rows_come_back_whatever_their_width(rows: list[str]) -> None:
    text = "\n".join(rows).encode()
    assert codec.decode_bytes(stored(codec.cell_of_rows(text, len(rows))), len(rows)) == text


@given(st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=50))
def test_integers_come_back_in_any_order(values: list[int]) -> None:
    assert codec.decode_integers(stored(codec.cell_of_rising(values))).tolist() == values


def test_a_uuid_costs_the_sixteen_bytes_it_holds_and_a_timestamp_two(rng: random.Random) -> None:
    ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(1000)]
    assert len(stored(codec.cell_of_rows("\n".join(ids).encode(), 1000))) < 16_100
    clock_us = 0
    times = []
    for _ in range(1000):
        clock_us += 1000 + rng.getrandbits(8)
        times.append(f"2026-11-25T10:00:{clock_us // 1_000_000:02d}.{clock_us % 1_000_000:06d}Z")
    assert len(stored(codec.cell_of_rows("\n".join(times).encode(), 1000))) < 2_500


@pytest.mark.parametrize("place", [0, 1, 9, 40, -5, -1])
def test_a_flipped_bit_in_a_cell_is_found(place: int) -> None:
    text = "\n".join(f"id-{number:06d}" for number in range(0, 90_000, 77)).encode()
    cell = bytearray(stored(codec.cell_of_rows(text, 1169)))
    cell[place] ^= 0x10
    with pytest.raises(StoreCorrupt):
        codec.decode_bytes(bytes(cell), 1169)


WRITTEN = {
    "plain": "AZnEAMQHYS0xCmEtMsQVMjAyNC0wMS0wMQoyMDI0LTAxLTAyxANhcHDEAMQSe30AeyJhIjoiYSIsImIiOjF9xADEAMQA",
    "one frame": (
        "Aii1L/0kRCECAJnEAMQHYS0xCmEtMsQVMjAyNC0wMS0wMQoyMDI0LTAxLTAyxANhcHDEAMQSe30AeyJhIjoiYSIsImIiOjF9xADEAMQA"
        "QUsZ4A=="
    ),
    "cells": (
        "A5nEFgMotS/9JAhBAAAAAQAAAAAAADC53gPEGAIotS/9JApRAACSxANhLQDEAjEySqVu4sQfAii1L/0kEYkAAJLECjIwMjQtMDEtMADEAjEy"
        "lPqf7sQcAii1L/0kDnEAAJLEAwAAAMQGYXdwZXBi+CqimcQWAyi1L/0kCEEAAAABAAAAAAAAMLneA8QTAHt9AHsiYSI6ImEiLCJiIjoxfcQH"
        "ACJ0IjoxAMQXBCi1L/0kEE0AABgFBAABAAcYAmmeHK/EFgQotS/9JBBFAAAQBwABADLAApBuzKo="
    ),
}
"""Blocks as an earlier version wrote them. Never changed: a store made by any version is read by every later one."""


@pytest.mark.parametrize("form", WRITTEN)
def test_a_block_of_an_earlier_version_is_read(form: str) -> None:
    events = decode_block(base64.b64decode(WRITTEN[form]), 2)
    assert events.event_ids == ["a-1", "a-2"]
    assert events.payloads == [b"{}", b'{"a":"a","b":1}']
