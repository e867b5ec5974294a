"""Whether two JSON texts say the same."""

from __future__ import annotations

import json
from collections import Counter
from typing import Final


def same_json_value(one: bytes, other: bytes) -> bool:
    """True when two JSON texts in UTF-8 are equal as values.

    Members of an object are unordered, but the values of one repeated name keep their order. Items of an array are
    ordered. Strings compare after unescaping. Numbers compare by their text: `1.0` is not `1`, so no precision is
    ever guessed.

    Both must be valid JSON, nested at most 512 levels deep, which is the most that `depth_max` allows. The time grows
    with the texts alone, whatever they hold.
    """
    return one == other or _DECODER.decode(one.decode()) == _DECODER.decode(other.decode())


def _number(text: str) -> object:
    """A number's text, told apart from a string of the same characters."""
    return (text,)


def _members(pairs: list[tuple[str, object]]) -> object:
    """An object: its names with their values; when any is repeated, every name comes with which of its values it is."""
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    times: Counter[str] = Counter()
    numbered = {}
    for name, value in pairs:
        numbered[name, times[name]] = value
        times[name] += 1
    return numbered


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, parse_int=_number, parse_float=_number)
