"""The examples of problems in the description are what the server answers, but for the numbers in them."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sekali.http import openapi
from sekali.http.error_guide import ERRORS_BY_CODE
from tests.http.conftest import MakeClient
from tests.serving import ROOT
from tests.support.publishing import event, publish

DOCUMENT = json.loads(json.dumps(openapi.document()))
JSON_TYPE = {"content-type": "application/json"}
NEVER_RAISED_YET = {"payload_gone"}


def examples() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, code and body of every example of a problem."""
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            for answer in operation["responses"].values():
                shown = answer["content"].get("application/problem+json", {}).get("examples", {})
                for code, example in shown.items():
                    yield path, code, example["value"]


EXAMPLES = {(path, code): body for path, code, body in examples()}


def without_numbers(body: dict[str, Any]) -> str:
    return re.sub(r"\d+", "0", json.dumps(body, sort_keys=True))


@cache
def texts_raised() -> dict[str, list[str]]:
    """For each error class the details it is made with anywhere in the source, as patterns: a value may be anything."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in (ROOT / "src" / "sekali").rglob("*.py"):
        if file.name == "openapi_problems.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name | ast.Attribute)):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            found[name].append(pattern_of(node.args[0]))
    return found


def pattern_of(text: ast.expr) -> str:
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts)


@pytest.mark.parametrize(("path", "code"), EXAMPLES)
def test_an_example_says_what_some_place_in_the_source_says(path: str, code: str) -> None:
    patterns = texts_raised()[ERRORS_BY_CODE[code].__name__]
    assert (not patterns) == (code in NEVER_RAISED_YET)
    detail = EXAMPLES[path, code]["detail"]
    assert not patterns or any(re.fullmatch(pattern, detail) for pattern in patterns), detail


@pytest.mark.parametrize(
    ("method", "url", "request_", "code"),
    [
        ("POST", "/publish", {"content": b'{"topic":"alpha",}', "headers": JSON_TYPE}, "not_json"),
        ("POST", "/publish", {"json": "alpha"}, "wrong_root"),
        ("POST", "/publish", {"json": [{}] * 12}, "too_many_events"),
        ("POST", "/publish", {"json": [{"payload": {"x": "x" * 1024}}]}, "event_too_large"),
        ("POST", "/publish", {"json": [{"x": "x" * 4096}]}, "body_too_large"),
        ("POST", "/publish", {"content": b"[]", "headers": {"content-type": "text/plain"}}, "unsupported_media_type"),
        ("POST", "/publish", {"json": [], "headers": {"content-encoding": "gzip"}}, "unsupported_encoding"),
        ("POST", "/publish?receipts=yes", {"json": []}, "invalid_parameter"),
        ("POST", "/publish", {"json": [{k: v for k, v in event("e").items() if k != "event_id"}]}, "invalid_event"),
        ("POST", "/publish", {"json": [event("e", "another topic")]}, "too_many_topics"),
        ("POST", "/seen", {"json": [{"topic": "alpha"}]}, "invalid_event"),
        ("POST", "/seen", {"json": [{"payload": {"x": "x" * 1024}}]}, "event_too_large"),
        ("POST", "/seen?page=2", {"json": []}, "invalid_parameter"),
        ("GET", "/events?limit=0", {}, "invalid_parameter"),
        ("GET", "/event?topic=alpha", {}, "invalid_parameter"),
        ("GET", "/event?topic=alpha&event_id=e-9", {}, "event_not_found"),
        ("GET", "/ledger?after=17", {}, "invalid_parameter"),
        ("GET", "/stats?page=2", {}, "invalid_parameter"),
        ("GET", "/topics?page=2", {}, "invalid_parameter"),
        ("GET", "/errors/nope", {}, "not_found"),
    ],
)
def test_an_example_is_the_answer_to_a_real_request(
    make_client: MakeClient, method: str, url: str, request_: dict[str, Any], code: str
) -> None:
    client: TestClient = make_client(batch_events_max=10, event_bytes_max=1024, body_bytes_max=4096, topics_max=1)
    publish(client, event("e-1"))
    answer = client.request(method, url, **request_)
    path = "/errors/{code}" if url.startswith("/errors/") else url.partition("?")[0]
    assert without_numbers(answer.json()) == without_numbers(EXAMPLES[path, code])


def test_the_examples_name_the_default_limits() -> None:
    assert "33554432 bytes" in EXAMPLES["/publish", "body_too_large"]["detail"]
    assert "50000 items" in EXAMPLES["/seen", "too_many_events"]["detail"]
