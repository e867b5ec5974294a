"""Blocks: events as compressed columns, and back.

A block is `format byte | body`. Format 1 is a plain body, format 2 the same body as one zstd frame with content
checksum. The body is a MessagePack array of byte strings, one per column:

    topic index   uint32 per event into the row's `topics`; empty when all events are of its first topic
    event ids     UTF-8, joined by newlines (no name holds a control character)
    timestamps    the same
    sources       the distinct ones, joined by newlines
    source index  uint32 per event; empty when there is one source
    payloads      JSON texts joined by NUL (no JSON text holds one)
    extras        the same; empty when no event has unknown members
    offsets       uint64 per event; empty when they run on from the row's first_offset without a gap
    received at   uint64 per event, microseconds; empty when it is the commit's stamp for all

Integers are little-endian. The first byte tells every later version how to read a block written by this one.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, cast

import msgspec
import zstandard

from sekali.errors import StoreCorrupt

_PLAIN: Final = 1
_ZSTD: Final = 2
_COMPRESS_FROM_BYTES: Final = 512
_BODY_BYTES_MAX: Final = 1 << 30
LEVEL_OF_COMMITS: Final = 1
LEVEL_OF_RUNS: Final = 3

_Body = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
_body_decoder: msgspec.msgpack.Decoder[_Body] = msgspec.msgpack.Decoder(_Body)
_decode_integers = msgspec.msgpack.Decoder(list[int]).decode
_pack = msgspec.msgpack.Encoder().encode
_codecs = threading.local()


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


def encode_block(columns: Columns, *, level: int) -> bytes:
    """The block's bytes. At least one event."""
    several_topics = any(columns.topics)
    sources = list(dict.fromkeys(columns.sources))
    source_index = b""
    if len(sources) > 1:
        place = {source: i for i, source in enumerate(sources)}
        source_index = _integers("I", [place[source] for source in columns.sources])
    body = _pack(
        (
            _integers("I", columns.topics) if several_topics else b"",
            "\n".join(columns.event_ids).encode(),
            "\n".join(columns.timestamps).encode(),
            "\n".join(sources).encode(),
            source_index,
            b"\0".join(columns.payloads),
            b"" if columns.extras is None else b"\0".join(columns.extras),
            b"" if columns.offsets is None else _integers("Q", columns.offsets),
            b"" if columns.received_at_us is None else _integers("Q", columns.received_at_us),
        )
    )
    if len(body) < _COMPRESS_FROM_BYTES:
        return bytes((_PLAIN,)) + body
    return bytes((_ZSTD,)) + _compressor(level).compress(body)


def decode_block(block: bytes, events: int) -> Columns:
    """The columns of a block of `events` events. Raises StoreCorrupt when it does not hold together."""
    (topics, event_ids, timestamps, source_names, source_index, payloads, extras, offsets, received) = _body_of(block)
    sources = source_names.decode().split("\n")
    columns = Columns(
        topics=_array("I", topics) if topics else [0] * events,
        event_ids=event_ids.decode().split("\n"),
        timestamps=timestamps.decode().split("\n"),
        sources=pick(sources, _array("I", source_index)) if source_index else sources * events,
        payloads=payloads.split(b"\0"),
        extras=extras.split(b"\0") if extras else None,
        offsets=_array("Q", offsets) if offsets else None,
        received_at_us=_array("Q", received) if received else None,
        text_is_plain=not any(mark in text for text in (event_ids, timestamps, source_names) for mark in (b'"', b"\\")),
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
        if block[0] == _PLAIN:
            return _body_decoder.decode(memoryview(block)[1:])
        if block[0] == _ZSTD:
            return _body_decoder.decode(
                _decompressor().decompress(memoryview(block)[1:], max_output_size=_BODY_BYTES_MAX)
            )
    except (IndexError, zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"A block cannot be decoded ({error}). Restore the file from a backup.") from error
    raise StoreCorrupt(f"A block has the unknown format {block[0]}: it was written by a newer version.")


def raw_bytes(block: bytes | None) -> int:
    """Size of the block's body once decompressed: what bounds must count. Some payloads compress a thousandfold."""
    if not block:
        return 0
    if block[0] == _PLAIN:
        return len(block)
    try:
        return zstandard.frame_content_size(memoryview(block)[1:])
    except zstandard.ZstdError as error:
        raise StoreCorrupt(f"A block's head cannot be read ({error}). Restore the file from a backup.") from error


def compress(data: bytes) -> bytes:
    """One zstd frame with content checksum, at the level of commits."""
    return _compressor(LEVEL_OF_COMMITS).compress(data)


def decompress(frame: bytes) -> bytes:
    """The inverse of `compress`. Raises StoreCorrupt."""
    try:
        return _decompressor().decompress(frame, max_output_size=_BODY_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise StoreCorrupt(f"A frame cannot be decompressed ({error}). Restore the file from a backup.") from error


def encode_integers(values: Iterable[int]) -> bytes:
    """Small non-negative integers as a MessagePack array: the `topics` columns."""
    return _pack(list(values))


def decode_integers(blob: bytes) -> list[int]:
    """The inverse of `encode_integers`. Raises StoreCorrupt."""
    try:
        return _decode_integers(blob)
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(f"A list of topics cannot be decoded ({error}). Restore the file from a backup.") from error


def _integers(typecode: str, values: Sequence[int]) -> bytes:
    column = array(typecode, values)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _array(typecode: str, data: bytes) -> array[int]:
    column = array(typecode)
    try:
        column.frombytes(data)
    except ValueError as error:
        raise StoreCorrupt("A block's integers are cut off; the file is damaged.") from error
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """One per thread and level: a compressor must not be shared between threads."""
    name = f"compressor_{level}"
    compressor = getattr(_codecs, name, None)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        setattr(_codecs, name, compressor)
    return cast("zstandard.ZstdCompressor", compressor)


def _decompressor() -> zstandard.ZstdDecompressor:
    decompressor = getattr(_codecs, "decompressor", None)
    if decompressor is None:
        decompressor = _codecs.decompressor = zstandard.ZstdDecompressor()
    return cast("zstandard.ZstdDecompressor", decompressor)
