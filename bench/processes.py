"""Server processes of one run: start, stop, kill, and what they use. Only processes started here are ever ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

START_S_MAX: Final = 120.0
STOP_S_MAX: Final = 30.0
SAMPLE_S: Final = 0.02
LOOK_AGAIN_S: Final = 0.5
"""Between two looks for processes that the server started meanwhile."""
QUIET_WINDOW_S: Final = 2.0


class BenchError(Exception):
    """A server did not start, died, or answered wrongly. The message holds the end of its log."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers_ok(port: int, target: str) -> bool:
    """Whether a GET is answered 200; False as well when nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", target)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class ServerProcess:
    """One server and its log file."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, account: str | None = None
    ) -> None:
        """`account`: whom to run it as, for a program that refuses to run as root."""
        self.log = log
        self.started_at = time.perf_counter()
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT,
                user=account, group=account, extra_groups=[] if account else None,
            )  # fmt: skip
        self.seen = psutil.Process(self.popen.pid)

    def wait_until(self, ready: Callable[[], bool], seconds_max: float = START_S_MAX) -> float:
        """Seconds from the start of the process until `ready()`. Raises BenchError when it ends or takes too long."""
        while not ready():
            if self.popen.poll() is not None:
                raise BenchError(f"the server ended with {self.popen.returncode}:\n{self.log_end()}")
            if time.perf_counter() - self.started_at > seconds_max:
                raise BenchError(f"the server was not ready after {seconds_max:.0f} s:\n{self.log_end()}")
            time.sleep(0.005)
        return time.perf_counter() - self.started_at

    def stop(self) -> float:
        """SIGTERM; seconds until it ended. Killed, and BenchError raised, when it does not end in time."""
        begun = time.perf_counter()
        self.popen.terminate()
        try:
            self.popen.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BenchError(f"the server did not end within {STOP_S_MAX:.0f} s:\n{self.log_end()}") from None
        return time.perf_counter() - begun

    def kill(self) -> None:
        """SIGKILL where there is one."""
        if self.popen.poll() is None:
            self.popen.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            self.popen.wait(STOP_S_MAX)

    def log_end(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2000:]


@dataclass(slots=True)
class Usage:
    """What the watched processes used: CPU seconds (user and system), resident memory in bytes."""

    cpu_s: float = 0.0
    rss_bytes_start: int = 0
    rss_bytes_peak: int = 0
    rss_bytes_end: int = 0


Processes = Callable[[], Sequence[psutil.Process]]
"""Asked again and again, since a server may start and end processes of its own."""


def cpu_s(processes: Processes) -> float:
    """User and system time, of ended and awaited children too."""
    total = 0.0
    for process in processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def rss_bytes(processes: Sequence[psutil.Process]) -> int:
    """Resident memory; what processes may share with each other (a common buffer pool) is counted once."""
    own, shared = 0, 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_info()
            common = getattr(memory, "shared", 0)
            own += memory.rss - common
            shared = max(shared, common)
    return own + shared


@contextlib.contextmanager
def watched(processes: Processes) -> Iterator[Usage]:
    """Fills the yielded Usage: memory is sampled every 20 ms while the block runs."""
    seen = processes()
    usage = Usage(rss_bytes_start=rss_bytes(seen))
    usage.rss_bytes_peak = usage.rss_bytes_start
    done = threading.Event()

    def sample() -> None:
        nonlocal seen
        looked_at = time.monotonic()
        while not done.wait(SAMPLE_S):
            if time.monotonic() - looked_at > LOOK_AGAIN_S:
                seen, looked_at = processes(), time.monotonic()
            usage.rss_bytes_peak = max(usage.rss_bytes_peak, rss_bytes(seen))

    cpu_before_s = cpu_s(processes)
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        done.set()
        thread.join()
        usage.cpu_s = cpu_s(processes) - cpu_before_s
        usage.rss_bytes_end = rss_bytes(processes())
        usage.rss_bytes_peak = max(usage.rss_bytes_peak, usage.rss_bytes_end)


def wait_until_quiet(processes: Processes, seconds_max: float) -> tuple[bool, float]:
    """Waits until the processes use under 2 % of a core over two seconds: background work is done.

    Returns whether they became quiet in time, and the seconds waited."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds_max:
        before_s = cpu_s(processes)
        time.sleep(QUIET_WINDOW_S)
        if cpu_s(processes) - before_s < 0.02 * QUIET_WINDOW_S:
            return True, time.perf_counter() - begun
    return False, time.perf_counter() - begun


def disk_bytes(paths: Sequence[Path]) -> int:
    """Bytes allocated on disk by files and whole folders. Files that vanish meanwhile count as nothing."""
    total = 0
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            try:
                status = file.lstat()
            except FileNotFoundError:
                continue
            if not file.is_dir():
                total += getattr(status, "st_blocks", 0) * 512 or status.st_size
    return total
