"""Another source that is right where this one is wrong: an older release, or the one without the planted bug.

    python -P sim/shrinking/reference.py      with the other source as PYTHONPATH: a run a line in, what it violated a line out

G1. What the author of a scenario expects of a step (`restore ended ok, expected refused`) holds for the scenario as it was
    written. Whether it still does with a step or with work left out, nothing in the run says; a source that passes what is left
    does.
G2. A run goes there as a replay file's document, as whoever gets the file will play it.
G3. A run that takes longer there than its limit, or ends its process, does not pass.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MEMORY_BYTES = 6 << 30


class NoReference(Exception):
    """The other source cannot be run. `args` is (what,)."""


class Reference:
    """A process on the other source, which plays what it is given."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.cpu_s = 0.0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def passes(self, document: dict[str, Any], seed: int, limit_s: float) -> bool:
        """Whether nothing is violated there (G3). Raises: NoReference."""
        return self.violations(document, seed, limit_s) == []

    def violations(self, document: dict[str, Any], seed: int, limit_s: float) -> list[str] | None:
        """What a run violates there; None if it does not end (G3). Raises: NoReference if no simulator answers there."""
        process = self._process = self._process or self._begin()
        if process.stdin is None or process.stdout is None:
            raise NoReference(f"{self.root}: no simulator answers there")
        process.stdin.write(json.dumps([document, seed, limit_s]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            self.cpu_s += limit_s
            self._end()
            return None
        violations: list[str]
        violations, cpu_s = json.loads(answer)
        self.cpu_s += cpu_s
        return violations

    def _begin(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.root), "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(
            [sys.executable, "-P", __file__], cwd=self.root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        if process.stdout is None or process.stdout.readline().strip() != str(self.root):
            process.kill()
            process.wait()
            raise NoReference(f"{self.root}: there is no simulator in this folder (thunderdb/ and sim/)")
        return process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def serve() -> None:
    """The process on the other source: only what every version of it has is used."""
    from sim.incident.play import play
    from sim.scenario.scenario import build
    from sim.scenario.schema import wrap

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print(Path(play.__code__.co_filename).resolve().parents[2], flush=True)
    for line in sys.stdin:
        document, seed, limit_s = json.loads(line)
        began_s = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        violations = list(play(build(wrap(document, "replay")), seed).violations)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([violations, time.process_time() - began_s]), flush=True)


if __name__ == "__main__":
    serve()
