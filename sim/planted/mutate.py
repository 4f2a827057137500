"""Run seeds on whatever source is on the path: the child process of `thunderdb-sim mutants`.

    python -m sim.planted.mutate ROOT RUN A..B [--all]

prints one JSON line a seed and stops at the first that fails (with --all: goes on). ROOT is where `thunderdb` must come from,
so that a mistake in the path cannot pass the unchanged source off as a planted bug.

K1. A seed that does not end is a finding: it is one after SEED_LIMIT_S of CPU time, so that a busy machine finds nothing.
K2. A process that waits for something outside of it is trouble, not a finding: nothing in a simulated world does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

SEED_LIMIT_S = 60
STUCK_S = 1800
"""Of real time, and longer than any machine shared by few makes of SEED_LIMIT_S."""
MEMORY_BYTES = 6 << 30


def main(arguments: list[str]) -> int:
    root, run, seeds = arguments[:3]
    go_on = "--all" in arguments[3:]
    import thunderdb

    if not Path(thunderdb.__file__ or "").resolve().is_relative_to(Path(root).resolve()):
        raise SystemExit(f"thunderdb comes from {thunderdb.__file__}, not from {root}")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    one = _runner(root, run)
    first, _, end = seeds.partition("..")
    for seed in range(int(first), int(end)):
        line = _guarded(one, seed)
        print(json.dumps(line), flush=True)
        if line["violations"] and not go_on:
            return 0
    return 0


def _runner(root: str, run: str) -> Any:
    """A function from a seed to its violations."""
    kind, _, name = run.partition(" ")
    if kind == "case":
        from sim.planted import cases, cases_restore

        case = {**cases.CASES, **cases_restore.CASES}[name]
        return lambda seed: case(seed)
    from sim.incident.play import play
    from sim.scenario import scenario

    if run == "--generated":
        from sim.scenario.generate import generated

        return lambda seed: play(generated(seed), seed).violations
    found = scenario.load(str(Path(root) / run))
    return lambda seed: play(found, seed).violations


def _guarded(one: Any, seed: int, limit_s: float = SEED_LIMIT_S) -> dict[str, Any]:
    """Run a seed; a limit on CPU time (K1) ends the process, since nothing less surely ends a loop."""
    began_s = time.process_time()

    def too_long(_signal: int, _frame: Any) -> None:
        line = {"seed": seed, "violations": [f"Livelock: the seed takes more than {limit_s:g} s of CPU time"], "cpu_s": limit_s}
        os.write(1, (json.dumps(line) + "\n").encode())
        os._exit(0)

    def stuck(_signal: int, _frame: Any) -> None:
        os.write(2, f"seed {seed} has waited for {STUCK_S} s, for something outside of its world\n".encode())
        os._exit(3)

    signal.signal(signal.SIGPROF, too_long)
    signal.signal(signal.SIGALRM, stuck)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    signal.alarm(STUCK_S)
    violations = one(seed)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    return {"seed": seed, "violations": violations, "cpu_s": round(time.process_time() - began_s, 3)}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
