"""docker-compose.yml: against the schema of Compose files, and against what the README says about it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.docker.dockerfile import instructions
from tests.serving import ROOT

COMPOSE = ROOT / "docker-compose.yml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return loaded


def test_the_volume_is_called_aggregator_dedup_data(compose: dict[str, Any]) -> None:
    assert compose["name"] == "aggregator"
    assert list(compose["volumes"]) == ["dedup_data"]
    assert "dedup_data:/data" in compose["services"]["aggregator"]["volumes"]


def test_it_serves_on_port_8080_of_this_machine_only(compose: dict[str, Any]) -> None:
    assert compose["services"]["aggregator"]["ports"] == ["127.0.0.1:8080:8080"]


def test_stopping_takes_as_long_as_draining_may(compose: dict[str, Any]) -> None:
    assert compose["services"]["aggregator"]["stop_grace_period"] == "30s"


def test_it_says_the_same_as_the_dockerfile(compose: dict[str, Any]) -> None:
    service = compose["services"]["aggregator"]
    lines = dict(instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")))
    for name, value in service["environment"].items():
        assert f"{name}={value}" in lines["ENV"].split()
    check = lines["HEALTHCHECK"]
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(check[check.index("CMD") + 3 :])]


@pytest.mark.slow
def test_it_fits_the_schema_of_compose_files() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
