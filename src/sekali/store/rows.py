"""Rows of SQLite: fetching them, and their checksums, so that a flipped bit in the file is found and not served."""

from __future__ import annotations

import struct
from typing import Any
from zlib import crc32

import apsw

from sekali.errors import StoreCorrupt

_LENGTH = struct.Struct("<q")
_INTEGER = struct.Struct("<qq")
_AT_A_TIME_BYTES = 4096
"""For more than 5 KiB zlib lets go of the GIL, and to get it back from busy threads takes far longer than the sum."""


def row_checksum(*columns: int | bytes | str | None) -> int:
    """CRC-32 over the columns in order; each is preceded by its length, so that none can lend bytes to the next."""
    parts: list[bytes] = []
    for column in columns:
        if isinstance(column, int):
            parts.append(_INTEGER.pack(_LENGTH.size, column))
        elif column is None:
            parts.append(b"\xff")
        else:
            data = column.encode() if isinstance(column, str) else column
            parts += (_LENGTH.pack(len(data)), data)
    data = b"".join(parts)
    checksum = 0
    for start in range(0, len(data), _AT_A_TIME_BYTES):
        checksum = crc32(data[start : start + _AT_A_TIME_BYTES], checksum)
    return checksum


def check_row(what: str, checksum: int, *columns: int | bytes | str | None) -> None:
    """Raises StoreCorrupt, naming the row, when the checksum does not hold."""
    is_of_a_kind_we_write = not any(isinstance(column, float) for column in columns)
    if not is_of_a_kind_we_write or row_checksum(*columns) != checksum:
        raise StoreCorrupt(f"The checksum of {what} does not hold; the file is damaged. Restore it from a backup.")


def rows_of(connection: apsw.Connection, sql: str, *bindings: Any) -> list[tuple[Any, ...]]:
    """All rows of the query. Raises StoreCorrupt when a text among them is none."""
    try:
        return connection.execute(sql, bindings).fetchall()
    except UnicodeDecodeError as error:
        raise StoreCorrupt("A text is not UTF-8; the file is damaged. Restore it from a backup.") from error


def integers_of(what: str, connection: apsw.Connection, sql: str, *bindings: Any) -> list[tuple[int, ...]]:
    """All rows of a query for integers, which are not checked otherwise. Raises StoreCorrupt when there is another."""
    rows = rows_of(connection, sql, *bindings)
    if not all(isinstance(value, int) for row in rows for value in row):
        raise StoreCorrupt(f"{what} holds something else than integers; the file is damaged. Restore it from a backup.")
    return rows


def only_row(what: str, connection: apsw.Connection, sql: str) -> tuple[Any, ...]:
    """The row of the query. Raises StoreCorrupt, naming the row, when it is not there."""
    rows = rows_of(connection, sql)
    if not rows:
        raise StoreCorrupt(
            f"{what[0].upper()}{what[1:]} cannot be found; the file is damaged. Restore it from a backup."
        )
    return rows[0]


def value_of(connection: apsw.Connection, sql: str, *bindings: Any) -> Any:
    """The first column of the first row; None when there is no row."""
    rows = connection.execute(sql, bindings).fetchall()
    return rows[0][0] if rows else None
