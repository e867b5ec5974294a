"""Load by wrk: what the server carries when the generator costs little.

wrk sends prebuilt bodies from a file, each once (bench/wrk.lua), and says how many were answered 200; the growth of
`/stats` has to be just that. It reads answers less closely than `bench.load` does: the sum of `accepted` stays unknown.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench.check import Sent, check_stored, get_json
from bench.events import EventPlan, bodies
from bench.load_report import LoadReport, own_cpu_s
from bench.processes import BenchError

SCRIPT: Final = Path(__file__).with_name("wrk.lua")
ANSWER_S_MAX: Final = 30


def missing() -> str | None:
    """Why it cannot run here; None when it can."""
    return None if shutil.which("wrk") else "no wrk (Debian: apt-get install wrk)"


def wrk_load(
    url: str,
    plan: EventPlan,
    connections: int,
    seconds: float,
    *,
    folder: Path,
    verify: bool = True,
    settle_s: float = 30.0,
) -> LoadReport:
    """Sends the plan; `folder` holds the bodies meanwhile. `verify=False` is for a server that stores nothing.

    A run that its time cuts short has a fault: what was under way then is stored or not."""
    built = list(bodies(plan))
    file = folder / "bodies.ndjson"
    file.write_bytes(b"".join(body.data + b"\n" for body in built))
    before = get_json(url, "/stats")[1] if verify else {}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, int(seconds))}s", f"--timeout={ANSWER_S_MAX}s"]
    command += ["-s", str(SCRIPT), f"{url}/publish", "--", str(file), str(len(built))]
    cpu_before_s = own_cpu_s(resource.RUSAGE_CHILDREN)
    output, complaints = _run(command, seconds + 2 * ANSWER_S_MAX)
    cpu_s = own_cpu_s(resource.RUSAGE_CHILDREN) - cpu_before_s
    file.unlink()
    try:
        found = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise BenchError(f"wrk failed:\n{output[-1000:]}{complaints[-1000:]}") from error
    report = LoadReport(plan=asdict(plan), connections=connections, prebuilt=True, generator_cpu_s=round(cpu_s, 3))
    report.elapsed_s = report.settled_s = found["took_s"] or seconds
    report.requests = found["ok"]
    whole = found["ok"] == len(built) and not found["strays"]
    answered = built if whole else built[: found["ok"]]
    report.events = sum(body.events for body in answered)
    report.events_new = sum(body.new for body in answered)
    report.bytes_sent = sum(len(body.data) for body in answered)
    report.latency_ms = {name: found[f"{name}_us"] / 1000 for name in ("p50", "p90", "p99", "max")}
    report.unknown = len(built) - found["ok"] - found["refused"]
    if found["refused"]:
        report.refused = {"not 200": found["refused"]}
        report.faults.append(f"{found['refused']} requests refused, {complaints.strip()[-400:]}")
    if found["lost"] or found["strays"] or report.unknown > 0:
        report.faults.append(f"{found['lost']} connections failed, {report.unknown} requests not sent or not answered")
    if verify:
        check_stored(url, Sent(built if whole else [], () if whole else built), report, before, settle_s)
    report.set_rates()
    return report


def _run(command: list[str], seconds_max: float) -> tuple[str, str]:
    """What wrk writes to its two outputs. It is interrupted as soon as it says that all is answered."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as wrk:
        assert wrk.stdout is not None
        try:
            for line in wrk.stdout:
                if line == "answered\n":
                    wrk.send_signal(signal.SIGINT)
                    break
            return wrk.communicate(timeout=seconds_max)
        finally:
            wrk.kill()
