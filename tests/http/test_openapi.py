"""The description says what is so: every route, every error, examples that fit, answers that fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from starlette.routing import BaseRoute

from sekali.errors import TryAgain
from sekali.http import openapi
from sekali.http.app import create_app
from sekali.http.error_guide import ERRORS_BY_CODE, ends_process
from sekali.wire.native import DecodeLimits, decode_publish, decode_seen
from tests.support.publishing import event, publish

DOCUMENT = json.loads(json.dumps(openapi.document()))
UNDESCRIBED = {"/favicon.ico", "/docs/{file}"}
"""Parts of pages."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def all_routes(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        # Newer FastAPI keeps an included router whole; older copies its routes.
        yield from all_routes(getattr(getattr(route, "original_router", None), "routes", []))
        for method in getattr(route, "methods", None) or ():
            yield method, route.path  # type: ignore[attr-defined]


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """References lead into the description's components."""
    return Draft202012Validator(
        {**schema, "components": DOCUMENT["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


def contents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body described, of requests and answers, with where it stands."""
    for method, path, operation in operations():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{method} {path} {media_type}", content
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                yield f"{method} {path} {status} {media_type}", content


def test_every_route_is_described_and_every_description_is_a_route() -> None:
    served = {(method, path) for method, path in all_routes(create_app().router.routes) if path not in UNDESCRIBED}
    described = {(method, path) for method, path, _ in operations()}
    heads = {("HEAD", path) for method, path in described if method == "GET"}
    assert served == described | heads


def test_every_error_of_a_description_is_an_error_class_with_that_status() -> None:
    for method, path, operation in operations():
        for status, answer in operation["responses"].items():
            if status == "200":
                continue
            content = answer["content"]["application/problem+json"]
            codes = content["schema"]["allOf"][1]["properties"]["code"]["enum"]
            assert codes, (method, path, status)
            assert {str(ERRORS_BY_CODE[code].status) for code in codes} == {status}
            assert list(content["examples"]) == codes
            again = any(issubclass(ERRORS_BY_CODE[code], TryAgain) for code in codes)
            assert ("Retry-After" in answer.get("headers", {})) == again


def test_every_error_that_is_answered_is_described_somewhere() -> None:
    described = {
        code
        for _, _, operation in operations()
        for answer in operation["responses"].values()
        for code in answer["content"].get("application/problem+json", {}).get("examples", {})
    }
    answered = {code for code, error in ERRORS_BY_CODE.items() if not ends_process(error)}
    anywhere = {"method_not_allowed", "head_too_large"}
    assert answered - described == anywhere, "an operation is never the wrong method, nor gets to see such a head"
    assert all(code in DOCUMENT["info"]["description"] for code in anywhere)


@pytest.mark.parametrize("content", [pytest.param(content, id=place) for place, content in contents()])
def test_every_example_fits_its_schema(content: dict[str, Any]) -> None:
    schema = content["schema"]
    validator_for(schema, default=Draft202012Validator).check_schema(schema)
    examples = [each["value"] for each in content.get("examples", {}).values()]
    examples += [content["example"]] if "example" in content else []
    for example in examples:
        validator(schema).validate(example)


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_schema_is_one_and_is_used(name: str) -> None:
    Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])
    assert f'"#/components/schemas/{name}"' in json.dumps(DOCUMENT)


def test_references_and_names_hold() -> None:
    text = json.dumps(DOCUMENT)
    for part in text.split('"$ref": "')[1:]:
        assert part.split('"')[0].removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == tags
    assert DOCUMENT["openapi"].startswith("3.1.")


def test_the_examples_of_requests_are_taken(client: TestClient) -> None:
    limits = DecodeLimits(batch_events_max=100, event_bytes_max=10_000, depth_max=10, body_bytes_max=100_000)
    for path, decode in (("/publish", decode_publish), ("/seen", decode_seen)):
        content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        examples = [each["value"] for each in content.get("examples", {}).values()] or [content["example"]]
        for example in examples:
            decode(json.dumps(example).encode(), limits)
            assert client.post(path, json=example).status_code == 200


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "/events"),
        ("GET", "/events?limit=2"),
        ("GET", "/events?limit=0"),
        ("GET", "/event?topic=alpha&event_id=e-1"),
        ("GET", "/event?topic=alpha&event_id=e-9"),
        ("GET", "/ledger"),
        ("GET", "/ledger?event_ids=false"),
        ("GET", "/ledger?after=17"),
        ("GET", "/stats"),
        ("GET", "/topics"),
        ("GET", "/healthz"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/errors"),
        ("GET", "/errors/invalid_event"),
        ("GET", "/errors/nope"),
        ("POST", "/publish"),
        ("POST", "/publish?receipts=true"),
        ("POST", "/publish?partial=true"),
        ("POST", "/publish?partial=true&receipts=false"),
        ("POST", "/seen"),
    ],
)
def test_a_real_answer_fits_its_description(client: TestClient, method: str, url: str) -> None:
    publish(client, event("e-1"), event("e-2", "beta"), event("e-1"), event("e-1", payload={"x": 2}))
    body = [event("e-1", payload={"x": 1}), event("e-3")] + ([{"topic": 1}] if "partial" in url else [])
    answer = client.request(
        method, url, headers={"accept": "application/json"}, json=body if method == "POST" else None
    )
    path = url.partition("?")[0]
    path = "/errors/{code}" if path.startswith("/errors/") else path
    described = DOCUMENT["paths"][path][method.lower()]["responses"][str(answer.status_code)]
    schema = described["content"][answer.headers["content-type"]]["schema"]
    validator(schema).validate(answer.json())


def test_receipts_come_as_their_parameters_are_described(client: TestClient) -> None:
    parameters = {each["name"]: each for each in DOCUMENT["paths"]["/publish"]["post"]["parameters"]}
    assert "default" not in parameters["receipts"]["schema"], "it depends on partial"
    assert "receipts=false" in parameters["partial"]["description"]
    for query, has_receipts in (("", False), ("receipts=true", True), ("partial=true", True)):
        assert ("receipts" in client.post(f"/publish?{query}", json=[event("e-1")]).json()) == has_receipts
    assert "receipts" not in client.post("/publish?partial=true&receipts=false", json=[event("e-1")]).json()


def test_the_document_is_served_and_knows_where_it_is_mounted(client: TestClient) -> None:
    served = client.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.headers["x-content-type-options"] == "nosniff"
    assert served.json() == DOCUMENT == json.loads(json.dumps(create_app().openapi()))
    mounted = TestClient(client.app, root_path="/logs").get("/openapi.json").json()
    assert mounted["servers"] == [{"url": "/logs"}]
    assert "servers" not in client.get("/openapi.json").json()
