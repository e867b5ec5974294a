"""Errors as they go over the wire: problem documents after RFC 9457, and the handlers that make every failure one.

A problem is `{"type", "title", "status", "detail", "code"}`; with broken rules also `"errors": [{"pointer", "code",
"detail"}]` (the first 100) and `"errors_total"`. `type` is a relative reference to the page that explains the code.
Nothing the sender sent is repeated in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sekali.errors import (
    VIOLATIONS_SHOWN_MAX,
    InternalError,
    InvalidParameter,
    MethodNotAllowed,
    RouteNotFound,
    SekaliError,
    TryAgain,
    Violation,
)

log = logging.getLogger("sekali.http")

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
JSON_MEDIA_TYPE: Final = "application/json"
RETRY_AFTER_S_DEFAULT: Final = 1

HeaderList = list[tuple[bytes, bytes]]

NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
NO_STORE: Final = (b"cache-control", b"no-store")


def problem_document(error: SekaliError, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The problem as a JSON value. `extra` adds extension members (RFC 9457, 3.2)."""
    document: dict[str, Any] = {
        "type": f"/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if error.violations:
        shown = error.violations[:VIOLATIONS_SHOWN_MAX]
        document["errors"] = [{"pointer": v.pointer, "code": v.code, "detail": v.detail} for v in shown]
        document["errors_total"] = error.violations_total
    if extra:
        document.update(extra)
    return document


def problem_bytes(error: SekaliError, extra: Mapping[str, Any] | None = None) -> tuple[int, HeaderList, bytes]:
    """Status, headers and body of the answer to `error`, for code that speaks ASGI itself."""
    body = msgspec.json.encode(problem_document(error, extra))
    headers = answer_headers(PROBLEM_MEDIA_TYPE, body)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and isinstance(error, TryAgain):
        retry_after_s = RETRY_AFTER_S_DEFAULT
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, retry_after_s)))
    return error.status, headers, body


def problem_response(error: SekaliError, extra: Mapping[str, Any] | None = None) -> RawResponse:
    return RawResponse(*problem_bytes(error, extra))


def json_response(body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> RawResponse:
    """A 200 whose body is JSON already encoded."""
    return RawResponse(200, [*answer_headers(JSON_MEDIA_TYPE, body), *headers], body)


def answer_headers(media_type: str, body: bytes) -> HeaderList:
    """Those that every whole answer has: never cached, never taken for another type than it says."""
    content_length = (b"content-length", b"%d" % len(body))
    return [(b"content-type", media_type.encode("latin-1")), content_length, NO_STORE, NOSNIFF]


class RawResponse(Response):
    """Headers and body as given."""

    def __init__(self, status: int, headers: HeaderList, body: bytes) -> None:
        self.status_code = status
        self.raw_headers = headers
        self.body = body
        self.background = None


def as_sekali_error(exc: Exception) -> SekaliError:
    """`exc` itself, or the internal error that hides it. What is our fault is logged here, with its traceback."""
    error = exc if isinstance(exc, SekaliError) else InternalError(INTERNAL_DETAIL)
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request failed: %s", type(exc).__name__, exc_info=exc)
    return error


INTERNAL_DETAIL: Final = "The server failed on this request. Its log has the details; the request may be sent again."


def install(app: FastAPI) -> None:
    """Every failure of `app` is answered with a problem document."""
    app.add_exception_handler(SekaliError, _on_sekali_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_request_validation_error)
    app.add_exception_handler(Exception, _on_any_exception)


async def _on_sekali_error(_: Request, exc: Exception) -> Response:
    return problem_response(as_sekali_error(exc))


async def _on_any_exception(_: Request, __: Exception) -> Response:
    """Starlette raises the exception again once this is sent, and the server logs it: to log it here says it twice."""
    return problem_response(InternalError(INTERNAL_DETAIL))


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    if exc.status_code == HTTPStatus.NOT_FOUND:
        return problem_response(_route_not_found(request))
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _method_not_allowed((exc.headers or {}).get("Allow", ""))
    return _foreign_problem(exc)


def _route_not_found(request: Request) -> RouteNotFound:
    path: str = request.scope["path"]
    path = path.removeprefix(request.scope.get("root_path", "").rstrip("/"))
    without_slash = path.rstrip("/")
    if path != without_slash and without_slash in request.app.openapi()["paths"]:
        return RouteNotFound(f"Nothing is served at this path: leave away the slash at its end, {without_slash}.")
    return RouteNotFound("Nothing is served at this path. GET / lists what there is.")


def _method_not_allowed(allow: str) -> Response:
    allow = ", ".join(sorted(allow.split(", ")))  # Starlette's order changes from run to run
    response = problem_response(MethodNotAllowed(f"This path answers to {allow or 'other methods'}."))
    response.raw_headers.append((b"allow", allow.encode("latin-1")))
    return response


def _foreign_problem(exc: HTTPException) -> Response:
    """A status that someone's middleware or dependency raised: not one of ours, so RFC 9457's `about:blank`."""
    known = {status.value: status.phrase for status in HTTPStatus}
    title = known.get(exc.status_code, "Error")
    document = {
        "type": "about:blank",
        "title": title,
        "status": exc.status_code,
        "detail": exc.detail if isinstance(exc.detail, str) else title,
        "code": f"http_{exc.status_code}",
    }
    body = msgspec.json.encode(document)
    headers = answer_headers(PROBLEM_MEDIA_TYPE, body)
    for name, value in (exc.headers or {}).items():
        headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
    return RawResponse(exc.status_code, headers, body)


async def _on_request_validation_error(_: Request, exc: Exception) -> Response:
    """Only routes that somebody added to the app have FastAPI check their parameters."""
    assert isinstance(exc, RequestValidationError)
    violations = [
        Violation("/" + "/".join(map(str, found["loc"][1:])), found["type"], found["msg"]) for found in exc.errors()
    ]
    return problem_response(InvalidParameter("The request breaks a rule.", violations=violations))
