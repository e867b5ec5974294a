"""A real server in a process of its own, for tests that start, kill and restart one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
READY_S_MAX = 60.0


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`uvicorn src.main:app` on its own port and store. `start()` returns once /readyz is 200."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None, arguments: Sequence[str] = ()) -> None:
        self.db_path = folder / "store.db"
        self.log_path = folder / "server.log"
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._env = {**os.environ, "DB_PATH": str(self.db_path), **(env or {})}
        self._arguments = arguments

    def start(self, *, wait: bool = True) -> Server:
        command, folder, env = self._popen_arguments()
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            self.wait_ready()
        return self

    def _popen_arguments(self) -> tuple[list[str], Path, dict[str, str]]:
        """Command, working directory and environment."""
        command = [sys.executable, "-m", "uvicorn", "src.main:app", "--host", "127.0.0.1", "--port", str(self.port)]
        return [*command, *self._arguments], ROOT, self._env

    def wait_ready(self) -> None:
        """Raises AssertionError with the server's own output when it ends early or is not ready in time."""
        assert self.process is not None
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            if self.call("GET", "/readyz")[0] == 200:
                return
            try:
                code = self.process.wait(0.02)  # paces the loop, and sees an early exit at once
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"the server ended with {code}:\n{self.log}")
        raise AssertionError(f"not ready after {READY_S_MAX} s:\n{self.log}")

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded JSON (or text); status 0 when nobody answered. `body` is sent as JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, _decoded(refusal.read())
        except OSError:
            return 0, None

    def linked(self, path: str) -> Iterator[Any]:
        """Every item of the array at `path` and of the pages that it links to."""
        while path:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                yield from json.loads(answer.read())
                path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM (on Windows the process is ended), and the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
