"""The duplicate ledger: for every event that was refused as known already, what it repeated and who sent it.

A row of `ledger` is one commit's: a zstd frame of a MessagePack array [offsets, topics, sources, conflicts, payloads].
`payloads` has the refused payload of a conflict, as far as the bounds allow, and nil otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import apsw
import msgspec

from sekali.store.codec import compress, decompress
from sekali.store.decide import Duplicate, GroupColumns
from sekali.store.log import Statement
from sekali.store.rows import check_row, row_checksum, rows_of

REFUSED_PAYLOAD_BYTES_MAX: Final = 4 * 1024
REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX: Final = 256 * 1024
_INSERT: Final = "INSERT INTO ledger VALUES (?, ?, ?, ?, ?)"

_Body = tuple[list[int], list[str], list[str], list[bool], list[bytes | None]]


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One refused event: the offset of the stored one with its key, its topic and source, and when it came."""

    offset: int
    topic: str
    source: str
    received_at_us: int
    is_conflict: bool
    refused_payload: bytes | None
    """Of a conflict; None when it was over the bound."""


def ledger_row(
    commit_no: int, stamp_us: int, group: GroupColumns, duplicates: Sequence[Duplicate], first_offset: int
) -> Statement:
    """The statement that keeps a commit's duplicates."""
    left = REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX
    payloads: list[bytes | None] = []
    for duplicate in duplicates:
        refused = None
        size = len(group.payloads[duplicate.place])
        if duplicate.is_conflict and size <= min(left, REFUSED_PAYLOAD_BYTES_MAX):
            refused = bytes(group.payloads[duplicate.place])
            left -= size
        payloads.append(refused)
    body: _Body = (
        [each.offset if each.new_place is None else first_offset + each.new_place for each in duplicates],
        [group.topics[each.place] for each in duplicates],
        [group.sources[each.place] for each in duplicates],
        [each.is_conflict for each in duplicates],
        payloads,
    )
    columns = (commit_no, stamp_us, len(duplicates))
    packed = compress(msgspec.msgpack.encode(body))
    return _INSERT, [(*columns, row_checksum(*columns, packed), packed)]


def ledger_entries(connection: apsw.Connection, after_commit: int, commits_max: int) -> list[LedgerEntry]:
    """The entries of the next `commits_max` commits that refused something, oldest first. Raises StoreCorrupt."""
    entries: list[LedgerEntry] = []
    sql = (
        "SELECT commit_no, stamp_us, entries, body, checksum FROM ledger WHERE commit_no > ? ORDER BY commit_no LIMIT ?"
    )
    rows = rows_of(connection, sql, after_commit, commits_max)
    for commit_no, stamp_us, count, packed, checksum in rows:
        check_row(f"ledger of commit {commit_no}", checksum, commit_no, stamp_us, count, packed)
        body = msgspec.msgpack.decode(decompress(packed), type=_Body)
        for offset, topic, source, is_conflict, payload in zip(*body, strict=True):
            entries.append(LedgerEntry(offset, topic, source, stamp_us, is_conflict, payload))
    return entries
