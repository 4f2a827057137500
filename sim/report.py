"""One run measured in real time, as a line of JSON and as words for people."""

from __future__ import annotations

import atexit
import functools
import gc
import io
import json
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from sim import coverage
from sim.play import play
from sim.report_page import markdown, page
from sim.report_rows import Data, parse_mutants, rows_of
from sim.report_rto import FILE as REAL_FILE
from sim.runner import Result
from sim.scenario import Promises, Scenario, ScenarioError
from thunderdb import __version__

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


# -- Over many runs


def read_lines(paths: Sequence[str]) -> list[Report]:
    """The reports of earlier sweeps. Raises: ScenarioError."""
    found: list[Report] = []
    for path in paths:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    raise ScenarioError(f"{path}:{number}: not a JSON line of a sweep") from None
    return found


def run_all(scenarios: list[Scenario], seeds: range, jobs: int, err: TextIO) -> list[Report]:
    """Run every scenario with every seed; those marked long with the first only."""
    from sim.sweep import sweep  # it stands on this module

    found: list[Report] = []
    for group, chosen in (
        ([one for one in scenarios if not one.long], seeds), ([one for one in scenarios if one.long], seeds[:1])
    ):  # fmt: skip
        if group and chosen:
            out = io.StringIO()
            sweep(group, chosen, jobs, 0.0, [], out, err)
            found += [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]
    return found


def gather(scenarios: list[Scenario], reports: list[Report], seeds: str) -> Data:
    """What the report shows."""
    here = Path(__file__).parent
    results = [path for path in (here.parent / "tests/mutants/RESULTS.md", here / "data/mutants/RESULTS.md") if path.exists()]
    summary, mutants = parse_mutants(results[0].read_text(encoding="utf-8")) if results else ("", [])
    cpu_s, events = (sum(report.get(key, 0) for report in reports) for key in ("cpu_s", "events"))
    speed = f"{int(events / cpu_s)} engine events per second of a core, " if cpu_s else ""
    ratio = f"{sum(report['sim_s'] for report in reports) / cpu_s:.0f} times real time" if cpu_s else ""
    facts = {
        "ThunderDB": f"{__version__}, commit {commit()}",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "simpy": metadata.version("simpy"),
        "CPU time": f"{cpu_s:.0f} s",
        "Speed": speed + ratio,
        "made by": f"thunderdb-sim report --seeds {seeds}",
    }
    rows = rows_of(scenarios, reports)
    return Data([row for row in rows if row.runs], coverage.total(one.get("coverage", {}) for one in reports), mutants, summary,
                facts, seeds, _real_daemons())  # fmt: skip


def _real_daemons() -> Any:
    """What tools/rto_report has measured, of a work tree or an installation; None where it has not."""
    for folder in (Path(__file__).parents[1] / "docs", Path(__file__).parent / "data" / "docs"):
        if (folder / REAL_FILE).exists():
            return json.loads((folder / REAL_FILE).read_text(encoding="utf-8"))
    return None


def write_report(data: Data, folder: Path) -> list[Path]:
    """Write index.html and report.md. Raises: ScenarioError."""
    written = [folder / "index.html", folder / "report.md"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written[0].write_text(page(data), encoding="utf-8")
        written[1].write_text(markdown(data), encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"cannot write the report to {folder}: {error.strerror or error}") from None
    return written


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
