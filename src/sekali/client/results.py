"""What the server answers, typed."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any, Literal

import msgspec

ReceiptWord = Literal["stored", "duplicate", "conflict", "rejected"]


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one published event.

    `offset` is the place of the stored event with that key (the earlier one for a duplicate or conflict), 0 when there
    is none. `code` and `detail` say why it was rejected.
    """

    status: ReceiptWord
    offset: int = 0
    code: str = ""
    detail: str = ""


class Published(msgspec.Struct, frozen=True):
    """The answer to one publish. Everything accepted is on disk.

    `receipts` has one entry per item sent, in order. `tries` is the number of requests it took: above 1, a duplicate
    may be the client's own earlier try, whose answer was lost.
    """

    accepted: int
    queued: int
    receipts: tuple[Receipt, ...]
    conflicts: tuple[int, ...] = ()
    tries: int = 1

    def count(self, status: ReceiptWord) -> int:
        return Counter(receipt.status for receipt in self.receipts)[status]


class StoredEvent(msgspec.Struct, frozen=True):
    """One event as the store gives it back.

    `received_at` is the store's time, `timestamp` the sender's text. `payload_json` holds the payload's bytes as sent.
    """

    topic: str
    event_id: str
    timestamp: str
    source: str
    payload_json: msgspec.Raw = msgspec.field(name="payload")
    offset: int
    received_at: str

    @property
    def payload(self) -> dict[str, Any]:
        """The payload as Python values. Numbers keep their precision: those with a fraction or exponent are Decimal."""
        return _payload(self.payload_json)


class EventLine(msgspec.Struct, frozen=True):
    """A stored event together with the exact line of JSON the server sent for it."""

    event: StoredEvent
    line: bytes


class Page(msgspec.Struct, frozen=True):
    """A run of events in the order asked for.

    `cursor` is where to read on: the `after` (or `before`) of the next page; None when nothing has been read yet.
    `more`: there was more when the page was read.
    """

    lines: tuple[EventLine, ...]
    cursor: str | None
    more: bool

    @property
    def events(self) -> list[StoredEvent]:
        return [line.event for line in self.lines]


class LedgerEntry(msgspec.Struct, frozen=True):
    """One event that was refused because its id was stored already.

    `topic`, `offset` and `event_id` (None where it was not asked for) are of the stored event, `source` and
    `received_at` of the refused one. `payload_json`: the bytes of a conflict's refused payload, where the server kept
    them.
    """

    topic: str
    offset: int
    source: str
    received_at: str
    status: Literal["duplicate", "conflict"]
    event_id: str | None = None
    payload_json: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="payload", default=msgspec.UNSET)

    @property
    def payload(self) -> dict[str, Any] | None:
        """The refused payload as Python values, as those of StoredEvent; None where there is none."""
        return None if isinstance(self.payload_json, msgspec.UnsetType) else _payload(self.payload_json)


class LedgerLine(msgspec.Struct, frozen=True):
    """An entry of the ledger together with the exact line of JSON the server sent for it."""

    entry: LedgerEntry
    line: bytes


class LedgerPage(msgspec.Struct, frozen=True):
    """A run of entries in the order asked for. `cursor`: where to read on; None at the end of the ledger."""

    lines: tuple[LedgerLine, ...]
    cursor: str | None

    @property
    def entries(self) -> list[LedgerEntry]:
        return [line.entry for line in self.lines]


class Stats(msgspec.Struct, frozen=True):
    """Counters of the whole store, and the state of the server. `topics`: names, at most 1,000 of `topics_total`."""

    received: int
    unique_processed: int
    duplicate_dropped: int
    topics: tuple[str, ...]
    uptime_seconds: float
    queue_depth: int
    workers: int
    db_path: str
    conflicts: int = 0
    topics_total: int = 0


class TopicSummary(msgspec.Struct, frozen=True):
    """Figures of one topic; conflicts count as duplicates too. None where the topic has no event, only ids."""

    topic: str
    events: int
    duplicates: int
    conflicts: int
    first_offset: int | None = None
    last_offset: int | None = None
    first_received_at: str | None = None
    last_received_at: str | None = None


def _payload(encoded: msgspec.Raw) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(bytes(encoded), parse_float=Decimal, parse_int=_whole_number)
    return decoded


def _whole_number(text: str) -> int | Decimal:
    # int() refuses more than 4,300 digits (CVE-2020-10735); the value is still given, as a Decimal.
    return int(text) if len(text) <= 4300 else Decimal(text)
