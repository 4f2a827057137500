"""The command line: run, sweep, list, exhaustive, mutants. Data on stdout, talk on stderr.

Exit codes: 0 every promise held; 1 one did not, or nothing ran; 2 wrong usage or scenario.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, TextIO

import click

from sim import diverge, history_sweep
from sim.gather import gather, read_lines, run_all, write_report
from sim.measure import measure, promised_rpo, replay_line, words
from sim.planted import mutants, shrunk
from sim.runs import exhaustive
from sim.scenario import generate
from sim.scenario import scenario as scenarios
from sim.scenario.scenario import Scenario, ScenarioError
from sim.shrinking.reference import NoReference
from sim.shrinking.shrink import shrink
from sim.shrinking.shrunk import JUDGED, write
from sim.source import GENERATED
from sim.sweep import parse_seeds, read_corpus, sweep
from thunderdb import __version__

_PROMISE_HELP = "Replace a promise, e.g. rto=1ms. May be given several times."


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="thunderdb-sim")
def main() -> None:
    """Run the engine in a simulated world that breaks on purpose.

    \b
    Examples:
      thunderdb-sim list
      thunderdb-sim run scenarios/power_cut.yaml --seed 7
      thunderdb-sim run scenarios/power_cut.yaml --seed 7 --promise rto=1ms
      thunderdb-sim sweep scenarios/power_cut.yaml --seeds 0..200 --jobs 2
      thunderdb-sim exhaustive --sample 200
      thunderdb-sim mutants --list
    """


@main.command("run")
@click.argument("file", required=False)
@click.option("--seed", type=int, default=None, help="The run's seed (0; of a replay file: its own).")
@click.option("--replay", type=click.Path(), help="A replay file: it holds the plan, not only the seed.")
@click.option("--generated", "generated_", is_flag=True, help="The incident that is generated from the seed.")
@click.option("--print", "printed", is_flag=True, help="Print the scenario as YAML instead of running it (with --generated).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--promise", "promises", multiple=True, help=_PROMISE_HELP)
@click.option("--log", is_flag=True, help="Print the engine's events on stderr.")
def run_command(
    file: str | None, seed: int | None, replay: str | None, generated_: bool, printed: bool, as_json: bool,
    promises: tuple[str, ...], log: bool,
) -> None:  # fmt: skip
    """Run the scenario FILE, a replay file, or a generated incident, with one seed."""
    file = GENERATED if generated_ else replay or file
    if file is None:
        raise click.UsageError("which scenario? Give a FILE, --replay FILE, or --generated.")
    if printed and not generated_:
        raise click.UsageError("--print shows a generated incident: give --generated and --seed.")
    scenario = _generated(seed or 0, promises) if generated_ else _load(file, promises)
    seed = scenario.seed if seed is None else seed
    if printed:
        click.echo(generate.text(seed), nl=False)
        return
    lines: list[str] | None = [] if log else None
    report = measure(scenario, seed, log=lines)
    for line in lines or []:
        click.echo(line, err=True)
    click.echo(json.dumps(report) if as_json else words(report))
    if report["verdict"] != "ok":
        click.echo(replay_line(report, file, list(promises)), err=True)
        sys.exit(1)


@main.command("sweep")
@click.argument("files", nargs=-1)
@click.option("--generated", "generated_", is_flag=True, help="Incidents that are generated, one from each seed.")
@click.option("--corpus", type=click.Path(), help="Generated incidents, of the seeds that this file lists.")
@click.option("--seeds", default=None, help="Half open, A..B (0..100; without end if there is a time).")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes (as many as cores).")
@click.option("--time", "time_s", type=click.FloatRange(0), default=0.0, help="Stop after so many seconds of CPU time.")
@click.option("--minutes", type=click.FloatRange(0), default=0.0, help="Stop after so many minutes.")
@click.option("--json", "lines", type=click.File("w"), default="-", help="Where the JSON lines go (stdout).")
@click.option("--promise", "promises", multiple=True, help=_PROMISE_HELP)
@click.option("--twice", is_flag=True, help="Each run also in another process, with another hash seed, folder and time zone.")
def sweep_command(
    files: tuple[str, ...], generated_: bool, corpus: str | None, seeds: str | None, jobs: int | None, time_s: float,
    minutes: float, lines: TextIO, promises: tuple[str, ...], twice: bool,
) -> None:  # fmt: skip
    """Run every scenario FILE, or generated incidents, with every seed; one JSON line a run, last `N runs, M violations`."""
    if bool(files) == (generated_ or corpus is not None):
        raise click.UsageError("which scenarios? Give FILEs, or --generated, or --corpus FILE.")
    loaded: list[Scenario | None] = [_load(file, promises) for file in files] or [None]
    time_s = time_s or minutes * 60
    try:
        chosen: Iterable[int] = read_corpus(corpus) if corpus else parse_seeds(seeds or "0..100")
    except ScenarioError as error:
        _leave(error)
    if seeds is None and time_s and not corpus:
        chosen = itertools.count()
    totals = sweep(loaded, chosen, jobs or os.cpu_count() or 1, time_s, list(promises), lines, sys.stderr, twice)
    if lines.name != "<stdout>":
        click.echo(f"{totals.runs} runs, {totals.violations} violations")
    sys.exit(0 if totals.runs and not totals.violations and not totals.missing else 1)


@main.command("diverge")
@click.argument("file", required=False)
@click.option("--generated", "generated_", is_flag=True, help="The incident that is generated from the seed.")
@click.option("--seed", type=int, default=0, show_default=True, help="The run's seed.")
@click.option("--promise", "promises", multiple=True, help=_PROMISE_HELP)
def diverge_command(file: str | None, generated_: bool, seed: int, promises: tuple[str, ...]) -> None:
    """Run FILE twice, in processes that differ in hash seed, time zone, folder and start; name the first event that differs."""
    if generated_ == (file is not None):
        raise click.UsageError("which run? Give a FILE or --generated, and --seed.")
    path = GENERATED if file is None else _load(file, promises).path
    try:
        found = diverge.compare(path, seed, list(promises))
    except EOFError as error:
        click.echo(f"thunderdb-sim: {error}", err=True)
        sys.exit(1)
    click.echo(found.text or f"{found.events} events, all equal; trace {found.trace_hash}")
    sys.exit(1 if found.text else 0)


@main.command("exhaustive")
@click.argument("file", default="scenarios/power_cut.yaml")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the workload.")
@click.option("--operations", type=click.IntRange(4), default=200, show_default=True, help="Statements of the workload.")
@click.option("--depth", type=click.IntRange(1, 2), default=2, show_default=True, help="2: crash in the recoveries, too.")
@click.option("--mixes", type=click.IntRange(0), default=1, show_default=True, help="Seeded mixes of landed and lost.")
@click.option("--sample", type=int, default=0, help="Only about so many boundaries of the workload, a tenth in recoveries.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes (as many as cores).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def exhaustive_command(
    file: str, seed: int, operations: int, depth: int, mixes: int, sample: int, jobs: int | None, as_json: bool
) -> None:
    """Crash at every I/O boundary of a workload, and at every one of the recoveries that follow."""
    began = time.monotonic()
    recording, found = exhaustive.explore(
        _load(file, ()), seed, operations, depth, mixes, sample, jobs or os.cpu_count() or 1, sys.stderr
    )
    outcome = exhaustive.summary(recording, found, time.monotonic() - began)
    if as_json:
        click.echo(json.dumps(outcome))
    else:
        click.echo(
            f"{outcome['operations']} operations, {outcome['commits']} commits, {outcome['boundaries']} I/O boundaries; "
            f"{outcome['states']} states covered ({outcome['states_by_depth'][0]} crashes of the workload, "
            f"{outcome['states_by_depth'][1]} of a recovery), {outcome['recoveries']} of them different and recovered, "
            f"{len(found.violations)} violations, {outcome['wall_s']} s"
        )
    sys.exit(0 if found.states and not found.violations else 1)


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a scenario.")
def list_command(as_json: bool) -> None:
    """List the scenarios and what each promises."""
    for path in _scenario_files():
        scenario = _load(str(path), ())
        promises = {
            "rpo": promised_rpo(scenario.promises),
            "rto_s": scenario.promises.rto_ns / 1e9,
            "service_s": scenario.promises.service_ns / 1e9,
        }
        if as_json:
            click.echo(json.dumps({"name": scenario.name, "file": str(path), "about": scenario.about, "promises": promises}))
        else:
            click.echo(f"{path}  {scenario.about} (rpo {promises['rpo']}, rto {promises['rto_s']:g} s)")


@main.command("report")
@click.argument("files", nargs=-1)
@click.option("--seeds", default="0..20", show_default=True, help="Half open, A..B; scenarios marked long run with the first.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes (as many as cores).")
@click.option("--out", default="report", show_default=True, help="Folder that gets index.html and report.md.")
@click.option("--from", "lines", type=click.Path(exists=True), multiple=True, help="JSON lines of a sweep, instead of running.")
@click.option("--no-long", is_flag=True, help="Leave out the scenarios that are marked long.")
def report_command(
    files: tuple[str, ...], seeds: str, jobs: int | None, out: str, lines: tuple[str, ...], no_long: bool
) -> None:
    """Run the scenarios (all of them, or FILES) and write the report: promises beside what was measured."""
    loaded = [_load(file, ()) for file in files or [str(path) for path in _scenario_files()]]
    loaded = [scenario for scenario in loaded if not (no_long and scenario.long)]
    try:
        chosen = parse_seeds(seeds)
        found = read_lines(lines) if lines else run_all(loaded, chosen, jobs or os.cpu_count() or 1, sys.stderr)
        data = gather(loaded, found, seeds)
        written = write_report(data, Path(out))
    except ScenarioError as error:
        _leave(error)
    for path in written:
        click.echo(path)
    click.echo(f"{data.runs} runs, {data.violations} violations")
    sys.exit(0 if data.runs and not data.violations else 1)


@main.command("shrink")
@click.argument("file", required=False)
@click.option("--seed", type=int, default=None, help="The failing seed (of a replay file: its own).")
@click.option("--replay", type=click.Path(), help="Shrink a replay file further.")
@click.option("--generated", "generated_", is_flag=True, help="The incident that is generated from the seed.")
@click.option("--planted", "bug", metavar="NAME", help="Planted bugs (A,B,… or `all`): find failures, and shrink them.")
@click.option("--time", "time_s", type=float, default=300.0, show_default=True, help="Stop after so many seconds of CPU time.")
@click.option("--record", "recorded", is_flag=True, help="Write the rows of planted bugs into tests/mutants/SHRUNK.md.")
@click.option("--jobs", default=1, show_default=True, help="Planted bugs at a time.")
@click.option("--out", default="shrunk", show_default=True, help="Folder for the replay file and its pytest file.")
@click.option(
    "--good", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None, metavar="DIR",
    help="A source without the bug (an older release, say): asked where only the scenario's author says what is right.",
)  # fmt: skip
def shrink_command(
    file: str | None, seed: int | None, replay: str | None, generated_: bool, bug: str | None, time_s: float, recorded: bool,
    jobs: int, out: str, good: Path | None,
) -> None:  # fmt: skip
    """Reduce a failing run to the least that still fails in the same way."""
    if bug:
        _shrink_planted(bug, time_s, jobs, recorded, generated_)
        return
    path = replay or file
    if generated_:
        Path(out).mkdir(parents=True, exist_ok=True)
        path = f"{out}/generated_{seed or 0}.full.yaml"
        Path(path).write_text(generate.text(seed or 0), encoding="utf-8")
    if path is None:
        raise click.UsageError("which failure? Give a FILE and --seed, or --replay FILE.")
    try:
        found = shrink(path, seed, time_s, lambda line: click.echo(line, err=True), good)
        written = write(found, Path(out), f"{Path(path).stem}_{found.document['seed']}")
    except ScenarioError as error:
        _leave(error)
    except NoReference as error:
        raise click.BadParameter(str(error), param_hint="--good") from None
    click.echo(
        f"{found.faults} faults, {found.transactions} transactions (of {found.first[0]} and {found.first[1]}), "
        f"after {found.tried} runs, {found.cpu_s:.0f} s of CPU, from {found.start}"
        f"{JUDGED if found.judged else ''}: {found.violations[0][:200]}"
    )
    for one in written:
        click.echo(one)


def _shrink_planted(name: str, time_s: float, jobs: int, recorded: bool, generated_: bool) -> None:
    names = name.split(",")
    chosen = [
        mutant for mutant in mutants.load_all()
        if (name == "all" or mutant.name in names) and (generated_ or not mutant.run.startswith("case "))
    ]  # fmt: skip
    if generated_:
        chosen = [replace(mutant, run=shrunk.GENERATED, seed=0) for mutant in chosen]
    if not chosen:
        raise click.BadParameter(f"no planted bug {name!r} that a scenario finds; see `mutants --list`", param_hint="--planted")
    click.echo("\n".join(shrunk.HEAD))
    rows: list[str] = []

    def told(outcome: shrunk.Outcome) -> None:
        rows.append(outcome.row())
        click.echo(outcome.row())
        sys.stdout.flush()
        if recorded:
            shrunk.record([outcome])

    found = shrunk.shrink_planted(chosen, time_s, 200, jobs, told)
    click.echo(f"\n{shrunk.summary(rows)}")
    sys.exit(0 if sum(outcome.small for outcome in found) >= 0.9 * len(found) else 1)


@main.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of scenario files, for editors."""
    click.echo(json.dumps(scenarios.json_schema(), indent=1))


main.add_command(mutants.command)
main.add_command(history_sweep.command)


def _scenario_files() -> list[Path]:
    """The scenarios of the work tree, or those that came with the package."""
    for folder in (Path("scenarios"), Path(__file__).parents[1] / "scenarios", Path(__file__).parent / "data" / "scenarios"):
        found = sorted(folder.rglob("*.yaml"))
        if found:
            return found
    return []


def _load(file: str, promises: tuple[str, ...]) -> Scenario:
    path = file
    if not Path(file).exists():
        packaged = Path(__file__).parent / "data" / file
        path = str(packaged) if packaged.exists() else file
    try:
        return scenarios.with_promises(scenarios.load(path), list(promises))
    except ScenarioError as error:
        _leave(error)


def _generated(seed: int, promises: tuple[str, ...]) -> Scenario:
    try:
        return scenarios.with_promises(generate.generated(seed), list(promises))
    except ScenarioError as error:
        _leave(error)


def _leave(error: ScenarioError) -> NoReturn:
    click.echo(f"thunderdb-sim: {error.message}", err=True)
    if error.hint:
        click.echo(f"HINT: {error.hint}", err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
