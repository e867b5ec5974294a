"""`POST /publish`: what is checked before the body is read, the reading, and the answer.

One function answers, and two ways lead to it: the ASGI lane in `app.py`, and the route below, which takes over where
middleware, dependency overrides or a mount are in play and gives OpenAPI something to describe.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sekali.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Draining,
    SekaliError,
    TryAgain,
    UnsupportedEncoding,
    UnsupportedMedia,
)
from sekali.event import EventBatch
from sekali.http.body import ClientGone, IncomingBody
from sekali.http.lifecycle import Lifecycle, Serving
from sekali.http.params import Parameters
from sekali.http.problems import NOSNIFF, HeaderList, as_sekali_error, problem_bytes
from sekali.intake import Published
from sekali.wire.answers import encode_publish_answer, receipt_header
from sekali.wire.native import decode_publish

INLINE_BODY_BYTES_MAX: Final = 256 * 1024
"""Larger bodies are decoded, and answers to as many receipts encoded, on a thread: the loop serves others meanwhile."""
INLINE_RECEIPTS_MAX: Final = 2_000
LINGER_S: Final = 2.0
"""How long the rest of a refused body is read and dropped, so that its sender gets to see the answer."""

_JSON: Final = (b"content-type", b"application/json")
_CLOSE: Final = (b"connection", b"close")
_NUMBER_DIGITS_MAX: Final = 4_000
"""Python refuses to read longer numbers; such a length is left to the bound on the body itself."""
_CURL_FLAG: Final = "-H 'content-type: application/json'"


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """The query's flags. `partial` brings receipts unless `receipts=false` is said: they tell what was rejected."""

    receipts: bool = False
    partial: bool = False


_NO_OPTIONS: Final = PublishOptions()


class PublishAnswer(Response):
    """What a publish is answered with. Sends itself, on the lane and from the route alike."""

    def __init__(
        self,
        status: int,
        headers: HeaderList,
        body: bytes,
        *,
        closes_connection: bool = False,
        unread: IncomingBody | None = None,
    ) -> None:
        self.status_code = status
        self.raw_headers = headers
        self.body = body
        self.background = None
        self._unread = unread
        """The request's body, where it has not arrived in full and shall not."""
        self._closes_connection = closes_connection or unread is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        headers = self.raw_headers
        unread = self._unread
        if self._closes_connection and scope["http_version"].startswith("1"):
            headers = [*headers, _CLOSE]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        if unread is not None:
            # To close a connection with unread bytes in it resets it, and the answer is lost on the way.
            await send({"type": "http.response.body", "body": self.body, "more_body": True})
            await unread.drop_rest(LINGER_S)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": self.body})


class NoAnswer(Response):
    """Nobody is there any more to be answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        return


router = APIRouter()


@router.post(
    "/publish",
    name="publish",
    summary="Publish an event, or an array of events",
    response_class=Response,
)
async def publish_route(request: Request) -> Response:
    lifecycle: Lifecycle = request.app.lifecycle
    return await answer_publish(lifecycle, request.scope, request.receive)


async def answer_publish(lifecycle: Lifecycle, scope: Scope, receive: Receive) -> Response:
    """Store what the request brings and say what became of it. Raises only what is not a SekaliError."""
    body: IncomingBody | None = None
    try:
        serving = lifecycle.current or await lifecycle.serving()
        body = IncomingBody(receive, serving.hub, serving.bodies, serving.deadlines)
        if serving.hub.draining:
            raise serving.hub.refusal()
        content_length = checked_headers(scope)
        options = publish_options(scope["query_string"]) if scope["query_string"] else _NO_OPTIONS
        data = await body.read(content_length)
        batch = await _decoded(data, serving, partial=options.partial)
        published = await serving.hub.publish(batch)
        return await _answer(batch, published, serving, receipts=options.receipts)
    except ClientGone:
        return NoAnswer()
    except SekaliError as error:
        return refusal(error, body)
    finally:
        if body is not None:
            body.release()


async def _decoded(data: bytes, serving: Serving, *, partial: bool) -> EventBatch:
    if len(data) <= INLINE_BODY_BYTES_MAX:
        return decode_publish(data, serving.decode_limits, partial=partial)
    return await asyncio.get_running_loop().run_in_executor(
        serving.decoders, lambda: decode_publish(data, serving.decode_limits, partial=partial)
    )


async def _answer(batch: EventBatch, published: Published, serving: Serving, *, receipts: bool) -> Response:
    outcome, queued = published.outcome, published.queued
    if not receipts and outcome.statuses is None:
        content = b'{"accepted":%d,"queued":%d}' % (len(batch.event_ids), queued)
    elif len(batch) + len(batch.rejections) <= INLINE_RECEIPTS_MAX:
        content = encode_publish_answer(batch, outcome, queued, receipts=receipts)
    else:
        content = await asyncio.get_running_loop().run_in_executor(
            serving.decoders, lambda: encode_publish_answer(batch, outcome, queued, receipts=receipts)
        )
    headers = [_JSON, NOSNIFF, (b"content-length", b"%d" % len(content))]
    if batch.is_single and batch.event_ids:
        headers.append((b"sekali-receipt", receipt_header(outcome).encode()))
    return PublishAnswer(200, headers, content)


def refusal(error: SekaliError, body: IncomingBody | None) -> Response:
    status, headers, content = problem_bytes(as_sekali_error(error))
    is_cut_off = body is not None and not body.is_complete and isinstance(error, BodyTooLarge | BodyTooSlow | TryAgain)
    return PublishAnswer(
        status,
        headers,
        content,
        closes_connection=isinstance(error, Draining),
        unread=body if is_cut_off else None,
    )


def checked_headers(scope: Scope) -> int | None:
    """The body's announced length. Raises UnsupportedMedia, UnsupportedEncoding."""
    content_length: int | None = None
    content_type = b""
    is_browser = False
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = content_type + b"," + value if content_type else value
        elif name == b"content-length":
            content_length = int(value) if value.isdigit() and len(value) < _NUMBER_DIGITS_MAX else None
        elif name == b"content-encoding":
            if value.strip().lower() not in (b"", b"identity"):
                raise UnsupportedEncoding("Send the body as it is, without a Content-Encoding.")
        elif name == b"origin" or (name == b"sec-fetch-site" and value not in (b"none", b"same-origin")):
            is_browser = True
    if content_type != b"application/json":
        _check_media_type(content_type.decode("latin-1"), is_browser=is_browser)
    return content_length


def _check_media_type(content_type: str, *, is_browser: bool) -> None:
    """Only what a web page of another origin can't send without asking first: such a page must not be able to publish
    blindly. Raises UnsupportedMedia."""
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if not media_type:
        if is_browser:
            raise UnsupportedMedia("A browser has to name the media type: send `content-type: application/json`.")
        return
    if media_type.startswith("application/cloudevents"):
        raise UnsupportedMedia(
            "CloudEvents are not understood yet. Send events with topic, event_id, timestamp, source and payload, "
            f"as application/json: {_CURL_FLAG}"
        )
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json") and "," not in media_type
    )
    if not is_json:
        raise UnsupportedMedia(f"Only JSON is taken. With curl add {_CURL_FLAG}")
    if not _charset_is_utf8(parameters):
        raise UnsupportedMedia(f"JSON is UTF-8. Leave the charset away: {_CURL_FLAG}")


def _charset_is_utf8(parameters: str) -> bool:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            return False
    return True


def publish_options(query_string: bytes) -> PublishOptions:
    """Raises InvalidParameter."""
    parameters = Parameters(query_string, single=("receipts", "partial"))
    receipts = parameters.flag("receipts")
    partial = parameters.flag("partial") or False
    parameters.check()
    return PublishOptions(receipts=partial if receipts is None else receipts, partial=partial)
