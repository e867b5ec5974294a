"""Query strings: read strictly, so that a slip of the sender is told and never silently answered with too much.

Strict means: valid UTF-8 once decoded, no unknown name, no repeat of a name that stands for one value. A text that is
refused is never repeated in the answer: neither a value, nor an unknown name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from sekali.errors import InvalidParameter, Violation
from sekali.event import EVENT_ID_BYTES_MAX, SOURCE_BYTES_MAX, TOPIC_BYTES_MAX, ReadQuery
from sekali.timestamps import is_timestamp
from sekali.wire.rules import CONTROL, ItemCode, are_names

PARAMETERS_MAX: Final = 1_000
"""Of one query string; bounds how many topics one read may name."""
OFFSET_MAX: Final = (1 << 63) - 1

NDJSON_MEDIA_TYPES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")

_TRUE_WORDS: Final = ("true", "1")
_FLAG_WORDS: Final = ("true", "false", "1", "0")
_CURSOR: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,100}")
_LEAP_SECOND: Final = re.compile(r"(\d\d:\d\d:|\D\d{4})60(?![0-9:])", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001  (offsets are subtracted by hand: they may leave datetime's range)
_MEANT: Final = {
    "cursor": "after",
    "from": "since",
    "id": "event_id",
    "max": "limit",
    "offset": "after",
    "page_size": "limit",
    "size": "limit",
    "sort": "order",
    "start": "since",
    "end": "until",
    "to": "until",
}
"""Names that other interfaces use, too far from ours for a look-up by likeness."""


class ParameterCode(StrEnum):
    """Which rule a query parameter breaks. Stable: clients may switch on it. Names also break those of ItemCode."""

    NOT_UTF8 = "not_utf8"
    TOO_MANY_PARAMETERS = "too_many_parameters"
    UNKNOWN_PARAMETER = "unknown_parameter"
    REPEATED_PARAMETER = "repeated_parameter"
    MISSING_PARAMETER = "missing_parameter"
    NOT_A_CURSOR = "not_a_cursor"
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"
    NOT_A_TIMESTAMP = "not_a_timestamp"
    NOT_A_CHOICE = "not_a_choice"
    NOT_TOGETHER = "not_together"


PARAMETER_CODE_MEANINGS: Final[dict[ParameterCode, str]] = {
    ParameterCode.NOT_UTF8: "The query string is not UTF-8 once percent-decoded.",
    ParameterCode.TOO_MANY_PARAMETERS: f"The query string has more than {PARAMETERS_MAX} parameters.",
    ParameterCode.UNKNOWN_PARAMETER: "The path has no parameter of that name.",
    ParameterCode.REPEATED_PARAMETER: "A parameter that takes one value was given more than once.",
    ParameterCode.MISSING_PARAMETER: "A required parameter is absent or empty.",
    ParameterCode.NOT_A_CURSOR: "A cursor is not one that the server gave out.",
    ParameterCode.NOT_A_NUMBER: "A number is not written in plain decimal digits.",
    ParameterCode.OUT_OF_RANGE: "A number is below or above what it may be.",
    ParameterCode.NOT_A_TIMESTAMP: "A time is not an ISO 8601 date and time.",
    ParameterCode.NOT_A_CHOICE: "A value is not one of those that the parameter takes.",
    ParameterCode.NOT_TOGETHER: "Two parameters contradict each other.",
}


class Parameters:
    """The parameters of one request.

    Its methods note what is wrong and go on, so that the sender learns of everything at once; `check` then raises
    InvalidParameter. An empty value counts as not given only for `names`.
    """

    def __init__(self, query_string: bytes, *, single: Sequence[str] = (), repeatable: Sequence[str] = ()) -> None:
        self.violations: list[Violation] = []
        self._known = (*repeatable, *single)
        self._values: dict[str, list[str]] = {}
        for place, (name, value) in enumerate(_decoded(query_string), start=1):
            if name not in self._known:
                self.note("", ParameterCode.UNKNOWN_PARAMETER, self._unknown_detail(place, name))
            elif name in self._values and name not in repeatable:
                self.note(name, ParameterCode.REPEATED_PARAMETER, f"{name} may be given once.")
            else:
                self._values.setdefault(name, []).append(value)

    def note(self, name: str, code: ParameterCode, detail: str) -> None:
        self.violations.append(Violation(name, code, detail))

    def check(self) -> None:
        if self.violations:
            detail = "See errors." if len(self.violations) > 1 else self.violations[0].detail
            raise InvalidParameter(detail, violations=self.violations)

    def given(self, name: str) -> str | None:
        values = self._values.get(name)
        return values[0] if values else None

    def names(self, name: str, bytes_max: int) -> tuple[str, ...]:
        """Every value that is not empty; each must be one that an event may have."""
        chosen = tuple(dict.fromkeys(value for value in self._values.get(name, ()) if value))
        for value in chosen:
            if not are_names([value], bytes_max):
                self.violations.append(_broken_name(value, bytes_max, name))
        return chosen

    def name(self, name: str, bytes_max: int) -> str | None:
        chosen = self.names(name, bytes_max)
        return chosen[0] if chosen else None

    def required_name(self, name: str, bytes_max: int) -> str:
        chosen = self.name(name, bytes_max)
        if chosen is None and not any(violation.pointer == name for violation in self.violations):
            self.note(name, ParameterCode.MISSING_PARAMETER, f"{name} is required.")
        return chosen or ""

    def cursor(self, name: str) -> int | None:
        text = self.given(name)
        if text is None:
            return None
        if _CURSOR.fullmatch(text) and int(text) <= OFFSET_MAX:
            return int(text)
        detail = f"{name} must be a cursor that the server gave out: an offset, or what a Link header says."
        self.note(name, ParameterCode.NOT_A_CURSOR, detail)
        return None

    def number(self, name: str, low: int, high: int) -> int | None:
        text = self.given(name)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text):
            self.note(name, ParameterCode.NOT_A_NUMBER, f"{name} must be a number from {low} to {high}.")
        elif low <= int(text) <= high:
            return int(text)
        else:
            self.note(name, ParameterCode.OUT_OF_RANGE, f"{name} must be from {low} to {high}.")
        return None

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        text = self.given(name)
        if text is None or text in choices:
            return text
        self.note(name, ParameterCode.NOT_A_CHOICE, f"{name} must be {' or '.join(choices)}.")
        return None

    def flag(self, name: str) -> bool | None:
        chosen = self.choice(name, _FLAG_WORDS)
        return None if chosen is None else chosen in _TRUE_WORDS

    def instant_us(self, name: str) -> int | None:
        """A time as microseconds since 1970 UTC."""
        text = self.given(name)
        instant = None if text is None else parse_instant_us(text)
        if text is not None and instant is None:
            detail = f"{name} must be ISO 8601, such as 2024-01-01T00:00:00Z."
            if " " in text:
                detail += " In a query string a plus sign is written %2B."
            self.note(name, ParameterCode.NOT_A_TIMESTAMP, detail)
        return instant

    def _unknown_detail(self, place: int, name: str) -> str:
        detail = f"Parameter {place} of the query is not known here."
        meant = _MEANT.get(name.casefold())
        like = [meant] if meant in self._known else difflib.get_close_matches(name.casefold()[:40], self._known, n=1)
        if like:
            detail += f" Did you mean {like[0]}?"
        return f"{detail} Known: {', '.join(self._known)}." if self._known else f"{detail} The path takes none."


def _broken_name(value: str, bytes_max: int, parameter: str) -> Violation:
    """The first rule that a name, not empty, breaks."""
    if len(value.encode()) > bytes_max:
        return Violation(parameter, ItemCode.TOO_LONG, f"{parameter} may have {bytes_max} bytes of UTF-8.")
    if CONTROL.search(value):
        return Violation(parameter, ItemCode.CONTROL_CHARACTER, f"{parameter} holds a control character.")
    detail = f"{parameter} must not begin or end with white space."
    return Violation(parameter, ItemCode.SURROUNDING_WHITESPACE, detail)


def _decoded(query_string: bytes) -> list[tuple[str, str]]:
    try:
        text = query_string.decode("utf-8")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except UnicodeDecodeError:
        code, detail = ParameterCode.NOT_UTF8, "The query string is not UTF-8 once percent-decoded."
    except ValueError:
        code, detail = ParameterCode.TOO_MANY_PARAMETERS, f"A query string may have {PARAMETERS_MAX} parameters."
    raise InvalidParameter(detail, violations=[Violation("", code, detail)])


def parse_instant_us(text: str) -> int | None:
    """Microseconds since 1970 UTC of what an event's timestamp may be; None when it may not. No offset means UTC."""
    if not is_timestamp(text):
        return None
    leap = timedelta()
    if text.endswith("z"):
        text = text[:-1] + "Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(_LEAP_SECOND.sub(r"\g<1>59", text, count=1))
        except ValueError:
            return None
        leap = timedelta(seconds=1)
    since_epoch = moment.replace(tzinfo=None) - _EPOCH - (moment.utcoffset() or timedelta()) + leap
    return since_epoch // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class EventsRequest:
    """What GET /events is asked for. `kept` are the parameters that the next page repeats, as sent."""

    query: ReadQuery
    is_ndjson: bool
    kept: tuple[tuple[str, str], ...]

    def next_link(self, path: str, last_offset: int) -> bytes:
        """The value of a Link header that leads on from the event at `last_offset`."""
        cursor = ("before" if self.query.descending else "after", str(last_offset))
        return link_to_next(path, [*self.kept, cursor])


def link_to_next(path: str, parameters: Sequence[tuple[str, str]]) -> bytes:
    """`</events?...>; rel="next"` (RFC 8288)."""
    return f'<{quote(path)}?{urlencode(parameters, quote_via=quote, safe="")}>; rel="next"'.encode("ascii")


def parse_events_request(query_string: bytes, headers: Mapping[str, str], limit_max: int) -> EventsRequest:
    """Raises InvalidParameter naming everything that is wrong."""
    single = ("after", "before", "order", "limit", "since", "until", "source", "format")
    parameters = Parameters(query_string, repeatable=("topic",), single=single)
    descending = parameters.choice("order", ("asc", "desc")) == "desc"
    before = parameters.cursor("before")
    if parameters.given("before") is not None and not descending:
        parameters.note("before", ParameterCode.NOT_TOGETHER, "before needs order=desc; use after to read upwards.")
    query = ReadQuery(
        topics=parameters.names("topic", TOPIC_BYTES_MAX),
        source=parameters.name("source", SOURCE_BYTES_MAX),
        after=parameters.cursor("after") or 0,
        before=before,
        since_us=parameters.instant_us("since"),
        until_us=parameters.instant_us("until"),
        descending=descending,
        limit=parameters.number("limit", 1, limit_max),
    )
    wanted = parameters.choice("format", ("json", "ndjson"))
    parameters.check()
    kept = [("topic", topic) for topic in query.topics]
    moving = "before" if descending else "after"
    kept += [(name, text) for name in single if name != moving and (text := parameters.given(name))]
    is_ndjson = prefers_ndjson(headers.get("accept", "")) if wanted is None else wanted == "ndjson"
    return EventsRequest(query, is_ndjson, tuple(kept))


def parse_event_request(query_string: bytes) -> tuple[str, str]:
    """Topic and event_id of GET /event. Raises InvalidParameter."""
    parameters = Parameters(query_string, single=("topic", "event_id"))
    topic = parameters.required_name("topic", TOPIC_BYTES_MAX)
    event_id = parameters.required_name("event_id", EVENT_ID_BYTES_MAX)
    parameters.check()
    return topic, event_id


def prefers_ndjson(accept: str) -> bool:
    """Whether an Accept header (RFC 9110, 12.5.1) ranks newline-delimited JSON above JSON."""
    weights = accept_weights(accept)
    lines = max((weights.get(media_type, 0.0) for media_type in NDJSON_MEDIA_TYPES), default=0.0)
    return lines > weights.get("application/json", 0.0)


def accept_weights(accept: str) -> dict[str, float]:
    """The media ranges of an Accept header and their weights; a weight that is no number counts as 0."""
    weights: dict[str, float] = {}
    for part in accept.split(",")[:50]:
        media_range, *options = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for option in options:
            if option.startswith("q="):
                try:
                    weight = float(option[2:])
                except ValueError:
                    weight = 0.0
        weights[media_range] = weight
    return weights
