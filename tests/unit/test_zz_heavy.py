"""The fast path, the exact path and a plain model of the event rules give the same answers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sekali.errors import EventTooLarge, InvalidEvent, NotJson, RequestRefused, TooManyEvents, Violation
from sekali.event import EventBatch
from sekali.wire import native
from sekali.wire.native import DecodeLimits, decode_publish

LIMITS = DecodeLimits(batch_events_max=8, event_bytes_max=2048, depth_max=6, body_bytes_max=64 * 1024)
FIELDS = ("topic", "event_id", "timestamp", "source", "payload")
NAME_BYTES_MAX = {"topic": 255, "event_id": 255, "source": 1024}


class Members(list[tuple[str, object]]):
    """A JSON object as json.loads met it: repeated members and all."""


@dataclass(frozen=True)
class Number:
    text: str


# --- the model: the rules as product.md says them, on the values that json.loads gives ---


def model_codes(item: object, item_text: str, pointer: str) -> list[tuple[str, str]]:
    """(pointer, code) of every rule the item breaks."""
    if len(item_text.encode()) > LIMITS.event_bytes_max:
        return [(pointer, "event_too_large")]
    if not isinstance(item, Members):
        return [(pointer, "not_an_object")]
    values = dict(item)
    is_event = any(field in values for field in FIELDS)
    if not pointer and not is_event and any(type(value) is list for value in values.values()):
        return [(pointer, "wrapped_batch")]
    codes = []
    for name, count in Counter(name for name, _ in item).items():
        if count > 1:
            known = name in FIELDS or name in ("offset", "received_at")
            codes.append((f"{pointer}/{name}" if known else pointer, "repeated_member"))
    if levels(item) > LIMITS.depth_max:
        codes.append((pointer, "too_deep"))
    for field in FIELDS:
        codes += [(f"{pointer}/{field}", code) for code in field_codes(field, values)]
    return codes


def field_codes(field: str, values: dict[str, object]) -> list[str]:
    if field not in values:
        return ["missing_field"]
    value = values[field]
    if field == "payload":
        return [] if isinstance(value, Members) else ["not_an_object"]
    if not isinstance(value, str):
        return ["wrong_type"]
    has_control = any(unicodedata.category(character) == "Cc" for character in value)
    if field == "timestamp":
        return ["control_character"] if has_control else [] if is_model_timestamp(value) else ["not_a_timestamp"]
    if not value:
        return ["empty"]
    codes = ["too_long"] if len(value.encode()) > NAME_BYTES_MAX[field] else []
    codes += ["control_character"] if has_control else []
    codes += ["surrounding_whitespace"] if value[0].isspace() or value[-1].isspace() else []
    return codes


def is_model_timestamp(text: str) -> bool:
    if re.search(r"T24", text):
        return False
    for candidate in (text, re.sub(r"(T\d\d:\d\d):60", r"\1:59", re.sub("z$", "Z", text))):
        try:
            datetime.fromisoformat(candidate)
        except ValueError:
            continue
        return True
    return False


def levels(value: object) -> int:
    if isinstance(value, Members):
        return 1 + max((levels(child) for _, child in value), default=0)
    return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0


def parse(text: str) -> object:
    return json.loads(text, object_pairs_hook=Members, parse_int=Number, parse_float=Number)


# --- bodies ---

white_space = st.sampled_from(["", "", "", "", " ", "\n", "\r\n\t  ", " " * 30])
characters = st.sampled_from(
    [*"ab1/:. '", '"', "\\", "\u00e9", "\u0301", "\U0001f33a", "\u2028", "\u00a0", "\u202e", "\x85", "\0", "\n", "\x7f"]
)
names = st.one_of(
    st.sampled_from(
        [
            "a",
            "orders",
            "e-1",
            "",
            " a",
            "a ",
            "\u00a0a",
            "topic",
            "a" * 255,
            "a" * 256,
            "\U0001f33a" * 63,
            "\U0001f33a" * 64,
        ]
    ),
    st.text(characters, max_size=6),
)
timestamps = st.sampled_from(
    [
        "2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00.123456789+05:30",
        "2024-01-01",
        "2024-01-01T00:00:00z",
        "2016-12-31T23:59:60Z",
        "0001-01-01T00:00:00+23:59",
        "2024-01-01T24:00:00",
        "2024-02-30T00:00:00Z",
        "2024-01-01\n00:00:00",
        "2024-01-01\u00a000:00:00",
        "2024-01-01T00:00:60+05:00:60",
        "",
        "now",
    ]
)


@st.composite
def json_strings(draw: st.DrawFn, texts: st.SearchStrategy[str] = names) -> str:
    """A JSON string literal, some characters of it escaped though they need not be."""
    text = draw(texts)
    if draw(st.integers(0, 9)):
        return json.dumps(text, ensure_ascii=draw(st.booleans()))
    return '"' + "".join(f"\\u{unit:04x}" for unit in utf16(text)) + '"'


def utf16(text: str) -> list[int]:
    data = text.encode("utf-16-be")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


scalars = st.one_of(st.sampled_from(["0", "-1.50", "1E400", "true", "null", '"[{"', '"}]"', '"\\""']), json_strings())


@st.composite
def objects_of(draw: st.DrawFn, children: st.SearchStrategy[str]) -> str:
    space = draw(white_space)
    found = draw(st.lists(st.tuples(keys, children), max_size=3))
    return "{" + f",{space}".join(f"{key}{space}:{space}{child}" for key, child in found) + "}"


@st.composite
def arrays_of(draw: st.DrawFn, children: st.SearchStrategy[str]) -> str:
    space = draw(white_space)
    return f"[{space}" + f"{space},".join(draw(st.lists(children, max_size=3))) + "]"


keys = st.one_of(json_strings(), st.sampled_from(['"topic"', '"a"', '"event_id"', '"offset"']))
values = st.recursive(scalars, lambda children: objects_of(children) | arrays_of(children), max_leaves=6)
objects = st.one_of(
    st.just("{}"),
    objects_of(values),
    st.integers(3, 8).map(lambda n: '{"a":' + "[" * n + "]" * n + "}"),
)


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, str]]:
    """The members of one event, mostly good, in any order, as JSON text."""
    good_names = st.text("abc-", min_size=1, max_size=6)
    good = draw(st.booleans())
    texts = good_names if good else names
    found = [
        ('"topic"', draw(json_strings(texts))),
        ('"event_id"', draw(json_strings(texts))),
        ('"timestamp"', draw(json_strings(st.just("2024-01-01T00:00:00Z") if good else timestamps))),
        ('"source"', draw(json_strings(texts))),
        ('"payload"', draw(st.one_of(st.just('{"a":1}'), objects))),
    ]
    if not draw(st.integers(0, 4)):
        found.pop(draw(st.integers(0, 4)))
    if not draw(st.integers(0, 4)):
        found[draw(st.integers(0, len(found) - 1))] = (
            draw(st.sampled_from(['"source"', '"t\\u006fpic"'])),
            draw(values),
        )
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        key = draw(
            st.sampled_from(
                ['"x"', '"\\u0078"', '"offset"', '"received_at"', '"topic"', '"event\\u005Fid"', '"payload"']
            )
        )
        found.append((key, draw(values)))
    if not draw(st.integers(0, 9)):
        found.append(('"pad"', '"' + "x" * draw(st.integers(1900, 2100)) + '"'))
    return draw(st.permutations(found)) if draw(st.booleans()) else found


@st.composite
def events(draw: st.DrawFn) -> str:
    colon, comma = draw(st.sampled_from([(":", ","), (":", ","), (": ", ", "), (" :\n", " , ")]))
    return "{" + comma.join(f"{key}{colon}{value}" for key, value in draw(members())) + "}"


items = st.integers(0, 14).flatmap(lambda n: events() if n else values)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, list[str], bool]:
    """(the body, its items, whether it is one object)."""
    if not draw(st.integers(0, 4)):
        item = draw(events())
        return draw(white_space) + item + draw(white_space), [item], True
    found = draw(st.lists(items, max_size=9))
    comma = draw(st.sampled_from([",", ", ", "\n,"]))
    return draw(white_space) + "[" + comma.join(found) + draw(white_space) + "]", found, False


# --- the comparisons ---


class Refusal(NamedTuple):
    code: str
    detail: str
    violations: tuple[Violation, ...]
    total: int


def outcome(body: bytes, *, partial: bool = False, exact: bool = False) -> EventBatch | Refusal:
    try:
        if not exact:
            return decode_publish(body, LIMITS, partial=partial)
        return native.decode_by_items(body, native.check_root(body, LIMITS), LIMITS, partial=partial)
    except RequestRefused as error:
        return Refusal(error.code, error.detail, error.violations, error.violations_total)


def refusal(found: EventBatch | Refusal) -> Refusal:
    assert isinstance(found, Refusal), "accepted"
    return found


def rows(batch: EventBatch) -> list[tuple[object, ...]]:
    extras = batch.extras or [b""] * len(batch)
    return list(
        zip(batch.topics, batch.event_ids, batch.timestamps, batch.sources, batch.payloads, extras, strict=True)
    )


@given(bodies())
@settings(max_examples=3000)
def test_both_paths_keep_the_rules_of_the_model(body: tuple[str, list[str], bool]) -> None:
    text, item_texts, is_single = body
    pointers = [""] if is_single else [f"/{index}" for index in range(len(item_texts))]
    broken = [model_codes(parse(item), item, pointer) for item, pointer in zip(item_texts, pointers, strict=True)]
    flat = [pair for codes in broken for pair in codes]
    found = outcome(text.encode())
    assert found == outcome(text.encode(), exact=True)
    if len(item_texts) > LIMITS.batch_events_max:
        assert refusal(found).code == TooManyEvents.code
    elif any(code == "event_too_large" for _, code in flat):
        assert refusal(found).code == EventTooLarge.code
        assert [(v.pointer, v.code) for v in refusal(found).violations] == [
            pair for pair in flat if pair[1] == "event_too_large"
        ]
    elif flat:
        assert refusal(found).code == InvalidEvent.code
        assert sorted((v.pointer, v.code) for v in refusal(found).violations) == sorted(flat)
        assert refusal(found).total == len(flat)
    else:
        assert isinstance(found, EventBatch)
        assert [taken_by_model(item) for item in item_texts] == [taken(row) for row in rows(found)]


def taken(row: tuple[object, ...]) -> tuple[object, ...]:
    *texts, payload, extras = row
    assert isinstance(payload, bytes)
    assert isinstance(extras, bytes)
    return (*texts, parse(payload.decode()), dict(parse("{" + extras.decode() + "}")))


def taken_by_model(item: str) -> tuple[object, ...]:
    parsed = dict(parse(item))
    fields = [parsed.pop(field) for field in FIELDS]
    return (*fields, {name: value for name, value in parsed.items() if name not in ("offset", "received_at")})


@given(bodies())
@settings(max_examples=3000)
def test_partial_takes_what_would_be_taken_alone_and_rejects_the_rest(body: tuple[str, list[str], bool]) -> None:
    text, item_texts, is_single = body
    if is_single or len(item_texts) > LIMITS.batch_events_max:
        assert outcome(text.encode(), partial=True) == outcome(text.encode())
        return
    alone = [outcome(f"[{item}]".encode()) for item in item_texts]
    batch = decode_publish(text.encode(), LIMITS, partial=True)
    assert batch == outcome(text.encode(), partial=True, exact=True)
    assert rows(batch) == [row for found in alone if isinstance(found, EventBatch) for row in rows(found)]
    assert [(r.index, r.code) for r in batch.rejections] == [
        (index, found.violations[0].code) for index, found in enumerate(alone) if isinstance(found, Refusal)
    ]


@given(
    st.lists(st.tuples(*[st.text("abc \u00e9", max_size=9).map(lambda text: "a" + text.strip())] * 3), max_size=8),
    st.booleans(),
)
def test_ordinary_batches_take_the_fast_path(names: list[tuple[str, str, str]], spaced: bool) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    events = [
        {
            "topic": topic,
            "event_id": event_id,
            "timestamp": "2024-01-01T00:00:00Z",
            "source": source,
            "payload": {"n": [1]},
        }
        for topic, event_id, source in names
    ]
    body = json.dumps(events, separators=separators, ensure_ascii=False).encode()
    batch = native.decode_by_columns(body, b"[", LIMITS)
    assert batch is not None
    assert list(zip(batch.topics, batch.event_ids, batch.sources, strict=True)) == names


GOOD = (
    b'[{"topic":"a","event_id":"b","timestamp":"2024-01-01T00:00:00Z","source":"c",'
    b'"payload":{"a":[1,"\\n\xc3\xa9",-0.5e1,null]}}]'
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(GOOD)), st.sampled_from([*b'{}[],:"\\019-+.eEtn\n \x00\xc3\xff', None]), st.booleans()
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=3000)
def test_a_damaged_body_is_json_for_sekali_exactly_when_it_is_for_python(
    edits: list[tuple[int, int | None, bool]],
) -> None:
    body = bytearray(GOOD)
    for place, byte, insert in edits:
        body[place : place + (not insert)] = b"" if byte is None else bytes([byte])
    found = outcome(bytes(body))
    assert (isinstance(found, Refusal) and found.code == NotJson.code) == (not is_strict_json(bytes(body)))


def is_strict_json(body: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.dumps(
            json.loads(body.decode("utf-8"), parse_constant=refuse, parse_int=Number, parse_float=Number),
            default=str,
            ensure_ascii=False,
        ).encode()
    except (ValueError, UnicodeError):
        return False
    return True


@pytest.mark.parametrize("extra", range(12))
def test_a_repeated_member_is_found_however_the_rest_is_spaced(extra: int) -> None:
    """Each smallest repeat, in bodies that are longer than compact by any few bytes."""
    event = '{"topic":"a","event_id":"b","timestamp":"2024-01-01","source":"c","payload":{}'
    for repeat in (
        '"topic":""',
        '"event_id":""',
        '"source":""',
        '"payload":1',
        '"timestamp":""',
        '"offset":1,"offset":1',
    ):
        for body in (f"{event},{repeat}{' ' * extra}}}", f"{{{repeat},{event[1:]}{' ' * extra}}}"):
            found = outcome(body.encode())
            assert refusal(found).code == InvalidEvent.code
            assert "repeated_member" in {violation.code for violation in refusal(found).violations}
            assert outcome(f"[{body}]".encode()) == outcome(f"[{body}]".encode(), exact=True)
