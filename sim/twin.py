"""The same run in another process that differs in all that must not matter.

    number  PYTHONHASHSEED  TZ              working directory
    0       1               UTC             /
    1       4242            Asia/Kathmandu  /tmp (or the like)

A `Twin` is a process of that kind that is asked for runs, one line of JSON each way: the job, then the run's report.
`sweep --twice` and `history --twice` give each worker one, and `diverge` streams two of them side by side.

T1. Two reports of one run are equal but for what real time it took; the trace hash covers every byte that was written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim import source
from sim.measure import Report
from sim.source import GENERATED, Source

HASH_SEEDS = ("1", "4242")
ZONES = ("UTC", "Asia/Kathmandu")
MEASURED = ("wall_s", "cpu_s", "events_per_s", "times_real")
"""What differs between two runs of the same (T1)."""


def start(module: str, number: int, request: Any) -> subprocess.Popen[bytes]:
    """Start `python -m module` as the table says; `request` is its first line of input."""
    path = [str(Path(__file__).resolve().parents[1]), *(os.path.abspath(entry) for entry in sys.path if entry)]
    environment = {**os.environ, "PYTHONHASHSEED": HASH_SEEDS[number], "TZ": ZONES[number], "PYTHONPATH": os.pathsep.join(path)}
    folder = "/" if number == 0 else tempfile.gettempdir()
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C is the parent's: the end of input is the end
    )  # fmt: skip
    say(process, request)
    return process


def say(process: subprocess.Popen[bytes], line: Any) -> None:
    if process.stdin is not None:
        process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()


class Twin:
    """A process that runs what this one runs: `module`, which reads a request and then jobs."""

    def __init__(self, module: str, request: Any) -> None:
        here = os.environ.get("PYTHONHASHSEED") == HASH_SEEDS[1]
        self._process = start(module, 0 if here else 1, request)

    def ask(self, job: Any) -> None:
        say(self._process, job)

    def answer(self) -> Report:
        """The report of what was asked for; each question has one, in order. Raises: EOFError if the process has died."""
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            raise EOFError(f"the twin ended with {self._process.wait()}")
        report: Report = json.loads(line)
        return report

    def close(self) -> None:
        """End it, also in the middle of a run."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def differing(one: Report, other: Report) -> list[str]:
    """The keys in which two reports of the same run differ (T1)."""
    other = json.loads(json.dumps(other))
    one = json.loads(json.dumps(one))
    return [key for key in sorted({*one, *other}) if key not in MEASURED and one.get(key) != other.get(key)]


def same(report: Report, other: Report, locate: str) -> None:
    """A run that is not the same in another process is a violation; `locate` is the command that says where."""
    keys = differing(report, other)
    report["twin"] = other.get("trace_hash", "")
    if keys:
        report["verdict"] = "violation"
        report["violations"] = [*report["violations"], f"another process gives another {', '.join(keys)}: {locate}"]


def request_of(paths: list[str], promises: list[str]) -> dict[str, Any]:
    """What a twin is told first, wherever it runs."""
    return {"paths": [path if path == GENERATED else os.path.abspath(path) for path in paths], "promises": promises}


def load(request: dict[str, Any]) -> list[Source]:
    return [source.load(path, request["promises"]) for path in request["paths"]]


def serve(measured: Callable[[Any], Report]) -> None:
    """The twin's side: answer each job of standard input."""
    for line in sys.stdin:
        try:
            report = measured(json.loads(line))
        except Exception as error:  # what the parent says of its own run (sweep._broken)
            report = {"violations": [f"{type(error).__name__}: {error}"], "verdict": "violation"}
        try:
            print(json.dumps(report), flush=True)
        except BrokenPipeError:
            os._exit(0)


def main() -> None:
    loaded = load(json.loads(sys.stdin.readline()))
    serve(lambda job: source.measured(loaded[job[0]], job[1]))


if __name__ == "__main__":
    main()
