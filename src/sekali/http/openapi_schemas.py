"""The shapes of requests and answers, as JSON Schema 2020-12, and one example of each. Pure data."""

from __future__ import annotations

from typing import Any, Final

from sekali.event import EVENT_ID_BYTES_MAX, SOURCE_BYTES_MAX, TOPIC_BYTES_MAX

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _name(bytes_max: int, text: str) -> Schema:
    rules = f"1-{bytes_max} bytes of UTF-8, no control characters, no surrounding white space; compared byte for byte."
    return {"type": "string", "minLength": 1, "maxLength": bytes_max, "description": f"{text} {rules}"}


def _count(text: str) -> Schema:
    return {"type": "integer", "minimum": 0, "description": text}


def _object(properties: dict[str, Schema], *, optional: tuple[str, ...] = (), text: str = "") -> Schema:
    schema: Schema = {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }
    return {**schema, "description": text} if text else schema


TOPIC: Final = _name(TOPIC_BYTES_MAX, "The log that the event belongs to.")
EVENT_ID: Final = _name(EVENT_ID_BYTES_MAX, "The sender's idempotency key within the topic.")
SOURCE: Final = _name(SOURCE_BYTES_MAX, "Where the event comes from.")
TIMESTAMP: Final[Schema] = {
    "type": "string",
    "description": "When it happened: ISO 8601, kept exactly as sent. Without an offset it means UTC.",
}
PAYLOAD: Final[Schema] = {
    "type": "object",
    "description": "Any JSON object. Its bytes are kept as sent: big integers, key order, precision.",
}
OFFSET: Final[Schema] = {
    "type": "integer",
    "minimum": 1,
    "description": "The event's place in the log: increasing, never reused, without gaps.",
}
RECEIVED_AT: Final[Schema] = {
    "type": "string",
    "format": "date-time",
    "description": "When the event was stored. Never decreases with the offset.",
}
_ORIGINAL_OFFSET: Final = _count("Of the stored event with that key: its own, or the earlier one's.")

SCHEMAS: Final[dict[str, Schema]] = {
    "Event": _object(
        {"topic": TOPIC, "event_id": EVENT_ID, "timestamp": TIMESTAMP, "source": SOURCE, "payload": PAYLOAD},
        text="One event. Members of other names are kept and given back; `offset` and `received_at` are ignored, so "
        "what was read can be published again.",
    ),
    "StoredEvent": _object(
        {
            "topic": TOPIC,
            "event_id": EVENT_ID,
            "timestamp": TIMESTAMP,
            "source": SOURCE,
            "payload": PAYLOAD,
            "offset": OFFSET,
            "received_at": RECEIVED_AT,
        }
    ),
    "PublishAnswer": _object(
        {
            "accepted": _count("Events of this request that keep the rules, duplicates included. All are on disk."),
            "queued": _count("Events in the intake once this request had joined it, its own included."),
            "conflicts": {
                **array_of({"type": "integer", "minimum": 0}),
                "description": "Items whose id is known with another payload; the first payload is kept. By index.",
            },
            "receipts": {
                **array_of({"anyOf": [ref("Receipt"), ref("Rejection")]}),
                "description": "One for each item, in the order sent; with `receipts=true`, or `partial=true` and no "
                "`receipts=false`.",
            },
        },
        optional=("conflicts", "receipts"),
    ),
    "Receipt": _object(
        {"status": {"type": "string", "enum": ["stored", "duplicate", "conflict"]}, "offset": _ORIGINAL_OFFSET}
    ),
    "Rejection": _object(
        {
            "status": {"type": "string", "const": "rejected"},
            "code": {"type": "string", "description": "The rule that the item breaks; see /errors/invalid_event."},
            "detail": {"type": "string"},
        },
        text="With `partial=true`: an item that was not stored.",
    ),
    "SeenKey": _object({"topic": TOPIC, "event_id": EVENT_ID}, text="Members of other names are ignored."),
    "SeenAnswer": _object({"seen": {"type": "boolean"}, "offset": _ORIGINAL_OFFSET}, optional=("offset",)),
    "Stats": _object(
        {
            "received": _count("unique_processed + duplicate_dropped, always."),
            "unique_processed": _count("Events stored."),
            "duplicate_dropped": _count("Repeats of stored events, conflicts included."),
            "topics": {**array_of({"type": "string"}), "description": "Sorted names, at most 1,000."},
            "uptime_seconds": {"type": "number", "minimum": 0},
            "queue_depth": _count("Events admitted and not yet answered."),
            "workers": _count("Threads that prepare groups of events."),
            "db_path": {"type": "string", "description": "The setting's text, as given."},
            "conflicts": _count("Repeats whose payload differs from the stored one."),
            "topics_total": _count("Topics in the store."),
            "last_offset": _count("0 while nothing is stored."),
            "commits": _count("Groups of events written."),
            "intake": _object(
                {
                    "events": _count("Admitted and not yet answered."),
                    "events_max": _count("Past it requests are refused."),
                    "bytes": _count("Of their bodies."),
                    "bytes_max": _count("Past it requests are refused."),
                }
            ),
            "index": _object(
                {
                    "ready": {"type": "boolean", "description": "The seen index has every key."},
                    "done": _count("Keys in the seen index."),
                    "total": _count("Keys stored."),
                }
            ),
        },
        text="The first eight are those of the first version. Counters survive restarts.",
    ),
    "Topic": _object(
        {
            "topic": TOPIC,
            "events": _count("Events stored."),
            "duplicates": _count("Repeats, conflicts included."),
            "conflicts": _count("Repeats with another payload."),
            "first_offset": {"type": ["integer", "null"]},
            "last_offset": {"type": ["integer", "null"]},
            "first_received_at": {"type": ["string", "null"], "format": "date-time"},
            "last_received_at": {"type": ["string", "null"], "format": "date-time"},
        },
        text="First and last are null for a topic that holds ids and no events.",
    ),
    "LedgerEntry": _object(
        {
            "topic": TOPIC,
            "offset": _count("Of the stored event that was sent again; 0 when only its id is stored."),
            "event_id": EVENT_ID,
            "source": {**SOURCE, "description": "Who sent it again; the stored event may name another."},
            "received_at": {
                "type": "string",
                "format": "date-time",
                "description": "When it was refused. Never decreases along the ledger.",
            },
            "status": {"type": "string", "enum": ["duplicate", "conflict"]},
            "payload": {
                "type": "object",
                "description": "The refused payload of a conflict, as sent, if it was small enough to be kept.",
            },
        },
        optional=("event_id", "payload"),
        text="One event that was refused because its id was stored already.",
    ),
    "Health": _object({"ok": {"type": "boolean", "const": True}}),
    "Readiness": _object(
        {
            "ok": {"type": "boolean", "const": True},
            "index": _object({"done": _count("Keys in the seen index."), "total": _count("Keys stored.")}),
            "damage": {
                "type": "string",
                "description": "What part of the store a read found damaged first. `sekali verify` tells all.",
            },
        },
        optional=("damage",),
    ),
    "Violation": _object(
        {
            "pointer": {
                "type": "string",
                "description": "JSON Pointer (RFC 6901) into the body, or the name of a query parameter.",
            },
            "code": {"type": "string", "description": "The rule; its page is that of the problem's own code."},
            "detail": {"type": "string"},
        },
        text="One broken rule.",
    ),
    "Problem": _object(
        {
            "type": {"type": "string", "format": "uri-reference", "description": "Leads to the code's explanation."},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "What is wrong, and what mends it."},
            "code": {"type": "string", "description": "Stable: programs may switch on it."},
            "errors": {**array_of(ref("Violation")), "maxItems": 100, "description": "The first 100."},
            "errors_total": _count("How many there are."),
        },
        optional=("errors", "errors_total"),
        text="RFC 9457. Nothing that was sent is repeated in it.",
    ),
    "Explanation": _object(
        {
            "code": {"type": "string"},
            "status": {"type": ["integer", "null"], "description": "null: the process ends instead of answering."},
            "title": {"type": "string"},
            "when": {"type": "string"},
            "remedy": {"type": "string"},
            "try_again": {"type": "boolean", "description": "The same request may succeed later."},
            "rules": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        optional=("rules",),
    ),
}

EVENT_EXAMPLE: Final = {
    "topic": "alpha",
    "event_id": "e-1",
    "timestamp": "2024-01-01T00:00:00Z",
    "source": "manual",
    "payload": {"x": 1},
}
BATCH_EXAMPLE: Final = [
    {"topic": "alpha", "event_id": "b-1", "timestamp": "2024-01-01T00:00:00Z", "source": "manual", "payload": {}},
    {"topic": "alpha", "event_id": "b-1", "timestamp": "2024-01-01T00:00:00Z", "source": "manual", "payload": {}},
]
STORED_EXAMPLE: Final = {**EVENT_EXAMPLE, "offset": 17, "received_at": "2024-01-01T00:00:00.123456Z"}
STATS_EXAMPLE: Final = {
    "received": 6000,
    "unique_processed": 4800,
    "duplicate_dropped": 1200,
    "topics": ["alpha", "beta"],
    "uptime_seconds": 123.456,
    "queue_depth": 0,
    "workers": 2,
    "db_path": "/data/store.db",
    "conflicts": 3,
    "topics_total": 2,
    "last_offset": 4800,
    "commits": 97,
    "intake": {"events": 0, "events_max": 200_000, "bytes": 0, "bytes_max": 134_217_728},
    "index": {"ready": True, "done": 4800, "total": 4800},
}
LEDGER_EXAMPLE: Final = [
    {
        "topic": "alpha",
        "offset": 17,
        "event_id": "e-1",
        "source": "shipper-2",
        "received_at": "2024-01-01T00:00:05.654321Z",
        "status": "duplicate",
    },
    {
        "topic": "alpha",
        "offset": 17,
        "event_id": "e-1",
        "source": "manual",
        "received_at": "2024-01-01T00:00:07.000001Z",
        "status": "conflict",
        "payload": {"x": 2},
    },
]
TOPIC_EXAMPLE: Final = {
    "topic": "alpha",
    "events": 4000,
    "duplicates": 1000,
    "conflicts": 3,
    "first_offset": 1,
    "last_offset": 4799,
    "first_received_at": "2024-01-01T00:00:00.123456Z",
    "last_received_at": "2024-01-01T00:05:00.654321Z",
}
