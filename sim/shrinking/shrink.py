"""Shrinks a failing run to the least that still fails in the same way: fewer faults, steps, transactions, and less in them.

    failing run ─▶ written down as a script ─▶ [ faults, lives, clients, transactions, statements, values ]…
        ─▶ a replay file and a pytest file

M1. What the clients do is written down before anything is left out (sim/scenario/script.py), so that what stays is the same,
    at the same time.
M2. What is tried depends on nothing but the file, and on the limit of CPU time.
M3. What is handed out was read from its own document once more, and failed as the run did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from sim.scenario.faults_plan import draw
from sim.scenario.plan import fixed
from sim.scenario.replay import faults_in
from sim.scenario.scenario import Scenario, ScenarioError, build
from sim.scenario.schema import wrap
from sim.shrinking import outages, timeline
from sim.shrinking.attempts import Attempts, Played
from sim.shrinking.reduce import signature
from sim.shrinking.reference import Reference
from sim.shrinking.search import SLOWEST_S, Search
from sim.shrinking.shrunk import Shrunk, read_document

FIRST_LIMIT_S = 60.0
NOISES = (1, 3, 10, 30)
SMALL = (6, 12, 25, 50)
SMALL_SEEDS = 60
SEARCH_SHARE, SMALL_SHARE = 0.1, 0.4
"""Of the time: for finding short runs, and of what is left for shrinking one of them."""
USUAL = 300
"""About as many transactions does a run of the scenarios have; outages come sooner where there are fewer."""
_LINE = re.compile(r"\bline \d+")
"""Where a step stands in its file, which is another one in the replay file."""


def shrink(
    path: str, seed: int | None, limit_s: float, said: Callable[[str], None], good: Path | None = None
) -> Shrunk:  # fmt: skip
    """Shrink the failure of a file with a seed (of a replay file: with its own). `good` is a source that passes it, if any is.

    Raises: ScenarioError if it does not fail, or fails there as well; NoReference.
    """
    raw, scenario = read_document(path)
    seed = scenario.seed if seed is None else seed
    with Attempts() as attempts:
        first = drawn(scenario, seed)
        played = attempts.play(first, seed, FIRST_LIMIT_S)
        if played is None or not played.violations:
            raise ScenarioError(f"{path}: seed {seed} does not fail", "`thunderdb-sim sweep` finds seeds that do.")
        said(f"seed {seed}: {played.violations[0][:200]}")
        search = Search(attempts, first, seed, signature(played.violations[0]), played, limit_s, said)
        found = Shrunk(
            raw, first, seed, search.kind, played, first=(faults_in(first), played.transactions), start=f"seed {seed}"
        )  # fmt: skip
        if good is None:
            _shrink(search, found, scenario)
        else:
            _shrink_against(search, found, scenario, good)
        _verified(found, attempts)
    return found


def _shrink_against(search: Search, found: Shrunk, scenario: Scenario, good: Path) -> None:
    """Shrink with a source at hand that passes: asked in the end, and each time where nobody else says what is right (Q5).

    A run ends with its failure; what was left out behind that, a promise of the scenario may need where nothing fails.
    Raises: ScenarioError; NoReference.
    """
    first, seed, played, start = found.scenario, found.seed, found.played, found.start
    with Reference(good) as reference:
        passes = _passing(search, reference, found)
        if not passes(first, seed):
            raise ScenarioError(f"{search.scenario.path}: seed {seed} fails with the source in {good}, too")
        if not timeline.expected(search.kind):
            _shrink(search, found, scenario)
            if passes(found.scenario, found.seed):
                return
            search.said("what is left fails with the good source, too: once more, step by step")
            found.scenario, found.seed, found.played, found.start = first, seed, played, start
            search.begin_again(first, seed, played)
        search.passes, found.judged = passes, True
        _shrink(search, found, scenario)


def _passing(search: Search, reference: Reference, found: Shrunk) -> Callable[[Scenario, int], bool]:
    """Whether another source passes a run (Q5)."""

    def passes(scenario: Scenario, seed: int) -> bool:
        document = Shrunk(found.raw, scenario, seed, found.kind, search.played).document
        before_s = reference.cpu_s
        passed = reference.passes(document, seed, max(SLOWEST_S, 4 * search.played.cpu_s))
        search.attempts.cpu_s += reference.cpu_s - before_s
        return passed

    return passes


def _shrink(search: Search, found: Shrunk, scenario: Scenario) -> None:
    """From short runs that fail in the same way, if any are met, as that is the quickest; else from the run that was found."""
    whole_s, first = search.limit_s, (found.seed, search.scenario, search.played)
    if scenario.plan is None and scenario.workload.script is None and not scenario.incident:
        for seed, start, played in _small(search, scenario, found.seed):
            search.limit_s = search.cpu_s + SMALL_SHARE * (whole_s - search.cpu_s)
            _from(search, found, seed, start, played, f"seed {seed} with {start.workload.transactions} transactions")
            if found.small:
                break
    search.limit_s = whole_s
    if not found.small:
        _from(search, found, *first, f"seed {first[0]}")
    found.tried, found.cpu_s = search.attempts.count, search.cpu_s


def _from(search: Search, found: Shrunk, seed: int, start: Scenario, played: Played, name: str) -> None:
    search.scenario, search.seed, search.played = start, seed, played
    search.said(f"from {name}: {played.events} events")
    passes = timeline.passes if start.incident else outages.passes
    if not start.incident and start.workload.script is None:
        outages.written_down(search)
    for noises in NOISES:
        search.noises = noises
        while not search.over() and passes(search):
            pass
        _keep(search, found, name)
        if search.over() or found.small:
            return


def _keep(search: Search, found: Shrunk, name: str) -> None:
    new = Shrunk(found.raw, search.scenario, search.seed, found.kind, search.played)
    if (not new.small, new.transactions + new.faults) < (not found.small, found.transactions + found.faults):
        found.scenario, found.seed, found.played, found.start = new.scenario, new.seed, new.played, name


def _small(search: Search, scenario: Scenario, seed: int) -> Iterator[tuple[int, Scenario, Played]]:
    """Runs with hardly any work, struck early, that fail in the same way: little is needed more often than it is met."""
    until_s = search.cpu_s + SEARCH_SHARE * search.limit_s
    for transactions in SMALL:
        little = replace(scenario, workload=replace(scenario.workload, transactions=transactions))
        for other in range(seed, seed + SMALL_SEEDS):
            if search.cpu_s >= until_s:
                return
            plan = draw(little, other)
            sooner = tuple(replace(one, after_ns=one.after_ns * transactions // USUAL) for one in plan.outages[:2])
            start = replace(little, plan=replace(plan, outages=sooner))
            played = search.run(start, other)
            if played is not None and search.same(played):
                before_s = search.cpu_s
                yield other, start, played
                until_s += search.cpu_s - before_s
                break


def drawn(scenario: Scenario, seed: int) -> Scenario:
    """The scenario with everything in it that its seed decides in advance."""
    return fixed(scenario, seed) if scenario.incident else replace(scenario, plan=scenario.plan or draw(scenario, seed))


def _verified(found: Shrunk, attempts: Attempts) -> None:
    """M3. Raises: ScenarioError."""
    again = attempts.play(build(wrap(json.loads(json.dumps(found.document)), "replay")), found.seed, FIRST_LIMIT_S)
    if again is None or [_LINE.sub("", one) for one in again.violations] != [_LINE.sub("", one) for one in found.violations]:
        said = "nothing" if again is None or not again.violations else again.violations[0][:200]
        raise ScenarioError(f"the replay file does not fail as the run did, but with {said}: please report this")
