"""Which strings are timestamps: what `datetime.fromisoformat` of Python 3.11 takes, and a little more.

More: any number of fraction digits (kept as sent), a lower-case `z`, and the leap second `:60`.
Less: hour 24, which Python takes from 3.14 on, and control characters (`fromisoformat` takes any character between
date and time; the store relies on there being none).
An offset that would overflow UTC (`0001-01-01T00:00:00+23:59`) is taken: nothing converts a timestamp to UTC.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

_DATE: Final = r"(?:\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d(?:-\d)?|\d{4}W\d{2,3})"
_LEAP_SECOND: Final = re.compile(rf"({_DATE}.\d\d:?\d\d:?)60(?![0-9:])", re.DOTALL | re.ASCII)
_HOUR_24: Final = re.compile(rf"^{_DATE}[^\n]24", re.MULTILINE | re.ASCII)
_LOWER_CASE_Z: Final = re.compile(r"(?<=\d)z\Z", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

PYTHON_TAKES_HOUR_24 = sys.version_info >= (3, 14)


def is_timestamp(text: str) -> bool:
    """True when `text` may be an event's timestamp."""
    if not text.isprintable() and _CONTROL.search(text):
        return False
    if PYTHON_TAKES_HOUR_24 and _HOUR_24.match(text):
        return False
    if _is_iso(text):
        return True
    mended = _LOWER_CASE_Z.sub("Z", text)
    leap_second = _LEAP_SECOND.match(mended)
    if leap_second:
        mended = f"{leap_second[1]}59{mended[leap_second.end() :]}"
    return mended != text and _is_iso(mended)


def are_timestamps(texts: Collection[str], *, may_hold_controls: bool = True) -> bool:
    """True when every one of `texts` is a timestamp: the same answer as `is_timestamp` on each, and faster.

    `may_hold_controls=False`: it is known that none holds a control character.
    """
    if PYTHON_TAKES_HOUR_24 and _HOUR_24.search("\n".join(texts)):
        return False
    if may_hold_controls and not "".join(texts).isprintable() and any(map(_CONTROL.search, texts)):
        return False
    return _all_iso(texts) or all(map(is_timestamp, texts))


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _all_iso(texts: Iterable[str]) -> bool:
    try:
        deque(map(datetime.fromisoformat, texts), maxlen=0)
    except ValueError:
        return False
    return True
