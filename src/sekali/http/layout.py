"""The frame of every HTML page: one document without outside parts, and the policy that holds it to that."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from string import Template
from typing import Final

from starlette.responses import Response

from sekali import __version__
from sekali.http.problems import RawResponse, answer_headers

HTML_MEDIA_TYPE: Final = "text/html; charset=utf-8"

escape = html.escape


@cache
def console_file(name: str) -> str:
    return resources.files("sekali.http").joinpath("console", name).read_text(encoding="utf-8")


@cache
def console_template(name: str) -> Template:
    return Template(console_file(name))


def html_page(title: str, content: str, *, root: str, script: str = "") -> Response:
    """`content` is HTML; `title` is text. `root` is the path the app is mounted at, `` for none.

    Style and script stand in the page itself, and nothing else runs or loads: the policy names their digests.
    """
    style = console_file("page.css")
    page = console_template("shell.html").substitute(
        title=escape(title),
        root=escape(root),
        style=style,
        mark=console_file("favicon.svg").replace("<svg ", '<svg aria-hidden="true" ').strip(),
        content=content,
        version=escape(__version__),
        script=f"<script>{script}</script>" if script else "",
    )
    policy = [
        "default-src 'none'",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'" if script else "",
        "img-src 'self'",
    ]
    return html_response(page, [part for part in policy if part])


def html_response(page: str, policy: Sequence[str], headers: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    body = page.encode()
    closed = (*policy, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")
    own = [
        (b"content-security-policy", "; ".join(closed).encode("ascii")),
        (b"referrer-policy", b"no-referrer"),
    ]
    return RawResponse(200, [*answer_headers(HTML_MEDIA_TYPE, body), *own, *headers], body)


def _digest(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script (CSP level 3, 6.7.3.3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
