"""The seen look-up: which keys are asked for, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sekali.event import EVENT_ID_BYTES_MAX, TOPIC_BYTES_MAX, SeenAnswer
from sekali.wire.body import check_root, split_items
from sekali.wire.rules import DecodeLimits, are_names, examine_all, examine_key


class _Key(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    topic: str
    event_id: str


_KEY: Final = msgspec.json.Decoder(_Key)
_KEYS: Final = msgspec.json.Decoder(list[_Key])

_EMPTY_KEY_BYTES: Final = len(b'{"topic":"","event_id":""}')
_SMALLEST_REPEATED_FIELD_BYTES: Final = len(b'"topic":"",')


def decode_seen(body: bytes, limits: DecodeLimits) -> tuple[list[tuple[str, str]], bool]:
    """The (topic, event_id) pairs asked for, in order, and whether the body was one object.

    Other members are ignored, so what can be published can be asked for as it is. Raises as decode_publish.
    """
    root = check_root(body, limits)
    is_single = root == b"{"
    items = split_items(body, root, limits)
    keys = _plain_keys(body, items, is_single=is_single)
    return examine_all(items, examine_key, limits, is_single=is_single) if keys is None else keys, is_single


def _plain_keys(body: bytes, items: Sequence[bytes], *, is_single: bool) -> list[tuple[str, str]] | None:
    """The keys, or None where only a look at each item can tell whether the rules are kept."""
    try:
        keys = [_KEY.decode(body)] if is_single else _KEYS.decode(body)
    except msgspec.DecodeError:
        return None
    topics = [key.topic for key in keys]
    event_ids = [key.event_id for key in keys]
    if keys and not (are_names(topics, TOPIC_BYTES_MAX) and are_names(event_ids, EVENT_ID_BYTES_MAX)):
        return None
    for item, topic, event_id in zip(items, topics, event_ids, strict=True):
        if len(item) - len(topic) - len(event_id) - _EMPTY_KEY_BYTES >= _SMALLEST_REPEATED_FIELD_BYTES:
            return None
    return list(zip(topics, event_ids, strict=True))


def encode_seen(answers: Sequence[SeenAnswer]) -> bytes:
    """`[{"seen":true,"offset":17},{"seen":false}]`: always an array, in the order asked."""
    return b"[%b]" % b",".join(
        b'{"seen":true,"offset":%d}' % answer.offset if answer.seen else b'{"seen":false}' for answer in answers
    )
