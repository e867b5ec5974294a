"""An app of its own for each test, on a store of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sekali.http.app import create_app
from tests.support.stores import store_settings

MakeClient = Callable[..., TestClient]


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[MakeClient]:
    """`make_client(**settings)`: a client of a running app. Errors of the server are answers, as over a network."""
    with ExitStack() as running:

        def make(**settings: Any) -> TestClient:
            app = create_app(store_settings(tmp_path / "store.db", **settings))
            return running.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture
def client(make_client: MakeClient) -> TestClient:
    return make_client()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an empty store, shared by tests that change nothing."""
    app = create_app(store_settings(tmp_path_factory.mktemp("reader") / "store.db"))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
