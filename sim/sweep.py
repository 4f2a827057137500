"""Many seeds over several processes: a JSON line a run as it ends, progress on stderr, and the sum at the end.

Each worker takes the next (file, seed) by itself, so a slow seed holds up nobody. Ctrl-C and the time limit keep what is done.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from sim.measure import Report, replay_line
from sim.scenario import coverage
from sim.scenario.scenario import ScenarioError
from sim.source import Source, measured, place
from sim.twin import Twin, request_of, same

Job = tuple[int, int]
"""(position of the scenario, seed)"""
NO_END = 1 << 30


@dataclass(slots=True)
class Totals:
    """The sum of a sweep."""

    runs: int = 0
    violations: int = 0
    events: int = 0
    busy_s: float = 0.0
    sim_s: float = 0.0
    rto_s: list[float] = field(default_factory=list)
    runs_of: Counter[int] = field(default_factory=Counter)
    fired: dict[int, Counter[str]] = field(default_factory=dict)
    coverage: dict[int, Counter[str]] = field(default_factory=dict)
    enabled_in: Counter[str] = field(default_factory=Counter)
    """Of generated incidents: in how many each fault class was there."""
    missing: list[str] = field(default_factory=list)
    """Fault classes that were enabled and never fired."""
    interrupted: bool = False

    def add(self, report: Report, position: int = 0) -> None:
        self.runs += 1
        self.runs_of[position] += 1
        self.fired.setdefault(position, Counter()).update(report.get("faults", {}))
        self.coverage.setdefault(position, Counter()).update(report.get("coverage", {}))
        self.enabled_in.update(report.get("classes", ()))
        self.violations += report["verdict"] != "ok"
        self.events += report["events"]
        self.busy_s += report.get("cpu_s", 0.0)
        self.sim_s += report.get("sim_s", 0.0)
        self.rto_s.append(report["rto_s"])

    def progress(self, total: int, elapsed_s: float) -> str:
        rate = self.runs / elapsed_s if elapsed_s > 0 else 0.0
        done = f"{self.runs}/{total}" if total < NO_END else f"{self.runs}"
        speed = int(self.events / self.busy_s) if self.busy_s > 0 else 0
        ratio = self.sim_s / self.busy_s if self.busy_s > 0 else 0.0
        return (
            f"{done} runs, {self.violations} violations, {rate:.1f} runs/s, {speed} events/s a core, "
            f"{ratio:.3g} times real time"
        )


def parse_seeds(text: str) -> range:
    """`A..B`, half open, or one seed. Raises: ScenarioError."""
    low, dots, high = text.partition("..")
    try:
        first = int(low)
        seeds = range(first, int(high)) if dots else range(first, first + 1)
    except ValueError:
        raise ScenarioError(f"--seeds {text}: expected A..B (half open) or one seed, such as 0..200") from None
    return seeds


def read_corpus(path: str) -> list[int]:
    """The seeds of a corpus: the first word of each line that is no comment. Raises: ScenarioError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from None
    seeds = []
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].split()
        if word and not word[0].isdigit():
            raise ScenarioError(f"{path}:{number}: {word[0]!r} is no seed: a line is a seed, and why it is here")
        seeds += [int(word[0])] if word else []
    return seeds


_scenarios: list[Source] = []

_twin: Twin | None = None


def _start_worker(scenarios: list[Source], promises: list[str] | None) -> None:
    """With promises, even none, each run is also asked of a twin."""
    global _scenarios, _twin
    _scenarios = scenarios
    _twin = None if promises is None else _its_twin(scenarios, promises)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides


def _its_twin(scenarios: list[Source], promises: list[str]) -> Twin:
    return Twin("sim.twin", request_of([place(scenario) for scenario in scenarios], promises))


def _work(job: Job) -> tuple[int, Report]:
    position, seed = job
    scenario = _scenarios[position]
    if _twin is not None:
        _twin.ask(job)  # it runs beside this one
    try:
        report = measured(scenario, seed)
    except Exception as error:  # a bug of the simulator itself is a violation, too
        report = _broken("generated" if scenario is None else scenario.name, seed, error)
    if _twin is not None:
        try:
            same(report, _twin.answer(), f"thunderdb-sim diverge {place(scenario)} --seed {seed}")
        except EOFError as error:
            report = _broken(report["scenario"], seed, error)
    return position, report


def _broken(name: str, seed: int, error: Exception) -> Report:
    return {
        "scenario": name, "seed": seed, "verdict": "violation", "trace_hash": "", "rpo_transactions": 0,
        "rpo_s": 0.0, "rto_s": 0.0, "sim_s": 0.0, "wall_s": 0.0, "events": 0, "faults": {},
        "violations": [f"{type(error).__name__}: {error}"],
    }  # fmt: skip


def sweep(
    scenarios: Sequence[Source], seeds: Iterable[int], jobs: int, time_s: float, promises: list[str], out: TextIO, err: TextIO,
    twice: bool = False,
) -> Totals:  # fmt: skip
    """Run every scenario with every seed, `twice` also in another process; write as the module says.

    Returns the totals so far on Ctrl-C.
    """
    totals = Totals()
    work: Iterator[Job] = ((position, seed) for seed in seeds for position in range(len(scenarios)))
    total = len(seeds) * len(scenarios) if isinstance(seeds, Sized) else NO_END
    began = time.monotonic()
    shown_at = 0.0
    live = err.isatty()
    reports = _reports(list(scenarios), work, jobs, began + time_s if time_s else 0.0, promises if twice else None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for position, report in reports:
            totals.add(report, position)
            print(json.dumps(report), file=out, flush=True)
            if report["verdict"] != "ok":
                print(_clear(live) + replay_line(report, place(scenarios[position]), promises), file=err, flush=True)
            now = time.monotonic()
            if now - shown_at > (0.2 if live else 10.0):
                shown_at = now
                print(_clear(live) + totals.progress(total, now - began), end="" if live else "\n", file=err, flush=True)
    except KeyboardInterrupt:
        print(_clear(live) + "interrupted", file=err, flush=True)
        reports.close()
        totals.interrupted = True
    _cover(scenarios, totals, err)
    print(_clear(live) + totals.progress(total, time.monotonic() - began), file=err, flush=True)
    print(f"{totals.runs} runs, {totals.violations} violations", file=out, flush=True)
    return totals


def _cover(scenarios: Sequence[Source], totals: Totals, err: TextIO) -> None:
    """Show what struck what, and name the fault classes that were enabled and never fired (coverage.C1)."""
    everything = coverage.total(totals.coverage.values())
    if everything:
        print(f"faults by file and phase:\n{coverage.text(everything)}", file=err, flush=True)
    if None in scenarios and totals.runs >= coverage.MANY_RUNS:
        missing = coverage.holes(everything)
        print(f"not struck, though it matters there ({len(missing)}): {', '.join(missing) or '-'}", file=err, flush=True)
    for position, scenario in enumerate(scenarios):
        if totals.runs_of[position] < coverage.ENOUGH_RUNS or totals.interrupted:
            continue
        if scenario is None:
            totals.missing += coverage.silent(totals.enabled_in, totals.coverage[position])
            continue
        for fault in coverage.never_fired(scenario, totals.fired[position], totals.coverage[position]):
            totals.missing.append(f"{scenario.name}: {fault} is enabled, but never fired in {totals.runs_of[position]} runs")
    for line in totals.missing:
        print(line, file=err, flush=True)


def _clear(live: bool) -> str:
    return "\r\x1b[K" if live else ""


def _reports(
    scenarios: list[Source], work: Iterator[Job], jobs: int, deadline: float, twins: list[str] | None
) -> Generator[tuple[int, Report], None, None]:
    """Yield reports as runs end, until the work or the time is over. Closing it ends the workers."""
    if twins is not None:
        jobs = max(1, jobs // 2)  # each has a twin that works beside it
    if jobs == 1:
        yield from _alone(scenarios, work, deadline, twins)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(jobs, _start_worker, (scenarios, twins)) as pool:
        running: list[Any] = []
        while True:
            while len(running) < jobs * 2 and not _over(deadline):
                job = next(work, None)
                if job is None:
                    break
                running.append(pool.apply_async(_work, (job,)))
            if not running:
                pool.close()
                pool.join()  # terminating workers that have just begun can hang
                return
            done = [one for one in running if one.ready()]
            running = [one for one in running if not one.ready()]
            for one in done:
                yield one.get()
            if not done:
                running[0].wait(0.02)


def _alone(
    scenarios: list[Source], work: Iterator[Job], deadline: float, twins: list[str] | None
) -> Iterator[tuple[int, Report]]:
    global _scenarios, _twin
    _scenarios = scenarios
    _twin = None if twins is None else _its_twin(scenarios, twins)
    try:
        for job in work:
            if _over(deadline):
                return
            yield _work(job)
    finally:
        if _twin is not None:
            _twin.close()
            _twin = None


def _over(deadline: float) -> bool:
    return deadline > 0 and time.monotonic() >= deadline
