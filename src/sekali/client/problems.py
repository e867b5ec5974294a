"""From an answer to the error it reports (RFC 9457), and from a failed connection to its error."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2

from sekali.errors import SekaliError, ServerUnreachable, UnexpectedAnswer, Violation

_ERRNO: Final = re.compile(r"^\[(?:Errno|WinError) -?\d+\] ")


def _with_own_code(base: type[SekaliError]) -> dict[str, type[SekaliError]]:
    found: dict[str, type[SekaliError]] = {}
    for error_class in base.__subclasses__():
        if "code" in vars(error_class):
            found[error_class.code] = error_class
        found |= _with_own_code(error_class)
    return found


ERROR_BY_CODE: Final = _with_own_code(SekaliError)


def error_from_response(response: httpx2.Response) -> SekaliError:
    """The error that a read answer with a status of 400 and above stands for.

    An unknown code, or a body that is not a problem document, gives UnexpectedAnswer with the status.
    """
    problem = _problem(response)
    retry_after_s = parse_retry_after(response.headers.get("retry-after"))
    error_class = ERROR_BY_CODE.get(str(problem.get("code", "")))
    detail = str(problem.get("detail") or problem.get("title") or "")
    if error_class is None:
        phrase = f"{response.status_code} {response.reason_phrase}".strip()
        unexpected = UnexpectedAnswer(
            f"{response.request.url} answered {phrase}{': ' + detail if detail else ''}", retry_after_s=retry_after_s
        )
        unexpected.answered_status = response.status_code
        return unexpected
    return error_class(detail or error_class.title, violations=_violations(problem), retry_after_s=retry_after_s)


def error_from_transport(error: httpx2.TransportError, url: str) -> ServerUnreachable:
    """What a connection that could not be made, or broke, means: one line that names the server."""
    match error:
        case httpx2.TimeoutException():
            reason = "no answer in time"
        case httpx2.ConnectError():
            reason = _ERRNO.sub("", str(error)) or "the connection was refused"
        case _:
            reason = f"the connection broke ({_ERRNO.sub('', str(error))})" if str(error) else "the connection broke"
    return ServerUnreachable(f"cannot reach {url}: {reason}")


def parse_retry_after(text: str | None) -> int | None:
    """Seconds of a Retry-After field: a number, or an HTTP date (RFC 9110, 10.2.3). None when absent or unreadable."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, round((moment - datetime.now(UTC)).total_seconds()))


def _problem(response: httpx2.Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _violations(problem: dict[str, Any]) -> list[Violation]:
    items = problem.get("errors")
    if not isinstance(items, list):
        return []
    return [
        Violation(str(item.get("pointer", "")), str(item.get("code", "")), str(item.get("detail", "")))
        for item in items
        if isinstance(item, dict)
    ]
