"""Every failure is a problem document, and every code is explained."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from sekali import errors
from sekali.client.retry import may_pass
from sekali.errors import SekaliError, TryAgain, Violation
from sekali.http import problems
from sekali.http.error_guide import ERRORS_BY_CODE, EXPLANATIONS, RULES_BY_CODE, ends_process, explained, server_errors
from sekali.http.params import PARAMETER_CODE_MEANINGS, ParameterCode
from sekali.wire.rules import ITEM_CODE_MEANINGS, ItemCode


def with_own_code() -> Iterator[type[SekaliError]]:
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, SekaliError) and "code" in vars(error) and error is not SekaliError:
            yield error


@pytest.fixture
def raising() -> FastAPI:
    """An app of somebody, with our handlers: `/raise` raises what a test puts into its state."""
    app = FastAPI()
    problems.install(app)

    @app.get("/raise")
    async def raise_it() -> None:
        raise app.state.error

    @app.get("/checked")
    async def checked(number: int) -> int:
        return number

    return app


def answer_to(app: FastAPI, error: Exception) -> httpx2.Response:
    app.state.error = error
    answer = TestClient(app, raise_server_exceptions=False).get("/raise")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    return answer


@pytest.mark.parametrize("error", list(with_own_code()), ids=lambda error: error.code)
def test_every_error_is_a_problem_document(raising: FastAPI, error: type[SekaliError]) -> None:
    answer = answer_to(raising, error("What is wrong, and what mends it."))
    assert answer.status_code == error.status
    assert answer.json() == {
        "type": f"/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": "What is wrong, and what mends it.",
        "code": error.code,
    }
    assert ("retry-after" in answer.headers) == issubclass(error, TryAgain)


def test_retry_after_is_at_least_a_second_and_as_told(raising: FastAPI) -> None:
    assert answer_to(raising, errors.Overloaded("x")).headers["retry-after"] == "1"
    assert answer_to(raising, errors.Overloaded("x", retry_after_s=0)).headers["retry-after"] == "1"
    assert answer_to(raising, errors.DiskFull("x", retry_after_s=30)).headers["retry-after"] == "30"
    assert answer_to(raising, errors.TooManyTopics("x", retry_after_s=7)).headers["retry-after"] == "7"


def test_the_first_hundred_violations_are_listed_and_all_are_counted(raising: FastAPI) -> None:
    violations = [Violation(f"/{i}/topic", "empty", "topic must not be empty.") for i in range(250)]
    document = answer_to(raising, errors.InvalidEvent("See errors.", violations=violations)).json()
    assert document["errors_total"] == 250
    assert len(document["errors"]) == 100
    assert document["errors"][99] == {"pointer": "/99/topic", "code": "empty", "detail": "topic must not be empty."}
    few = errors.InvalidEvent("See errors.", violations=violations[:1], violations_total=31)
    assert answer_to(raising, few).json()["errors_total"] == 31


def test_an_unforeseen_error_leaks_nothing(raising: FastAPI) -> None:
    answer = answer_to(raising, ZeroDivisionError("/secret/path: division by zero"))
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "Zero" not in answer.text


def test_an_unforeseen_error_reaches_the_server_which_logs_it(raising: FastAPI) -> None:
    raising.state.error = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError):
        TestClient(raising).get("/raise")


def test_an_error_of_ours_is_logged_with_its_traceback(raising: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "sekali.http"):
        answer_to(raising, errors.StoreCorrupt("block 7"))
        answer_to(raising, errors.Overloaded("full"))
        answer_to(raising, errors.NotJson("no"))
    assert len(caplog.records) == 1
    assert caplog.records[0].exc_info is not None
    assert isinstance(caplog.records[0].exc_info[1], errors.StoreCorrupt)


def test_what_somebody_else_raises_stays_theirs(raising: FastAPI) -> None:
    answer = answer_to(raising, HTTPException(401, "Who are you?", headers={"WWW-Authenticate": "Bearer"}))
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Who are you?",
        "code": "http_401",
    }
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer_to(raising, HTTPException(499, {"not": "text"})).json()["detail"] == "Error"


def test_a_route_of_somebody_else_with_a_wrong_parameter_is_a_problem(raising: FastAPI) -> None:
    answer = TestClient(raising).get("/checked?number=secret")
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_parameter"
    assert answer.json()["errors"][0]["pointer"] == "/number"
    assert "secret" not in answer.text


def test_an_unknown_path_is_404_and_is_not_repeated(reader: TestClient) -> None:
    answer = reader.get("/nowhere/<script>")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "nowhere" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/publish/", "/publish"),
        ("POST", "/seen//", "/seen"),
        ("GET", "/events/?topic=a", "/events"),
        ("HEAD", "/stats/", None),
        ("GET", "/errors/", "/errors"),
        ("GET", "/errors/not_json/", None),
        ("GET", "/nowhere/", None),
    ],
)
def test_a_slash_at_the_end_is_404_that_names_the_path_without_it(
    reader: TestClient, method: str, path: str, meant: str | None
) -> None:
    for client in (reader, TestClient(reader.app, root_path="/logs")):
        answer = client.request(method, path, follow_redirects=False)
        assert answer.status_code == 404
        assert "location" not in answer.headers
        if method == "HEAD":
            continue
        assert answer.json()["code"] == "not_found"
        assert answer.json()["detail"].endswith(f"the slash at its end, {meant}." if meant else "lists what there is.")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/publish", "POST"),
        ("DELETE", "/events", "GET, HEAD"),
        ("POST", "/stats", "GET, HEAD"),
        ("OPTIONS", "/seen", "POST"),
        ("PUT", "/", "GET, HEAD"),
        ("POST", "/errors/not_json", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_allowed_is_405_with_allow(reader: TestClient, method: str, path: str, allow: str) -> None:
    answer = reader.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


# The explanations


def test_every_code_of_the_server_is_explained_and_no_other() -> None:
    codes = {error.code for error in with_own_code() if not issubclass(error, errors.ClientError)}
    assert {error.code for error in server_errors()} == codes
    assert set(EXPLANATIONS) == codes
    assert all(each.when.endswith(".") and each.remedy.endswith(".") for each in EXPLANATIONS.values())


def test_the_client_tries_again_exactly_what_the_server_says_may_pass() -> None:
    said = {code for code, error in ERRORS_BY_CODE.items() if explained(error)["try_again"]}
    assert said == {code for code, error in ERRORS_BY_CODE.items() if may_pass(error("x"))}
    assert {"overloaded", "outcome_unknown", "internal_error", "body_too_slow"} <= said
    assert said.isdisjoint({"invalid_event", "too_many_topics", "store_corrupt"})


def test_every_rule_has_a_meaning() -> None:
    assert set(PARAMETER_CODE_MEANINGS) == set(ParameterCode)
    assert set(ITEM_CODE_MEANINGS) == set(ItemCode)
    assert {code for rules in RULES_BY_CODE.values() for code in rules} == {
        *map(str, ItemCode),
        *map(str, ParameterCode),
    }


def test_every_type_leads_to_a_page(reader: TestClient) -> None:
    for code, error in ERRORS_BY_CODE.items():
        document = problems.problem_document(error("x"))
        page = reader.get(document["type"])
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert code in page.text
        assert error.title in page.text
        described: dict[str, Any] = reader.get(document["type"], headers={"accept": "application/json"}).json()
        assert described["code"] == code
        assert described["status"] == (None if ends_process(error) else error.status)
        assert described["try_again"] == error.may_pass


def test_the_list_of_errors_is_html_or_json(reader: TestClient) -> None:
    listed = reader.get("/errors", headers={"accept": "application/json, text/html;q=0.5"})
    assert listed.headers["content-type"] == "application/json"
    assert [each["code"] for each in listed.json()] == list(ERRORS_BY_CODE)
    for accept in ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "*/*", "", "text/html;q=x"):
        page = reader.get("/errors", headers={"accept": accept})
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert all(f'href="/errors/{code}"' in page.text for code in ERRORS_BY_CODE)
    assert listed.headers["vary"] == "accept"


@pytest.mark.parametrize("code", ["nope", "internal_error%00", "NOT_JSON"])
def test_an_unknown_code_is_404(reader: TestClient, code: str) -> None:
    answer = reader.get(f"/errors/{code}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "nope" not in json.dumps(answer.json())
