"""A bare ASGI application: it reads the body and answers. The yardstick of what uvicorn itself can carry."""

from __future__ import annotations

from typing import Any

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"25")],
}
_BODY = {"type": "http.response.body", "body": b'{"accepted":1,"queued":1}'}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    while (await receive()).get("more_body", False):
        pass
    await send(_START)
    await send(_BODY)
