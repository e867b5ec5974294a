"""What the server writes: stored events and receipts, as JSON bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from sekali.event import BatchOutcome, EventBatch, LedgerEntry, ReceiptStatus, StoredEvents

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MUST_ESCAPE: Final = re.compile(r'["\\\x00-\x1f]')
_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")
_RECEIPT_WORDS: Final = {status: status.name.lower() for status in ReceiptStatus}
_encode: Final = msgspec.json.Encoder().encode


@lru_cache(maxsize=4096)
def format_time_us(us: int) -> str:
    """Microseconds since 1970 UTC as `YYYY-MM-DDTHH:MM:SS.ffffffZ`."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def encode_events(events: StoredEvents) -> list[bytes]:
    """One JSON object per event, with the members topic, event_id, timestamp, source, payload, extra ones, offset,
    received_at. Payload and extra members are the bytes that were stored: they may hold line ends.
    """
    if not len(events):
        return []
    columns = [events.topics, events.event_ids, events.timestamps, events.sources]
    if not events.text_is_plain and any(_MUST_ESCAPE.search("".join(column)) for column in columns):
        columns = [[_encode(text).decode()[1:-1] for text in column] for column in columns]
    bodies = _as_text(events.payloads)
    if events.extras is not None:
        extras = _as_text(events.extras)
        bodies = [f"{body},{extra}" if extra else body for body, extra in zip(bodies, extras, strict=True)]
    times = {us: format_time_us(us) for us in set(events.received_at_us)}
    texts = [
        f'{{"topic":"{topic}","event_id":"{event_id}","timestamp":"{timestamp}","source":"{source}",'
        f'"payload":{body},"offset":{offset},"received_at":"{times[us]}"}}'
        for topic, event_id, timestamp, source, body, offset, us in zip(
            *columns, bodies, events.offsets, events.received_at_us, strict=True
        )
    ]
    return "\0".join(texts).encode().split(b"\0")


def _as_text(column: Sequence[bytes]) -> list[str]:
    """No payload and no extra member holds NUL, nor does any other part of an event."""
    return b"\0".join(column).decode().split("\0")


def encode_ledger(entries: Sequence[LedgerEntry]) -> list[bytes]:
    """One JSON object per entry, with the members topic, offset, event_id (if it was looked up), source, received_at,
    status, payload (of a conflict, if it was kept: the bytes as sent).
    """
    return [_ledger_entry(entry) for entry in entries]


def _ledger_entry(entry: LedgerEntry) -> bytes:
    members: dict[str, object] = {"topic": entry.topic, "offset": entry.offset}
    if entry.event_id is not None:
        members["event_id"] = entry.event_id
    members["source"] = entry.source
    members["received_at"] = format_time_us(entry.received_at_us)
    members["status"] = _RECEIPT_WORDS[ReceiptStatus.CONFLICT if entry.is_conflict else ReceiptStatus.DUPLICATE]
    if entry.refused_payload is not None:
        members["payload"] = msgspec.Raw(entry.refused_payload)
    return _encode(members)


def ndjson_line(event: bytes) -> bytes:
    """An encoded event on one line, with the line end.

    A raw line end in JSON can only be white space between tokens, so a space says the same.
    """
    return event.translate(_LINE_ENDS) + b"\n"


def encode_publish_answer(batch: EventBatch, outcome: BatchOutcome, queued: int, *, receipts: bool) -> bytes:
    """The body that answers a publish: accepted, queued, conflicts if there are any, receipts if asked for.

    Conflicts and receipts go by the items of the request as sent, rejected ones included.
    """
    positions = _positions_as_sent(batch)
    parts = [b'{"accepted":%d,"queued":%d' % (len(batch), queued)]
    conflicts = outcome.conflict_positions
    if conflicts:
        parts.append(b',"conflicts":[%b]' % ",".join(str(positions[i]) for i in conflicts).encode())
    if receipts:
        parts.append(b',"receipts":[%b]' % b",".join(_receipts(batch, outcome, positions)))
    parts.append(b"}")
    return b"".join(parts)


def receipt_header(outcome: BatchOutcome) -> str:
    """The value of `Sekali-Receipt` for a request that brought one event: `stored; offset=17`."""
    status = ReceiptStatus.STORED if outcome.statuses is None else ReceiptStatus(outcome.statuses[0])
    return f"{_RECEIPT_WORDS[status]}; offset={outcome.offsets[0]}"


def _positions_as_sent(batch: EventBatch) -> Sequence[int]:
    """For each event of the batch its index in the request."""
    if not batch.rejections:
        return range(len(batch))
    rejected = {rejection.index for rejection in batch.rejections}
    return [i for i in range(len(batch) + len(rejected)) if i not in rejected]


def _receipts(batch: EventBatch, outcome: BatchOutcome, positions: Sequence[int]) -> list[bytes]:
    statuses = outcome.statuses or [ReceiptStatus.STORED] * len(batch)
    heads = {int(status): b'{"status":"%b","offset":' % word.encode() for status, word in _RECEIPT_WORDS.items()}
    stored = [b"%b%d}" % (heads[status], offset) for status, offset in zip(statuses, outcome.offsets, strict=True)]
    if not batch.rejections:
        return stored
    receipts = [b""] * (len(batch) + len(batch.rejections))
    for position, receipt in zip(positions, stored, strict=True):
        receipts[position] = receipt
    for rejection in batch.rejections:
        receipts[rejection.index] = _encode({"status": "rejected", "code": rejection.code, "detail": rejection.detail})
    return receipts
