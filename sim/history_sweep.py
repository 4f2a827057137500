"""Many histories over several processes: a JSON line each, the replay line of each failure, and the sum at the end.

    thunderdb-sim history --seeds 0..500 --jobs 2
    thunderdb-sim history --seeds 17 --log                  one, with its events
    thunderdb-sim history --kind copies --seeds 0..200      mostly copies made by hand
    thunderdb-sim history --seeds 0..50 --twice             each in another process, too: equal hashes over bytes written
    thunderdb-sim history --kill restore --seeds 1..4       killed at every I/O of an operation
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from sim.history import every_io, history
from sim.history.shape import COPIES, REQUESTS, RETENTION
from sim.measure import commit, one_collection
from sim.scenario.scenario import ScenarioError
from sim.sweep import parse_seeds
from sim.twin import Twin, same, serve

KINDS = {"all": None, "copies": COPIES, "retention": RETENTION, "requests": REQUESTS}
Job = tuple[str, str, int]
"""(kind, operation to be killed in or empty, seed)"""


def run_one(job: Job) -> dict[str, Any]:
    """One history, or one operation killed everywhere, as its JSON object."""
    kind, operation, seed = job
    began = time.process_time()
    with one_collection():
        report = _explored(kind, operation, seed)
    report["cpu_s"] = round(time.process_time() - began, 3)
    report["verdict"] = "violation" if report["violations"] else "ok"
    return report


def _explored(kind: str, operation: str, seed: int) -> dict[str, Any]:
    try:
        if operation:
            found = every_io.explore(operation, seed)
            return {
                "kill": operation, "seed": seed, "boundaries": found.boundaries, "states": found.states,
                "violations": found.violations, "counts": dict(found.counts),
            }  # fmt: skip
        else:
            outcome = history.run(seed, KINDS[kind])
            return {
                "history": kind, "seed": seed, "trace_hash": outcome.trace_hash, "commits": outcome.commits,
                "events": outcome.events, "sim_s": outcome.sim_ns / 1e9, "violations": outcome.violations,
                "counts": {name: outcome.counts[name] for name in sorted(outcome.counts) if outcome.counts[name]},
            }  # fmt: skip
    except Exception as error:  # a bug of the simulator itself is a violation, too
        return {"seed": seed, "violations": [f"{type(error).__name__}: {error}"], "counts": {}}


_twin: Twin | None = None


def _start_worker(twice: bool) -> None:
    global _twin
    _twin = Twin("sim.history_sweep", None) if twice else None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides


def _work(job: Job) -> dict[str, Any]:
    """Run it; with a twin, there too (sim/twin.py)."""
    if _twin is not None:
        _twin.ask(job)
    report = run_one(job)
    if _twin is not None:
        same(report, _twin.answer(), f"seed {job[2]}")
    return report


def reports(jobs: list[Job], processes: int, twice: bool = False) -> Iterator[dict[str, Any]]:
    global _twin
    if processes == 1:
        _twin = Twin("sim.history_sweep", None) if twice else None
        try:
            yield from map(_work, jobs)
        finally:
            if _twin is not None:
                _twin.close()
                _twin = None
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(max(1, processes // 2) if twice else processes, _start_worker, (twice,)) as pool:
        yield from pool.imap_unordered(_work, jobs)


@click.command("history")
@click.option("--seeds", default="0..50", show_default=True, help="Half open, A..B, or one.")
@click.option("--kind", type=click.Choice(list(KINDS)), default="all", show_default=True, help="What they are made of.")
@click.option("--kill", "operation", type=click.Choice(every_io.OPERATIONS), help="Kill at every I/O of this instead.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--twice", is_flag=True, help="Each also in another process, with another hash seed, folder and time zone.")
@click.option("--time", "time_s", type=float, default=0.0, help="Stop after so many seconds.")
@click.option("--log", is_flag=True, help="Print the events of the first seed on stderr.")
def command(seeds: str, kind: str, operation: str | None, jobs: int, twice: bool, time_s: float, log: bool) -> None:
    """Random histories with archive, backups and restores, compared with the truth at every LSN; JSON lines."""
    try:
        chosen = parse_seeds(seeds)
    except ScenarioError as error:
        raise click.BadParameter(error.message, param_hint="--seeds") from None
    if log:
        lines: list[str] = []
        history.run(chosen[0], KINDS[kind], lines)
        click.echo("\n".join(lines), err=True)
    totals: Counter[str] = Counter()
    began = time.monotonic()
    for report in reports([(kind, operation or "", seed) for seed in chosen], jobs, twice):
        totals.update(report["counts"])
        totals.update(runs=1, violations=int(bool(report["violations"])), cpu_ms=int(report["cpu_s"] * 1000))
        totals.update({name: report[name] for name in ("commits", "states") if name in report})
        click.echo(json.dumps(report))
        if report["violations"]:
            what = f"--kill {operation}" if operation else f"--kind {kind}"
            replay = f"thunderdb-sim history {what} --seeds {report['seed']}"
            click.echo(f"{replay}  # commit {commit()}: {report['violations'][0][:300]}", err=True)
        sys.stdout.flush()
        if time_s and time.monotonic() - began > time_s:
            break
    shown = ", ".join(f"{name} {totals[name]}" for name in sorted(totals) if name not in ("runs", "violations"))
    click.echo(f"{totals['runs']} runs, {totals['violations']} violations ({shown})")
    sys.exit(0 if totals["runs"] and not totals["violations"] else 1)


if __name__ == "__main__":  # a twin's side
    sys.stdin.readline()
    serve(lambda job: run_one(tuple(job)))
