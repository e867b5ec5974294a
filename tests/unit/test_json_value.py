"""When two JSON texts say the same."""

from __future__ import annotations

import json
import time
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekali.json_value import same_json_value

SAME = [
    ("{}", "{ }"),
    ('{"a":1,"b":[1,2]}', ' {\n"b" : [1, 2] ,"a":1}\t'),
    ('{"a":1}', '{"\\u0061":1}'),
    ('["\\/","\\u00e9","\\n","\\ud83c\\udf3a","\\u007f"]', '["/","\u00e9","\\u000a","\U0001f33a","\x7f"]'),
    ('{"a":1,"b":3,"a":2}', '{"b":3,"a":1,"a":2}'),
    ('{"a":{"x":[],"y":{}}}', '{"a":{"y":{},"x":[]}}'),
    ('[{"a":1},{"a":1}]', '[{"a":1}, {"a":1}]'),
]
DIFFERENT = [
    ("{}", "[]"),
    ("[]", "[[]]"),
    ("[[],[]]", "[[[]]]"),
    ('["1"]', "[1]"),
    ('["true"]', "[true]"),
    ("[null]", "[false]"),
    ("[1,2]", "[2,1]"),
    ("[1]", "[1,1]"),
    ("[1.0]", "[1]"),
    ("[1.10]", "[1.1]"),
    ("[0]", "[-0]"),
    ("[1e2]", "[1E2]"),
    ("[9007199254740993]", "[9007199254740992]"),
    ('{"a":1,"a":2}', '{"a":2,"a":1}'),
    ('{"a":1,"a":1}', '{"a":1}'),
    ('{"a":1,"b":2}', '{"a":2,"b":1}'),
    ('{"a":"b"}', '{"b":"a"}'),
    ('["a","b"]', '{"a":"b"}'),
    ('["e\u0301"]', '["\u00e9"]'),
    ('["A"]', '["a"]'),
    ('["\\\\n"]', '["\\n"]'),
    ('["\\ud83c"]', '["\\udf3a"]'),
    ('{"":1}', '{" ":1}'),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_these_say_the_same(one: str, other: str) -> None:
    assert same_json_value(one.encode(), other.encode())
    assert same_json_value(other.encode(), one.encode())


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_these_differ(one: str, other: str) -> None:
    assert not same_json_value(one.encode(), other.encode())
    assert not same_json_value(other.encode(), one.encode())


class Members(list[tuple[str, object]]):
    """An object as json.loads met it."""


def model(text: str) -> object:
    """The value of `text`, with objects as dicts from a name to the list of its values, and numbers as text."""

    def members(pairs: list[tuple[str, object]]) -> object:
        values = defaultdict(list)
        for name, value in pairs:
            values[name].append(value)
        return dict(values)

    def number(digits: str) -> object:
        return ("number", digits)

    return json.loads(text, object_pairs_hook=members, parse_int=number, parse_float=number)


names = st.sampled_from(["a", "b", "\u00e9", '"'])
scalars = st.sampled_from(["0", "1", "1.0", "true", "null", '"a"', '"\\u0061"', '"\\\\"', '""'])


@st.composite
def texts(draw: st.DrawFn, children: st.SearchStrategy[str]) -> str:
    space = draw(st.sampled_from(["", " ", "\r\n"]))
    found = draw(st.lists(children, max_size=3))
    if draw(st.booleans()):
        return "[" + f",{space}".join(found) + f"{space}]"
    ascii_only = draw(st.booleans())
    return "{" + ",".join(f"{json.dumps(draw(names), ensure_ascii=ascii_only)}:{space}{item}" for item in found) + "}"


values = st.recursive(scalars, texts, max_leaves=6)


@given(values, values)
def test_any_two_texts_compare_as_in_the_model(one: str, other: str) -> None:
    assert same_json_value(one.encode(), other.encode()) == (model(one) == model(other))


@given(values, st.randoms())
def test_a_rewritten_text_says_the_same(text: str, rng) -> None:
    def rewritten(value: object) -> str:
        if isinstance(value, Members):
            groups = defaultdict(list)
            for name, item in value:
                groups[name].append(item)
            order = [name for name, _ in value]
            rng.shuffle(order)
            return "{ " + " , ".join(f"{json.dumps(name)} : {rewritten(groups[name].pop(0))}" for name in order) + " }"
        if isinstance(value, list):
            return "[ " + " , ".join(map(rewritten, value)) + " ]"
        return value[1] if isinstance(value, tuple) else json.dumps(value)

    def number(digits: str) -> object:
        return ("number", digits)

    parsed = json.loads(text, object_pairs_hook=Members, parse_int=number, parse_float=number)
    assert same_json_value(text.encode(), rewritten(parsed).encode())


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'{"a":1,"a":', b"}")])
def test_the_deepest_payload_is_compared_also_far_down_the_stack(opening: bytes, closing: bytes) -> None:
    deep = opening * 511 + b"[7]" + closing * 511

    def compare(frames: int) -> tuple[bool, bool]:
        if frames:
            return compare(frames - 1)
        return same_json_value(deep, deep + b" "), same_json_value(deep, deep.replace(b"7", b"8"))

    assert compare(200) == (True, False)


HOSTILE = {
    "many-members": lambda n: b"{" + b",".join(b'"%d":1' % i for i in range(n)) + b"}",
    "one-name-repeated": lambda n: b"{" + b",".join([b'"a":1'] * n) + b"}",
    "many-items": lambda n: b"[" + b"1," * n + b"1]",
    "many-empty-arrays": lambda n: b"[" + b"[]," * n + b"1]",
    "many-backslashes": lambda n: b'["' + b"\\\\" * n + b'"]',
    "deep": lambda n: b"[" + b",".join([b"[" * 500 + b"]" * 500] * (n // 500)) + b"]",
    "long-number": lambda n: b"[" + b"7" * n + b"]",
}


@pytest.mark.parametrize("shape", HOSTILE)
def test_the_time_grows_with_the_text_alone(shape: str) -> None:
    """Eight times the text may take some eight times as long; a quadratic comparison would take 64 times."""

    def seconds(n: int) -> float:
        text = HOSTILE[shape](n)
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            assert same_json_value(text, text + b" ")
            best = min(best, time.thread_time() - start)
        return best

    # A busy machine may spoil a try or two, but does not make a quadratic one look linear.
    assert any(seconds(32_000) < 24 * seconds(4_000) + 0.02 for _ in range(5))
