"""Pages for people with a browser: the front page, the interface's description, the error codes."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from sekali.errors import RouteNotFound, SekaliError
from sekali.event import TopicFigures
from sekali.http.error_guide import ERRORS_BY_CODE, ends_process, explained
from sekali.http.layout import console_file, console_template, escape, html_page, html_response
from sekali.http.lifecycle import hub_of
from sekali.http.params import accept_weights
from sekali.http.problems import NOSNIFF, RawResponse, json_response
from sekali.hub import Hub

TOPICS_SHOWN_MAX: Final = 10
DEFAULT_BASE: Final = "http://localhost:8080"

_BASE: Final = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
"""A base address that is safe inside a shell's quotes."""

router = APIRouter(include_in_schema=False)


# The front page


@dataclass(frozen=True, slots=True)
class _Glance:
    """What the front page shows of the store."""

    figures: list[tuple[str, str]]
    """Label and value, as text."""
    reasons: tuple[str, ...]
    """Why a publish would be refused now; none when it would be taken."""
    topics: list[TopicFigures]
    topics_total: int


@router.api_route("/", methods=["GET", "HEAD"], name="home")
async def home(request: Request) -> Response:
    hub = await hub_of(request.app)
    glance = await run_in_threadpool(_glance, hub)
    root = _root(request)
    content = console_template("home.html").substitute(
        base=escape(_base(request)),
        state_class="bad" if glance.reasons else "good",
        state=escape(f"Not ready: {'; '.join(glance.reasons)}" if glance.reasons else "Ready: events are taken"),
        figures="\n".join(
            f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in glance.figures
        ),
        topics=_topics_section(glance, root),
    )
    return html_page("Sekali", content, root=root, script=console_file("copy.js"))


def _glance(hub: Hub) -> _Glance:
    stats = hub.stats()
    figures = [
        ("events stored", f"{stats['unique_processed']:,}"),
        ("duplicates dropped", f"{stats['duplicate_dropped']:,}"),
        ("of them conflicts", f"{stats['conflicts']:,}"),
        ("topics", f"{stats['topics_total']:,}"),
        ("waiting in the intake", f"{stats['queue_depth']:,}"),
        ("up for", _duration(stats["uptime_seconds"])),
        *_disk_figures(hub),
    ]
    topics = hub.topics("", TOPICS_SHOWN_MAX)
    return _Glance(figures, hub.readiness().reasons, topics, stats["topics_total"])


def _disk_figures(hub: Hub) -> list[tuple[str, str]]:
    """None while the file cannot be seen: what is wrong with it is the store's to say."""
    file = hub.settings.db_file
    try:
        size_bytes = file.stat().st_size
        free_bytes = shutil.disk_usage(file.parent).free
    except OSError:
        return []
    return [("store file", _bytes(size_bytes)), ("disk free", _bytes(free_bytes))]


def _topics_section(glance: _Glance, root: str) -> str:
    if not glance.topics:
        return ""
    rows = "\n".join(_topic_row(topic, root) for topic in glance.topics)
    shown = len(glance.topics)
    note = f"The first {shown} of {glance.topics_total:,}, by name. " if glance.topics_total > shown else ""
    return f"""<h2>Topics</h2>
<div class="scroll"><table>
<thead><tr><th scope="col">Topic</th><th scope="col" class="number">Events</th>
<th scope="col" class="number">Duplicates</th><th scope="col" class="number">Conflicts</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
<p class="soft">{note}<a href="{escape(root)}/topics">All of them as JSON</a></p>"""


def _topic_row(topic: TopicFigures, root: str) -> str:
    query = urlencode({"topic": topic.name, "order": "desc", "limit": 100})
    return (
        f'<tr><td class="name"><a href="{escape(f"{root}/events?{query}")}">{escape(topic.name)}</a></td>'
        f'<td class="number">{topic.events:,}</td><td class="number">{topic.duplicates:,}</td>'
        f'<td class="number">{topic.conflicts:,}</td></tr>'
    )


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86_400)
    if minutes < 1:
        return f"{int(seconds)} s"
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days < 2 else f"{days} days"


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if amount >= 100 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")


def _base(request: Request) -> str:
    """The address that the browser used, if it can stand in a command as it is."""
    base = str(request.base_url).rstrip("/")
    return base if _BASE.fullmatch(base) else DEFAULT_BASE


@router.api_route("/favicon.ico", methods=["GET", "HEAD"], name="favicon")
async def favicon(request: Request) -> Response:
    return _asset_response(request, "image/svg+xml", console_file("favicon.svg").encode())


# The error codes


@router.api_route("/errors", methods=["GET", "HEAD"], name="errors")
async def error_list(request: Request) -> Response:
    errors = list(ERRORS_BY_CODE.values())
    if _prefers_json(request):
        return _varying(json_response(msgspec.json.encode([explained(error) for error in errors])))
    listed = f"{escape(_root(request))}/errors"
    rows = "\n".join(
        f'<tr><td class="name"><a href="{listed}/{error.code}"><code>{error.code}</code></a></td>'
        f'<td class="number">{_status(error)}</td><td>{escape(error.title)}</td></tr>'
        for error in errors
    )
    content = f"""<h1>Errors</h1>
<p class="lead">Every failure is a problem document (RFC 9457). Its <code>code</code> is stable: a program may switch on
it.</p>
<div class="scroll"><table>
<thead><tr><th scope="col">Code</th><th scope="col" class="number">Status</th><th scope="col">Meaning</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>"""
    return _varying(html_page("Errors: Sekali", content, root=_root(request)))


@router.api_route("/errors/{code}", methods=["GET", "HEAD"], name="error")
async def error_page(request: Request, code: str) -> Response:
    error = ERRORS_BY_CODE.get(code)
    if error is None:
        raise RouteNotFound("No error has this code. /errors lists them all.")
    document = explained(error)
    if _prefers_json(request):
        return _varying(json_response(msgspec.json.encode(document)))
    status = "The process ends with exit code 1" if ends_process(error) else f"HTTP {error.status}"
    again = "The same request may succeed later." if document["try_again"] else ""
    content = f"""<h1>{escape(error.title)}</h1>
<p class="lead"><code>{error.code}</code>. {status}. {again}</p>
<h2>When</h2>
<p>{_prose(document["when"])}</p>
<h2>What to do</h2>
<p>{_prose(document["remedy"])}</p>
{_rules_section(document.get("rules", {}))}
<p><a href="{escape(_root(request))}/errors">All errors</a></p>"""
    return _varying(html_page(f"{error.code}: Sekali", content, root=_root(request)))


def _rules_section(rules: dict[str, str]) -> str:
    if not rules:
        return ""
    rows = "\n".join(
        f'<tr><td class="name"><code>{escape(code)}</code></td><td>{escape(meaning)}</td></tr>'
        for code, meaning in rules.items()
    )
    return f"""<h2>Rules</h2>
<p>The codes in <code>errors</code>.</p>
<div class="scroll"><table><thead><tr><th scope="col">Code</th><th scope="col">Broken by</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>"""


def _prose(text: str) -> str:
    """Text with `code` in backquotes, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _status(error: type[SekaliError]) -> str:
    return "exit 1" if ends_process(error) else str(error.status)


def _prefers_json(request: Request) -> bool:
    weights = accept_weights(request.headers.get("accept", ""))
    asked = max(weights.get("application/json", 0.0), weights.get("application/problem+json", 0.0))
    return asked > weights.get("text/html", 0.0)


def _varying(response: Response) -> Response:
    response.raw_headers.append((b"vary", b"accept"))
    return response


# The interface's description: Swagger UI, served from the package that ships it

_UI_PACKAGE: Final = "fastapi_offline"
_UI_FILES: Final = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}
_OWN_FILES: Final = {"docs.js": "text/javascript; charset=utf-8"}
_UI_POLICY: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self' 'unsafe-inline'",  # Swagger UI sets style attributes
    "img-src 'self' data:",
    "connect-src 'self'",
)


@router.api_route("/docs", methods=["GET", "HEAD"], name="docs")
async def docs() -> Response:
    return html_response(console_file("docs.html"), _UI_POLICY)


@router.api_route("/docs/{file}", methods=["GET", "HEAD"], name="docs-file")
async def docs_file(request: Request, file: str) -> Response:
    if file in _OWN_FILES:
        return _asset_response(request, _OWN_FILES[file], console_file(file).encode())
    if file in _UI_FILES:
        return _asset_response(request, _UI_FILES[file], await run_in_threadpool(_ui_file, file))
    raise RouteNotFound("Nothing is served at this path. GET / lists what there is.")


@cache
def _ui_file(name: str) -> bytes:
    return resources.files(_UI_PACKAGE).joinpath("static", name).read_bytes()


def _asset_response(request: Request, media_type: str, body: bytes) -> Response:
    """A file that changes with the version only: kept by the browser, and asked for by its tag."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'
    headers = [(b"etag", tag.encode()), (b"cache-control", b"no-cache"), NOSNIFF]
    if request.headers.get("if-none-match") == tag:
        return RawResponse(304, headers, b"")
    length = (b"content-length", b"%d" % len(body))
    return RawResponse(200, [(b"content-type", media_type.encode()), length, *headers], body)
