"""The pages: nothing from outside, nothing unescaped, and they say what is so."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sekali.http.app import SekaliApp
from sekali.http.error_guide import ERRORS_BY_CODE
from tests.support.publishing import event, publish, publish_many

PAGES = ["/", "/errors", "/docs", *(f"/errors/{code}" for code in ERRORS_BY_CODE)]
NASTY = "<script>alert(1)</script>\"'&"


class Parts(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.examples: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "code" and "pre" in self._open:
            self.examples.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside in self.inline:
            self.inline[inside].append(data)
            return
        self.text += data
        if "pre" in self._open:
            self.examples[-1] += data

    def links(self) -> list[str]:
        return [value for _, attrs in self.tags for name, value in attrs.items() if name in ("href", "src") and value]


def parts(client: TestClient, path: str, **more: Any) -> Parts:
    answer = client.get(path, **more)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Parts(answer.text)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_from_outside_and_its_links_lead_somewhere(reader: TestClient, path: str) -> None:
    for link in parts(reader, path).links():
        assert "//" not in link, "an address of another host"
        assert reader.get(f"/{link.lstrip('/')}").status_code == 200, link


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_nothing_that_its_policy_does_not_name(reader: TestClient, path: str) -> None:
    answer = reader.get(path)
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    found = Parts(answer.text)
    for kind, texts in found.inline.items():
        for text in texts:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in policy.get("script-src", "")
    names = {name for _, attrs in found.tags for name in attrs}
    assert not any(name.startswith("on") for name in names)
    assert "style" not in names
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_what_a_reader_of_the_screen_needs(reader: TestClient, path: str) -> None:
    answer = reader.get(path)
    found = Parts(answer.text)
    tags = [tag for tag, _ in found.tags]
    assert ("html", {"lang": "en"}) in found.tags
    assert tags.count("title") == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [
        a for t, a in found.tags if t == "meta"
    ]
    if path != "/docs":
        assert tags.count("h1") == tags.count("main") == tags.count("nav") == 1
        assert all("scope" in attrs for tag, attrs in found.tags if tag == "th")
    assert reader.head(path).content == b""
    assert reader.head(path).headers == answer.headers or path == "/"


def test_the_front_page_shows_the_state_of_the_store(client: TestClient) -> None:
    publish_many(client, 1234, ["alpha", "beta"])
    publish(client, event("e-1", "beta"), event("e-1", "beta", payload={"x": 1}))
    found = parts(client, "/")
    labels = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", client.get("/").text)
    figures = dict(labels)
    assert figures["events stored"] == "1,234"
    assert figures["duplicates dropped"] == "2"
    assert figures["of them conflicts"] == "1"
    assert figures["topics"] == "2"
    assert figures["store file"].endswith("iB")
    assert "Ready: events are taken" in found.text


def test_the_front_page_says_why_it_is_not_ready(client: TestClient) -> None:
    app = client.app
    assert isinstance(app, SekaliApp)
    assert app.lifecycle.current is not None
    app.lifecycle.current.hub.start_draining()
    text = client.get("/").text
    assert 'class="state bad"' in text
    assert "Not ready: the server is shutting down" in text


def test_the_examples_work_as_they_stand(client: TestClient) -> None:
    """The curl lines, taken apart as a shell would and sent."""
    examples = [each for each in parts(client, "/").examples if each.startswith("curl")]
    assert len(examples) == 4
    for round_trip in ("stored", "duplicate"):
        for example in examples:
            words = shlex.split(example.replace("\\\n", " "))
            url = next(word for word in words if word.startswith("http://testserver/"))
            headers = [words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H"]
            body = words[words.index("-d") + 1] if "-d" in words else None
            method = words[words.index("-X") + 1] if "-X" in words else "GET"
            answer = client.request(method, url, headers=dict(headers), content=body)
            assert answer.status_code == 200, answer.text
            if "receipts" in url:
                assert answer.json()["receipts"] == [{"status": round_trip, "offset": 1}]
            elif "/seen" in url:
                assert answer.json() == [{"seen": True, "offset": 1}]
            elif "/ledger" in url:
                assert len(answer.json()) == (1 if round_trip == "duplicate" else 0)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("sekali.example:9000", "http://sekali.example:9000/publish"),
        ("[::1]:8080", "http://[::1]:8080/publish"),
        ("a';reboot;'", "http://localhost:8080/publish"),
        ("a';rm -rf $HOME;'", "http://testserver/publish"),
        ('"><script>alert(1)</script>', "http://testserver/publish"),
    ],
)
def test_the_examples_name_the_host_that_was_asked(reader: TestClient, host: str, shown: str) -> None:
    found = parts(reader, "/", headers={"host": host})
    assert shown in found.examples[0]
    assert "rm -rf" not in found.text
    assert "reboot" not in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1


def test_names_are_escaped(client: TestClient) -> None:
    publish(client, event("e-1", NASTY))
    found = parts(client, "/")
    assert NASTY in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1
    link = next(link for link in found.links() if link.startswith("/events"))
    assert [each["topic"] for each in client.get(link).json()] == [NASTY]


def test_json_with_html_in_it_is_never_taken_for_html(client: TestClient) -> None:
    publish(client, event("e-1", NASTY), event("e-1", NASTY, source=NASTY))
    for path in ("/events", "/topics", "/stats", "/events?limit=1", "/ledger", "/event?topic=x&event_id=<b>"):
        answer = client.get(path, headers={"accept": "text/html"})
        assert answer.headers["content-type"] in ("application/json", "application/problem+json")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_below_a_path_the_links_stay_below_it(client: TestClient) -> None:
    publish(client, event("e-1"))
    mounted = TestClient(client.app, root_path="/logs", raise_server_exceptions=False)
    for path in ("/logs/", "/logs/errors", "/logs/errors/not_json"):
        found = Parts(mounted.get(path).text)
        assert found.links()
        assert all(link.startswith("/logs/") for link in found.links())
    assert "http://testserver/logs/publish" in Parts(mounted.get("/logs/").text).examples[0]
    assert all(not link.startswith("/") for link in Parts(mounted.get("/logs/docs").text).links())


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/favicon.ico", "image/svg+xml"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/docs.js", "text/javascript; charset=utf-8"),
    ],
)
def test_a_part_of_a_page_is_served_once_and_then_by_its_tag(reader: TestClient, path: str, media_type: str) -> None:
    first = reader.get(path)
    assert (first.status_code, first.headers["content-type"]) == (200, media_type)
    assert int(first.headers["content-length"]) == len(first.content) > 100
    assert first.headers["x-content-type-options"] == "nosniff"
    again = reader.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert reader.head(path).headers == first.headers


@pytest.mark.parametrize("file", ["nope.js", "..%2fapp.py", "redoc.standalone.js"])
def test_no_other_file_is_served(reader: TestClient, file: str) -> None:
    assert reader.get(f"/docs/{file}").status_code == 404


def test_swagger_ui_says_which_version_it_is(reader: TestClient) -> None:
    found = re.search(r'PACKAGE_VERSION:"(\d+)\.', reader.get("/docs/swagger-ui-bundle.js").text)
    assert found is not None, "not the bundle of Swagger UI"
    assert int(found[1]) >= 5, "OpenAPI 3.1 needs version 5"
