"""How a column of a run's block becomes few bytes, and back: a cell is `kind byte | data`.

    0  the bytes as they are
    1  one zstd frame
    2  rows of equal width, column by column: MessagePack of the template and of what varies, as a zstd frame. The
       template is a row in which a byte that varies is NUL; a byte that all rows share stands there and nowhere else.
    3  32-bit integers, byte plane by byte plane, as a zstd frame
    4  64-bit integers, as the differences of each from the one before, byte plane by byte plane, as a zstd frame

Identifiers and timestamps mostly have one width. Written down their columns, a UUID costs the 16 bytes it holds instead
of 19, and a timestamp 2 instead of 4: a digit's neighbours are then digits of the same rank.
"""

from __future__ import annotations

import sys
import threading
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import sub
from typing import Final, NamedTuple, cast

import msgspec
import zstandard

from sekali.errors import StoreCorrupt

FAST: Final = 1
THOROUGH: Final = 6
"""Levels of zstd. For names and integers the fast one is as good."""
CELL_BYTES_MAX: Final = 1 << 30
_COMPRESS_FROM_BYTES: Final = 64
_RAW, _ZSTD, _FIXED_WIDTH, _U32, _U64 = range(5)
_MARK: Final = 0

_pack = msgspec.msgpack.Encoder().encode
_unpack_pair: Final = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
_codecs = threading.local()


class Cell(NamedTuple):
    """A column before it is compressed."""

    kind: int
    data: bytes
    level: int = FAST


def packed(cells: Sequence[Cell]) -> list[bytes]:
    """The cells as they are stored.

    Those of a level are compressed in one call, which lets go of the GIL once: where other threads are busy, whoever
    lets go of it waits some milliseconds to get it back.
    """
    stored = [b"".join((bytes((cell.kind,)), cell.data)) if cell.kind == _RAW else b"" for cell in cells]
    for level in {cell.level for cell in cells}:
        places = [i for i, cell in enumerate(cells) if cell.level == level and cell.kind != _RAW]
        if places:
            frames = _compressor(level).multi_compress_to_buffer([cells[i].data for i in places])
            for i, place in enumerate(places):
                stored[place] = bytes((cells[place].kind,)) + frames[i].tobytes()
    return stored


def compress(data: bytes, level: int = FAST) -> bytes:
    """One zstd frame with content checksum and size."""
    return _compressor(level).compress(data)


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """This thread's: a compressor must not be shared."""
    name = f"compressor_{level}"
    compressor = getattr(_codecs, name, None)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)
        setattr(_codecs, name, compressor)
    return cast("zstandard.ZstdCompressor", compressor)


def decompress(frame: bytes | memoryview) -> bytes:
    """The inverse of `compress`. Raises StoreCorrupt."""
    decompressor = getattr(_codecs, "decompressor", None)
    if decompressor is None:
        decompressor = _codecs.decompressor = zstandard.ZstdDecompressor()
    try:
        return cast("zstandard.ZstdDecompressor", decompressor).decompress(frame, max_output_size=CELL_BYTES_MAX)
    except zstandard.ZstdError as error:
        raise StoreCorrupt(f"A frame cannot be decompressed ({error}). Restore the file from a backup.") from error


def cell_of_bytes(data: bytes, level: int = FAST) -> Cell:
    return Cell(_RAW if len(data) < _COMPRESS_FROM_BYTES else _ZSTD, data, level)


def cell_of_rows(text: bytes, rows: int) -> Cell:
    """Rows joined by newlines, none of which holds a control character."""
    split = _by_column(text, rows)
    return cell_of_bytes(text) if split is None else Cell(_FIXED_WIDTH, _pack(split))


def cell_of_u32(values: Sequence[int]) -> Cell:
    return Cell(_U32, _planes(array("I", values)))


def cell_of_rising(values: Sequence[int]) -> Cell:
    """64-bit integers, most of them a little greater than the one before."""
    return Cell(_U64, _planes(array("q", map(sub, values, chain((0,), values)))))


def decode_bytes(cell: bytes, rows: int) -> bytes:
    """What `cell_of_bytes` or `cell_of_rows` was given. Raises StoreCorrupt."""
    if cell[:1] == bytes((_RAW,)):
        return cell[1:]
    data = decompress(memoryview(cell)[1:])
    if cell[0] == _ZSTD:
        return data
    if cell[0] != _FIXED_WIDTH:
        raise _unknown(cell)
    try:
        template, varying = _unpack_pair(data)
    except msgspec.MsgspecError as error:
        raise StoreCorrupt(f"A column cannot be decoded ({error}). Restore the file from a backup.") from error
    if len(varying) != template.count(_MARK) * rows:
        raise StoreCorrupt("A column has too few values; the file is damaged. Restore it from a backup.")
    return _by_row(template, varying, rows)


def decode_integers(cell: bytes) -> array[int]:
    """What `cell_of_u32` or `cell_of_rising` was given. Raises StoreCorrupt."""
    data = decompress(memoryview(cell)[1:])
    if cell[0] == _U32:
        return _from_planes("I", data)
    if cell[0] == _U64:
        return array("Q", accumulate(_from_planes("q", data)))
    raise _unknown(cell)


def _by_column(text: bytes, rows: int) -> tuple[bytes, bytes] | None:
    """The template and what varies, column after column; None when the rows differ in width."""
    width = text.find(b"\n") if rows > 1 else len(text)
    stride = width + 1
    if rows < 2 or width < 1 or len(text) != rows * stride - 1 or text[width::stride].strip(b"\n"):
        return None
    template = bytearray(width)
    varying = []
    for place in range(width):
        column = text[place::stride]
        if column.count(column[0]) == rows:
            template[place] = column[0]
        else:
            varying.append(column)
    return bytes(template), b"".join(varying)


def _by_row(template: bytes, varying: bytes, rows: int) -> bytes:
    stride = len(template) + 1
    text = bytearray(b"\n") * (rows * stride)
    start = 0
    for place, byte in enumerate(template):
        if byte == _MARK:
            text[place::stride] = varying[start : start + rows]
            start += rows
        else:
            text[place::stride] = bytes((byte,)) * rows
    return bytes(text[:-1])


def _planes(column: array[int]) -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    data = column.tobytes()
    return b"".join(data[plane :: column.itemsize] for plane in range(column.itemsize))


def _from_planes(typecode: str, data: bytes) -> array[int]:
    column = array(typecode)
    rows, rest = divmod(len(data), column.itemsize)
    if rest:
        raise StoreCorrupt("A block's integers are cut off; the file is damaged. Restore it from a backup.")
    interleaved = bytearray(len(data))
    for plane in range(column.itemsize):
        interleaved[plane :: column.itemsize] = data[plane * rows : (plane + 1) * rows]
    column.frombytes(bytes(interleaved))
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _unknown(cell: bytes) -> StoreCorrupt:
    return StoreCorrupt(f"A column has the unknown kind {cell[0]}: it was written by a newer version.")
