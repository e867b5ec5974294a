"""Blocks: events as compressed columns, and back.

A block is `format byte | body`. The body is a MessagePack array of byte strings, one per column:

    topic index   uint32 per event into the row's `topics`; empty when all events are of its first topic
    event ids     UTF-8, joined by newlines (no name holds a control character)
    timestamps    the same
    sources       the distinct ones, joined by newlines
    source index  uint32 per event; empty when there is one source
    payloads      JSON texts joined by NUL (no JSON text holds one)
    extras        the same; empty when no event has unknown members
    offsets       uint64 per event; empty when they run on from the row's first_offset without a gap
    received at   uint64 per event, microseconds; empty when it is the commit's stamp for all

Format 1 is the plain body, format 2 the same as one zstd frame: a commit's block, made in a hurry, and runs of earlier
versions. Format 3 is a run's: each column that is not empty is a cell of codec.py. Integers are little-endian. The
first byte tells every later version how to read a block written by this one.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import msgspec
import zstandard

from sekali.errors import StoreCorrupt
from sekali.store import codec

_PLAIN: Final = 1
_ZSTD: Final = 2
_CELLS: Final = 3
_COMPRESS_FROM_BYTES: Final = 512

_Body = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
_body_decoder: msgspec.msgpack.Decoder[_Body] = msgspec.msgpack.Decoder(_Body)
_decode_integers = msgspec.msgpack.Decoder(list[int]).decode
_pack = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Columns:
    """Events as parallel columns. `topics` index the topics of the row that holds the block.

    `offsets` and `received_at_us` are None in a block of the tail: there both follow from its commit's row.
    `text_is_plain`: no id, timestamp or source holds a quotation mark or a backslash.
    """

    topics: Sequence[int]
    event_ids: Sequence[str]
    timestamps: Sequence[str]
    sources: Sequence[str]
    payloads: Sequence[bytes]
    extras: Sequence[bytes] | None
    offsets: Sequence[int] | None = None
    received_at_us: Sequence[int] | None = None
    text_is_plain: bool = False

    def __len__(self) -> int:
        return len(self.event_ids)

    def at(self, positions: Sequence[int]) -> Columns:
        """The events at these positions, in that order."""
        return Columns(
            topics=pick(self.topics, positions),
            event_ids=pick(self.event_ids, positions),
            timestamps=pick(self.timestamps, positions),
            sources=pick(self.sources, positions),
            payloads=pick(self.payloads, positions),
            extras=None if self.extras is None else pick(self.extras, positions),
            offsets=None if self.offsets is None else pick(self.offsets, positions),
            received_at_us=None if self.received_at_us is None else pick(self.received_at_us, positions),
            text_is_plain=self.text_is_plain,
        )


def pick(column: Sequence[Any], positions: Sequence[int]) -> Sequence[Any]:
    """The items of `column` at `positions`, in that order."""
    if len(positions) > 1:
        return itemgetter(*positions)(column)  # type: ignore[no-any-return]
    return [column[i] for i in positions]


def encode_commit_block(columns: Columns) -> bytes:
    """The block of a commit's events, of which there is at least one: fast to make."""
    sources, source_index = _distinct_sources(columns)
    body = _pack(
        (
            _little_endian("I", columns.topics) if any(columns.topics) else b"",
            "\n".join(columns.event_ids).encode(),
            "\n".join(columns.timestamps).encode(),
            "\n".join(sources).encode(),
            _little_endian("I", source_index) if source_index else b"",
            b"\0".join(columns.payloads),
            b"" if columns.extras is None else b"\0".join(columns.extras),
            b"",
            b"",
        )
    )
    if len(body) < _COMPRESS_FROM_BYTES:
        return bytes((_PLAIN,)) + body
    return bytes((_ZSTD,)) + codec.compress(body)


def encode_run_blocks(blocks: Sequence[Columns]) -> list[bytes]:
    """The blocks of a run, each of at least one event, with their offsets and store times: small."""
    blocks_cells = [_cells(block) for block in blocks]
    packed = iter(codec.packed([cell for cells in blocks_cells for cell in cells if cell is not None]))
    return [
        bytes((_CELLS,)) + _pack([b"" if cell is None else next(packed) for cell in cells]) for cells in blocks_cells
    ]


def _cells(columns: Columns) -> tuple[codec.Cell | None, ...]:
    """None for a column that is left empty."""
    assert columns.offsets is not None, "events of a run name their offsets"
    assert columns.received_at_us is not None, "and their store times"
    sources, source_index = _distinct_sources(columns)
    rows = len(columns)
    return (
        codec.cell_of_u32(columns.topics) if any(columns.topics) else None,
        codec.cell_of_rows("\n".join(columns.event_ids).encode(), rows),
        codec.cell_of_rows("\n".join(columns.timestamps).encode(), rows),
        codec.cell_of_rows("\n".join(sources).encode(), len(sources)),
        codec.cell_of_u32(source_index) if source_index else None,
        codec.cell_of_bytes(b"\0".join(columns.payloads), codec.THOROUGH),
        None if columns.extras is None else codec.cell_of_bytes(b"\0".join(columns.extras), codec.THOROUGH),
        codec.cell_of_rising(columns.offsets),
        codec.cell_of_rising(columns.received_at_us),
    )


def _distinct_sources(columns: Columns) -> tuple[list[str], list[int]]:
    """The sources, each once, and for each event the place of its own; no places when there is one source."""
    sources = list(dict.fromkeys(columns.sources))
    if len(sources) == 1:
        return sources, []
    place = {source: i for i, source in enumerate(sources)}
    return sources, [place[source] for source in columns.sources]


def decode_block(block: bytes, events: int) -> Columns:
    """The columns of a block of `events` events. Raises StoreCorrupt when it does not hold together."""
    body = _body_of(block)
    cells = block[0] == _CELLS
    topics, source_index, offsets, received = (
        (codec.decode_integers(column) if cells else _integers(typecode, column)) if column else None
        for typecode, column in zip("IIQQ", (body[0], body[4], body[7], body[8]), strict=True)
    )
    event_ids, timestamps, payloads, extras = (
        codec.decode_bytes(column, events) if cells and column else column
        for column in (body[1], body[2], body[5], body[6])
    )
    distinct = codec.decode_bytes(body[3], max(source_index) + 1 if source_index else 1) if cells else body[3]
    sources = distinct.decode().split("\n")
    columns = Columns(
        topics=topics or [0] * events,
        event_ids=event_ids.decode().split("\n"),
        timestamps=timestamps.decode().split("\n"),
        sources=pick(sources, source_index) if source_index else sources * events,
        payloads=payloads.split(b"\0"),
        extras=extras.split(b"\0") if extras else None,
        offsets=offsets,
        received_at_us=received,
        text_is_plain=not any(mark in text for text in (event_ids, timestamps, distinct) for mark in (b'"', b"\\")),
    )
    whole = (columns.topics, columns.event_ids, columns.timestamps, columns.sources, columns.payloads)
    parts = (columns.extras, columns.offsets, columns.received_at_us)
    if any(len(column) != events for column in whole) or any(
        part is not None and len(part) != events for part in parts
    ):
        raise StoreCorrupt("A block's columns differ in length; the file is damaged. Restore it from a backup.")
    return columns


def _body_of(block: bytes) -> _Body:
    try:
        if block[0] in (_PLAIN, _CELLS):
            return _body_decoder.decode(memoryview(block)[1:])
        if block[0] == _ZSTD:
            return _body_decoder.decode(codec.decompress(memoryview(block)[1:]))
    except (IndexError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"A block cannot be decoded ({error}). Restore the file from a backup.") from error
    raise StoreCorrupt(f"A block has the unknown format {block[0]}: it was written by a newer version.")


def raw_bytes(block: bytes | None) -> int:
    """Size of a commit's block once decompressed: what bounds must count. Some payloads compress a thousandfold."""
    if not block:
        return 0
    if block[0] == _PLAIN:
        return len(block)
    try:
        return zstandard.frame_content_size(memoryview(block)[1:])
    except zstandard.ZstdError as error:
        raise StoreCorrupt(f"A block's head cannot be read ({error}). Restore the file from a backup.") from error


def encode_integers(values: Iterable[int]) -> bytes:
    """Small non-negative integers as a MessagePack array: the `topics` columns."""
    return _pack(list(values))


def decode_integers(blob: bytes) -> list[int]:
    """The inverse of `encode_integers`. Raises StoreCorrupt."""
    try:
        return _decode_integers(blob)
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(f"A list of topics cannot be decoded ({error}). Restore the file from a backup.") from error


def _little_endian(typecode: str, values: Sequence[int]) -> bytes:
    column = array(typecode, values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _integers(typecode: str, data: bytes) -> array[int]:
    column = array(typecode)
    try:
        column.frombytes(data)
    except ValueError as error:
        raise StoreCorrupt("A block's integers are cut off; the file is damaged.") from error
    if sys.byteorder == "big":
        column.byteswap()
    return column
