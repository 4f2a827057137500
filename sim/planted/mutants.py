"""Planted bugs: apply each to a copy of the source, and let the simulator find it.

    thunderdb-sim mutants --list
    thunderdb-sim mutants --check                                    every diff still applies
    thunderdb-sim mutants --run NAME --seeds 0..200
    thunderdb-sim mutants --known --jobs 2                           each on the seed in its file, then through its budget
    thunderdb-sim mutants --search --jobs 2 --record                 each from seed 0; writes the seeds and RESULTS.md

One that the simulator does not find is a hole in the tests.

U1. A seed counts only if the unchanged source passes it: the control runs for each catch.
U2. A bug that stops the program by itself (a name that does not exist) is a broken diff, not a catch.
U3. The engine knows nothing of this; the copy is a folder of its own, first on the path of a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NoReturn

import click

from sim.planted.patch import Mutant, PatchError, mutated, parse_mutant, with_seed
from sim.planted.results import Found, merged, results, shown
from sim.planted.scenarios import Row, as_mutants, missing, parse_table, table, with_founds

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
BROKEN = re.compile(r"\b(NameError|UnboundLocalError|ImportError|ModuleNotFoundError|SyntaxError|AttributeError)\b")
COPIED = ("thunderdb", "sim", "scenarios")


class MutantError(Exception):
    """A mutant cannot be run as it is. `args` is (what,)."""


# -- The bugs and the source


def folder() -> Path:
    """Where the planted bugs are: in a checkout, or in the installed package."""
    for path in (ROOT / "tests" / "mutants", PACKAGE / "data" / "mutants"):
        if path.is_dir():
            return path
    raise MutantError("there is no folder of planted bugs here (tests/mutants of a checkout)")


def load_all() -> list[Mutant]:
    """Every planted bug, by name. Raises: PatchError."""
    return [parse_mutant(path.stem, path.read_text(encoding="utf-8")) for path in sorted(folder().glob("*.patch"))]


def scenarios_folder() -> Path:
    source = ROOT / "scenarios"
    return source if source.is_dir() else PACKAGE / "data" / "scenarios"


def sources_of(mutant: Mutant) -> dict[str, str]:
    """The present texts of the files that it changes."""
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in mutant.paths if (ROOT / path).is_file()}


def check_all() -> list[str]:
    """What is wrong with the planted bugs' files: those that do not apply any more above all."""
    problems: list[str] = []
    for path in sorted(folder().glob("*.patch")):
        try:
            mutant = parse_mutant(path.stem, path.read_text(encoding="utf-8"))
            mutated(mutant, sources_of(mutant))
        except PatchError as error:
            problems.append(str(error))
    return problems


class Copies:
    """Copies of the source in a temporary folder: one unchanged, one for each mutant while it runs."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="thunderdb-mutants-")
        self.clean = Path(self._folder.name) / "clean"
        for name in COPIED:
            source = scenarios_folder() if name == "scenarios" else ROOT / name
            shutil.copytree(source, self.clean / name, ignore=shutil.ignore_patterns("data", "*.tmp"))

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def make(self, mutant: Mutant) -> Path:
        """A copy with the bug in it. Raises: PatchError."""
        there = [path for path in mutant.paths if (self.clean / path).is_file()]
        sources = {path: (self.clean / path).read_text(encoding="utf-8") for path in there}
        texts = mutated(mutant, sources)
        target = Path(self._folder.name) / mutant.name
        shutil.copytree(self.clean, target)
        for path, text in texts.items():
            (target / path).write_text(text, encoding="utf-8")
        return target

    def drop(self, mutant: Mutant) -> None:
        shutil.rmtree(Path(self._folder.name) / mutant.name, ignore_errors=True)


# -- Running


@dataclass(frozen=True, slots=True)
class SeedLine:
    """What a child said of one seed."""

    seed: int
    violations: tuple[str, ...]
    cpu_s: float


def run_seeds(root: Path, run: str, first: int, end: int, go_on: bool = False) -> Iterator[SeedLine]:
    """Run seeds in a process on the source at `root`, to the first that fails. Raises: MutantError if the process fails."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "", "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "sim.planted.mutate", str(root), run, f"{first}..{end}", *(["--all"] if go_on else [])]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            for text in process.stdout:
                line = json.loads(text)
                yield SeedLine(line["seed"], tuple(line["violations"]), line["cpu_s"])
            errors = process.stderr.read()
            if process.wait():
                raise MutantError(f"{run} {first}..{end}: {errors.strip().splitlines()[-1] if errors.strip() else 'it died'}")
        finally:
            process.kill()


class Controls:
    """Whether the unchanged source passes a seed (U1); each is run once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[tuple[str, int], str] = {}
        self._lock = Lock()

    def run(self, run: str, seeds: list[int]) -> None:
        """Run several seeds of a scenario in one process."""
        todo = sorted({seed for seed in seeds if (run, seed) not in self._known})
        while todo:
            first = todo[0]
            end = first + 1
            while end in todo:
                end += 1
            for line in run_seeds(self._root, run, first, end, go_on=True):
                self._note(run, line)
            todo = [seed for seed in todo if seed >= end]

    def failure(self, run: str, seed: int) -> str:
        """What the unchanged source violates with a seed; empty if nothing."""
        if (run, seed) not in self._known:
            for line in run_seeds(self._root, run, seed, seed + 1):
                self._note(run, line)
        return self._known[run, seed]

    def _note(self, run: str, line: SeedLine) -> None:
        with self._lock:
            self._known[run, line.seed] = line.violations[0] if line.violations else ""


def hunt(copies: Copies, controls: Controls, mutant: Mutant, first: int, end: int) -> Found:
    """Run a mutant's seeds until one catches it."""
    seeds, cpu_s = 0, 0.0
    try:
        root = copies.make(mutant)
    except PatchError as error:
        return Found(mutant, None, 0, 0.0, trouble=str(error))
    try:
        while first < end:
            caught: SeedLine | None = None
            for line in run_seeds(root, mutant.run, first, end):
                seeds, cpu_s, first = seeds + 1, cpu_s + line.cpu_s, line.seed + 1
                if line.violations:
                    caught = line
            if caught is None:
                break
            violation = caught.violations[0]
            if BROKEN.search(violation):
                return Found(mutant, caught.seed, seeds, cpu_s, violation, "the planted bug does not run: broken diff (U2)")
            if not controls.failure(mutant.run, caught.seed):
                return Found(mutant, caught.seed, seeds, cpu_s, violation)
    except MutantError as error:
        return Found(mutant, None, seeds, cpu_s, trouble=str(error))
    finally:
        copies.drop(mutant)
    return Found(mutant, None, seeds, cpu_s)


def hunt_all(mutants: list[Mutant], known: bool, jobs: int, told: Callable[[Found], None]) -> list[Found]:
    """Hunt each from seed 0 through its budget; with `known`, first on the seed that is known to catch it."""
    with Copies() as copies:
        controls = Controls(copies.clean)

        def one(mutant: Mutant) -> Found:
            if known:
                if mutant.seed is None:
                    found = Found(mutant, None, 0, 0.0, trouble="no seed is known that catches it")
                else:
                    found = hunt(copies, controls, mutant, mutant.seed, mutant.seed + 1)
                    if not found.caught and not found.trouble:
                        # The source or the workload has moved on, and what that seed draws with it.
                        found = hunt(copies, controls, mutant, 0, mutant.budget)
            else:
                found = hunt(copies, controls, mutant, 0, mutant.budget)
            told(found)
            return found

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, mutants))


# -- Telling


def record(founds: list[Found], whole: bool) -> None:
    """Write the seeds into the planted bugs' files, and RESULTS.md: all of it, or the rows of these."""
    for found in founds:
        if found.caught and found.seed is not None:
            path = folder() / f"{found.mutant.name}.patch"
            path.write_text(with_seed(path.read_text(encoding="utf-8"), found.seed), encoding="utf-8")
    path = folder() / "RESULTS.md"
    path.write_text(results(founds) if whole else merged(path.read_text(encoding="utf-8"), founds), encoding="utf-8")


def scenario_rows() -> list[Row]:
    """SCENARIOS.md."""
    return parse_table((folder() / "SCENARIOS.md").read_text(encoding="utf-8"))


def scenario_names() -> list[str]:
    """Every scenario file, as SCENARIOS.md names it."""
    below = scenarios_folder()
    return sorted(path.relative_to(below).with_suffix("").as_posix() for path in below.rglob("*.yaml"))


def check_scenarios() -> list[str]:
    """What is wrong with SCENARIOS.md: a scenario that no bug is known to break above all."""
    return missing(scenario_rows(), scenario_names(), load_all())


def prove_scenarios(names: tuple[str, ...], jobs: int, recorded: bool) -> list[Found]:
    """Run the rows of SCENARIOS.md, or those of these scenarios and bugs. What is recorded is kept if it is interrupted."""
    rows = scenario_rows()
    chosen = [row for row in rows if not names or row.bug in names or row.scenario.rpartition("/")[2] in names]
    lock = Lock()

    def told(found: Found) -> None:
        nonlocal rows
        tell(found)
        if recorded:
            with lock:
                rows = with_founds(rows, [found])
                (folder() / "SCENARIOS.md").write_text(table(rows), encoding="utf-8")

    return hunt_all(as_mutants(chosen, load_all()), known=True, jobs=jobs, told=told)


def tell(found: Found) -> None:
    name = found.mutant.name
    if found.caught:
        click.echo(f"caught    {name}: seed {found.seed}, {found.seeds} seeds, {found.cpu_s:.1f} s: {found.violation[:160]}")
    elif found.trouble:
        click.echo(f"TROUBLE   {name}: {found.trouble} {found.violation[:160]}")
    else:
        click.echo(f"SURVIVED  {name}: {found.seeds} seeds, {found.cpu_s:.1f} s")
    sys.stdout.flush()


def _seeds(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise click.BadParameter(f"{text!r}: expected A..B with A < B, as in 0..200")
    return int(match[1]), int(match[2])


@click.command("mutants")
@click.option("--list", "listed", is_flag=True, help="List the planted bugs.")
@click.option("--check", is_flag=True, help="Check that every diff still applies.")
@click.option("--run", "names", multiple=True, metavar="NAME", help="Run this one (may be given again).")
@click.option("--seeds", metavar="A..B", help="The seeds to run, half open; by default from 0 through its budget.")
@click.option("--known", is_flag=True, help="Run each on its known seed.")
@click.option("--search", is_flag=True, help="Search each from seed 0 through its budget.")
@click.option("--scenarios", "by_scenario", is_flag=True, help="For each scenario run the bug that breaks it (SCENARIOS.md).")
@click.option("--specific", "scenario", metavar="SCENARIO", help="Every bug, or those of --run, on it: which says most of it.")
@click.option("--record", "recorded", is_flag=True, help="Write the seeds into the files and RESULTS.md.")
@click.option("--jobs", default=1, show_default=True, help="Processes at a time.")
def command(
    listed: bool, check: bool, names: tuple[str, ...], seeds: str | None, known: bool, search: bool, by_scenario: bool,
    scenario: str | None, recorded: bool, jobs: int,
) -> None:  # fmt: skip
    """Planted bugs: does the simulator see them? Ends with 1 if one survives."""
    mutants = load_all()
    if listed:
        for mutant in mutants:
            click.echo(f"{mutant.name:34} {mutant.breaks:16} {'seed ' + str(mutant.seed):10} {mutant.title}")
        return
    if check:
        problems = check_all() + check_scenarios()
        click.echo("\n".join(problems) or f"{len(mutants)} planted bugs apply")
        raise SystemExit(1 if problems else 0)
    if by_scenario:
        _leave(prove_scenarios(names, jobs, recorded))
    unknown = sorted(set(names) - {mutant.name for mutant in mutants})
    if unknown:
        raise click.BadParameter(f"no planted bug {unknown[0]!r}; see --list", param_hint="--run")
    if scenario is not None:
        _most_specific(scenario, [mutant for mutant in mutants if not names or mutant.name in names], jobs, recorded)
    if not names and not known and not search:
        raise click.UsageError("give --list, --check, --run NAME, --known or --search")
    chosen = [mutant for mutant in mutants if not names or mutant.name in names]
    if seeds is not None:
        first, end = _seeds(seeds)
        with Copies() as copies:
            controls = Controls(copies.clean)
            founds = [hunt(copies, controls, mutant, first, end) for mutant in chosen]
        for found in founds:
            tell(found)
    else:
        founds = hunt_all(chosen, known, jobs, tell)
    if recorded:
        record(founds, whole=search and not names)
    _leave(founds)


def _most_specific(scenario: str, mutants: list[Mutant], jobs: int, recorded: bool) -> NoReturn:
    from sim.planted.specific import YARDSTICK, Seen, specific

    if scenario not in scenario_names():
        raise click.BadParameter(f"no scenario {scenario!r}, such as crash/kill_loop", param_hint="--specific")

    def told(seen: Seen) -> None:
        click.echo(f"{seen.reach} of {len(YARDSTICK)} others see  {seen.found.mutant.name}: {seen.found.violation[:120]}")

    found = specific(scenario, mutants, jobs, told)
    if found:
        click.echo(f"most specific: {found[0].found.mutant.name}, seed {found[0].found.seed}")
    if found and recorded:
        rows = [row for row in scenario_rows() if row.scenario != scenario]
        rows.append(Row(scenario, found[0].found.mutant.name, found[0].found.seed, shown(found[0].found)))
        (folder() / "SCENARIOS.md").write_text(table(rows), encoding="utf-8")
    raise SystemExit(0 if found else 1)


def _leave(founds: list[Found]) -> NoReturn:
    survived = [found for found in founds if not found.caught]
    click.echo(f"{len(founds)} planted bugs, {len(founds) - len(survived)} caught, {len(survived)} not")
    raise SystemExit(1 if survived or not founds else 0)


if __name__ == "__main__":
    command()
