"""One run measured in real time, as a line of JSON and as words for people."""

from __future__ import annotations

import atexit
import functools
import gc
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sim.incident.play import play
from sim.runs.runner import Result
from sim.scenario.scenario import Promises, Scenario

Report = dict[str, Any]


def measure(scenario: Scenario, seed: int, log: list[str] | None = None) -> Report:
    """Run a scenario with a seed; return its report."""
    began, cpu = time.perf_counter(), time.process_time()
    with one_collection():
        result = play(scenario, seed, log=log)
    return report(result, time.perf_counter() - began, time.process_time() - cpu)


atexit.register(gc.unfreeze)  # or native modules find at exit that somebody still holds their types


@contextmanager
def one_collection() -> Iterator[None]:
    """Collect a run's garbage at once, after it, and what has survived never again: a third of the time of a short run."""
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def report(result: Result, wall_s: float, cpu_s: float) -> Report:
    """A result as its JSON object. The first ten keys are a promise to users; the others may grow."""
    return {
        "scenario": result.scenario,
        "seed": result.seed,
        "verdict": result.verdict,
        "trace_hash": result.trace_hash,
        "rpo_transactions": result.rpo_transactions,
        "rpo_s": result.rpo_ns / 1e9,
        "rto_s": result.rto_ns / 1e9,
        "sim_s": result.sim_ns / 1e9,
        "wall_s": round(wall_s, 3),
        "events": result.events,
        "cpu_s": round(cpu_s, 3),
        "events_per_s": int(result.events / cpu_s) if cpu_s > 0 else 0,
        "times_real": round(result.sim_ns / 1e9 / cpu_s, 3) if cpu_s > 0 else 0,
        "events_by_kind": result.events_by_kind,
        "faults": result.faults,
        "coverage": result.coverage,
        "operator_s": result.operator_ns / 1e9,
        "given_up": result.given_up,
        "marks": [[round(at / 1e9, 6), kind, what] for at, kind, what in result.marks],
        "damaged": result.damaged,
        "refusals": result.refusals,
        "transactions": result.transactions,
        "driver": result.driver,
        "errors": result.errors,
        "violations": result.violations,
    }


def words(report: Report) -> str:
    """A report for people."""
    faults = ", ".join(f"{kind} {count}" for kind, count in report["faults"].items()) or "none"
    lines = [
        f"{report['scenario']} seed {report['seed']}: {report['verdict']}",
        f"  rpo {report['rpo_transactions']} transactions, {report['rpo_s']:.6f} s; rto {report['rto_s']:.6f} s",
        f"  {report['transactions']} transactions, {report['events']} events in {report['sim_s']:.3f} s simulated, "
        f"{report['wall_s']:.2f} s real ({report['events_per_s']} events per second of a core, "
        f"{report['times_real']:.3g} times real time), driver {report['driver']}",
        f"  faults: {faults}",
        f"  trace {report['trace_hash']}",
    ]
    return "\n".join(lines + [f"  VIOLATION {text}" for text in report["violations"]])


def promised_rpo(promises: Promises) -> int | str:
    """A promised RPO as a scenario writes it."""
    if promises.rpo_ns >= 0:
        return f"{promises.rpo_ns / 1e9:g}s"
    return promises.rpo if promises.rpo >= 0 else "any"


def replay_line(report: Report, path: str, promises: list[str]) -> str:
    """The one line that reproduces a failure."""
    overrides = "".join(f" --promise {promise}" for promise in promises)
    return (
        f"thunderdb-sim run {path} --seed {report['seed']}{overrides}"
        f"  # commit {commit()} trace {report['trace_hash']}: {'; '.join(report['violations'])[:300]}"
    )


@functools.cache
def commit() -> str:
    """The commit of the source that runs, if it is a work tree of git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip() or "unknown"
