"""The rules one event must keep, applied to its bytes one member at a time: exact, and slow.

`native.decode_publish` takes most requests by faster checks over whole columns and comes here when anything is out of
the ordinary. Both give the same answers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, count
from operator import sub
from typing import Final, TypeVar

import msgspec

from sekali.errors import VIOLATIONS_SHOWN_MAX, EventTooLarge, InvalidEvent, Violation
from sekali.event import EVENT_ID_BYTES_MAX, SOURCE_BYTES_MAX, TOPIC_BYTES_MAX
from sekali.timestamps import is_timestamp


class ItemCode(StrEnum):
    """Which rule an event breaks. Stable: clients may switch on it."""

    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY = "empty"
    TOO_LONG = "too_long"
    CONTROL_CHARACTER = "control_character"
    SURROUNDING_WHITESPACE = "surrounding_whitespace"
    NOT_A_TIMESTAMP = "not_a_timestamp"
    NOT_AN_OBJECT = "not_an_object"
    REPEATED_MEMBER = "repeated_member"
    TOO_DEEP = "too_deep"
    EVENT_TOO_LARGE = "event_too_large"
    WRAPPED_BATCH = "wrapped_batch"


ITEM_CODE_MEANINGS: Final[dict[ItemCode, str]] = {
    ItemCode.MISSING_FIELD: "A required field is absent.",
    ItemCode.WRONG_TYPE: "A field that must be a string is something else.",
    ItemCode.EMPTY: "A name is the empty string.",
    ItemCode.TOO_LONG: "A name has more bytes of UTF-8 than it may.",
    ItemCode.CONTROL_CHARACTER: "A name or timestamp holds a control character (U+0000-001F, U+007F-009F).",
    ItemCode.SURROUNDING_WHITESPACE: "A name begins or ends with white space.",
    ItemCode.NOT_A_TIMESTAMP: "The timestamp is not an ISO 8601 date and time.",
    ItemCode.NOT_AN_OBJECT: "An event, or its payload, is not a JSON object.",
    ItemCode.REPEATED_MEMBER: "An event has the same member twice.",
    ItemCode.TOO_DEEP: "An event is nested deeper than allowed; the event itself is level 1.",
    ItemCode.EVENT_TOO_LARGE: "An event has more bytes than allowed.",
    ItemCode.WRAPPED_BATCH: "The events are inside an object; send the array itself.",
}

FIELDS: Final = ("topic", "event_id", "timestamp", "source", "payload")
RESERVED: Final = ("offset", "received_at")
"""Members the server adds to what it gives out. Accepted and ignored, so any output can be published again."""

NAME_BYTES_MAX: Final = {"topic": TOPIC_BYTES_MAX, "event_id": EVENT_ID_BYTES_MAX, "source": SOURCE_BYTES_MAX}

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Unicode category Cc. The line separators U+2028 and U+2029 are not in it: inside a name they are allowed."""

STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
"""A JSON string with its quotes, in what is known to be JSON."""
BRACKETS_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))

_PAIRS: Final = json.JSONDecoder(object_pairs_hook=list, parse_int=str, parse_float=str)
MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING: Final = msgspec.json.Decoder(str)
_encode: Final = msgspec.json.Encoder().encode

Examined = TypeVar("Examined")

_SMALLEST_MEMBER_BYTES: Final = len(b'"":1,')


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What one request may hold. The settings of the same names explain each."""

    batch_events_max: int
    event_bytes_max: int
    depth_max: int
    body_bytes_max: int


@dataclass(frozen=True, slots=True)
class ExactEvent:
    """One event that keeps all rules. `extras` as in EventBatch."""

    topic: str
    event_id: str
    timestamp: str
    source: str
    payload: bytes
    extras: bytes


def examine_all(
    items: Sequence[bytes],
    examine: Callable[[bytes, str, DecodeLimits], Examined | list[Violation]],
    limits: DecodeLimits,
    *,
    is_single: bool,
    outcome: str = "",
) -> list[Examined]:
    """What `examine` finds in each item. Raises EventTooLarge, InvalidEvent; the size goes before all other rules.

    `outcome`: what a refusal means for the whole request, a sentence to begin its detail with.
    """
    lead = f"{outcome} " if outcome else ""
    pointers = [""] if is_single else [f"/{index}" for index in range(len(items))]
    large = [
        too_large(pointer, len(item), limits)
        for pointer, item in zip(pointers, items, strict=True)
        if len(item) > limits.event_bytes_max
    ]
    if large:
        raise EventTooLarge(f"{lead}{large[0].detail}", violations=large)
    good: list[Examined] = []
    violations: list[Violation] = []
    violations_total = 0
    for pointer, item in zip(pointers, items, strict=True):
        examined = examine(item, pointer, limits)
        if isinstance(examined, list):
            violations_total += len(examined)
            violations += examined[: VIOLATIONS_SHOWN_MAX - len(violations)]
        else:
            good.append(examined)
    if violations_total:
        rules = "One rule is" if violations_total == 1 else f"{violations_total} rules are"
        raise InvalidEvent(
            f"{lead}{rules} broken. {violations[0].detail}",
            violations=violations,
            violations_total=violations_total,
        )
    return good


def examine_event(item: bytes, pointer: str, limits: DecodeLimits) -> ExactEvent | list[Violation]:
    """The event in `item`, or every rule it breaks.

    `item` is one JSON value in valid UTF-8 without white space around it. Violations point into the request body:
    `pointer` is that of the item (`/3`, or `` for a body that is one event).
    """
    values = members_of(item, pointer, limits)
    if isinstance(values, Violation):
        return [values]
    violations = structure_violations(item, values, pointer, limits)
    topic = examined_name(values, "topic", pointer, violations)
    event_id = examined_name(values, "event_id", pointer, violations)
    timestamp = examined_timestamp(values, pointer, violations)
    source = examined_name(values, "source", pointer, violations)
    payload = values.get("payload")
    if payload is None:
        violations.append(missing("payload", pointer))
    elif payload[:1] != b"{":
        violations.append(Violation(f"{pointer}/payload", ItemCode.NOT_AN_OBJECT, "payload must be a JSON object."))
    if violations or payload is None:
        return violations
    extras = b",".join(
        _encode(name) + b":" + value for name, value in values.items() if name not in FIELDS and name not in RESERVED
    )
    return ExactEvent(topic, event_id, timestamp, source, payload, extras)


def examine_key(item: bytes, pointer: str, limits: DecodeLimits) -> tuple[str, str] | list[Violation]:
    """The (topic, event_id) asked for in `item`, or every rule it breaks. Other members are ignored."""
    values = members_of(item, pointer, limits)
    if isinstance(values, Violation):
        return [values]
    violations = structure_violations(item, values, pointer, limits)
    topic = examined_name(values, "topic", pointer, violations)
    event_id = examined_name(values, "event_id", pointer, violations)
    return violations or (topic, event_id)


def members_of(item: bytes, pointer: str, limits: DecodeLimits) -> dict[str, bytes] | Violation:
    """The members of an item by unescaped name, each value as sent; of a repeated one, the last."""
    if len(item) > limits.event_bytes_max:
        return too_large(pointer, len(item), limits)
    if item[:1] != b"{":
        return Violation(pointer, ItemCode.NOT_AN_OBJECT, "Each item must be a JSON object.")
    try:
        members = MEMBERS.decode(item)
    except RecursionError:
        return too_deep(pointer, limits)
    values = {name: bytes(value) for name, value in members.items()}
    if pointer == "" and is_wrapped_batch(values):
        return Violation(pointer, ItemCode.WRAPPED_BATCH, "The items are inside an object: send the array itself.")
    return values


def is_wrapped_batch(values: dict[str, bytes]) -> bool:
    """True for `{"events": [...]}` and the like: no field of an event, and an array."""
    return not any(field in values for field in FIELDS) and any(value[:1] == b"[" for value in values.values())


def too_deep(pointer: str, limits: DecodeLimits) -> Violation:
    detail = f"An item may be nested {limits.depth_max} levels deep, itself included."
    return Violation(pointer, ItemCode.TOO_DEEP, detail)


def too_large(pointer: str, event_bytes: int, limits: DecodeLimits) -> Violation:
    detail = f"An item may have {limits.event_bytes_max} bytes; this one has {event_bytes}."
    return Violation(pointer, ItemCode.EVENT_TOO_LARGE, detail)


def missing(field: str, pointer: str) -> Violation:
    return Violation(f"{pointer}/{field}", ItemCode.MISSING_FIELD, f"{field} is required.")


def structure_violations(item: bytes, values: dict[str, bytes], pointer: str, limits: DecodeLimits) -> list[Violation]:
    """Members given twice, and nesting. `values` are the item's members, without the repeated ones."""
    try:
        repeated = [] if has_room_for_no_more(item, values) else repeated_names(item)
    except RecursionError:
        return [too_deep(pointer, limits)]
    violations = []
    for name in repeated:
        known = name in FIELDS or name in RESERVED
        detail = f"{name} is given more than once." if known else "A member is given more than once."
        violations.append(Violation(f"{pointer}/{name}" if known else pointer, ItemCode.REPEATED_MEMBER, detail))
    if nesting_exceeds(item, limits.depth_max):
        violations.append(too_deep(pointer, limits))
    return violations


def has_room_for_no_more(item: bytes, values: dict[str, bytes]) -> bool:
    """True when the item is too short to hold one more member than `values`: so none is given twice."""
    names = "".join(values)
    names_bytes = len(names) if names.isascii() else len(names.encode())
    members_bytes = names_bytes + sum(map(len, values.values())) + len('"":,') * len(values) - len(",")
    return len(item) - len("{}") - members_bytes < _SMALLEST_MEMBER_BYTES


def repeated_names(item: bytes) -> list[str]:
    """The names that the JSON object `item` gives more than once, each once, unescaped. May raise RecursionError."""
    members: list[tuple[str, object]] = _PAIRS.decode(item.decode())
    return [name for name, times in Counter(name for name, _ in members).items() if times > 1]


def nesting_exceeds(item: bytes, depth_max: int) -> bool:
    """True when the JSON value `item` has more than `depth_max` levels of objects and arrays."""
    if len(item) < 2 * depth_max or item.count(b"{") + item.count(b"[") <= depth_max:
        return False
    brackets = STRING.sub(b"", item).translate(BRACKETS_ALIKE, _NOT_BRACKETS)
    opened_before_each_close = accumulate(map(len, brackets.split(b"]")))
    deepest: int = max(map(sub, opened_before_each_close, count()))
    return deepest > depth_max


def are_names(names: Sequence[str], bytes_max: int) -> bool:
    """True when each of `names` (at least one) keeps the rules for topic, event_id and source: as `examined_name`."""
    joined = "".join(names)
    if not joined.isprintable() and CONTROL.search(joined):
        return False
    characters_max = bytes_max if joined.isascii() else bytes_max // 4
    if max(map(len, names)) > characters_max and max(len(name.encode()) for name in names) > bytes_max:
        return False
    if not all(names):
        return False
    may_hold_white_space = " " in joined or not joined.isprintable()
    return not may_hold_white_space or len("".join(map(str.strip, names))) == len(joined)


def examined_name(values: dict[str, bytes], field: str, pointer: str, violations: list[Violation]) -> str:
    """The topic, event_id or source in `values`. Each rule it breaks is added to `violations`."""
    name = decoded_text(values, field, pointer, violations)
    bytes_max = NAME_BYTES_MAX[field]
    if name is None:
        return ""
    if name.isascii() and name.isprintable() and len(name) <= bytes_max and name.strip() == name != "":
        return name
    pointer = f"{pointer}/{field}"
    if not name:
        violations.append(Violation(pointer, ItemCode.EMPTY, f"{field} must not be empty."))
        return name
    name_bytes = len(name.encode())
    if name_bytes > bytes_max:
        detail = f"{field} may have {bytes_max} bytes of UTF-8; this one has {name_bytes}."
        violations.append(Violation(pointer, ItemCode.TOO_LONG, detail))
    if CONTROL.search(name):
        violations.append(Violation(pointer, ItemCode.CONTROL_CHARACTER, f"{field} holds a control character."))
    if name.strip() != name:
        detail = f"{field} must not begin or end with white space."
        violations.append(Violation(pointer, ItemCode.SURROUNDING_WHITESPACE, detail))
    return name


def examined_timestamp(values: dict[str, bytes], pointer: str, violations: list[Violation]) -> str:
    """The timestamp in `values`. The rule it breaks is added to `violations`."""
    timestamp = decoded_text(values, "timestamp", pointer, violations)
    if timestamp is None or is_timestamp(timestamp):
        return timestamp or ""
    pointer = f"{pointer}/timestamp"
    if CONTROL.search(timestamp):
        detail = "timestamp holds a control character."
        violations.append(Violation(pointer, ItemCode.CONTROL_CHARACTER, detail))
    else:
        detail = "timestamp must be ISO 8601, such as 2024-01-01T00:00:00Z."
        violations.append(Violation(pointer, ItemCode.NOT_A_TIMESTAMP, detail))
    return timestamp


def decoded_text(values: dict[str, bytes], field: str, pointer: str, violations: list[Violation]) -> str | None:
    """The string in `field`; None, with the violation added, when it is absent or no string."""
    value = values.get(field)
    if value is None:
        violations.append(missing(field, pointer))
        return None
    if value[:1] != b'"':
        violations.append(Violation(f"{pointer}/{field}", ItemCode.WRONG_TYPE, f"{field} must be a string."))
        return None
    return _STRING.decode(value)
