"""Shrinks a failing run to the least that still fails in the same way: fewer faults, steps, transactions, and less in them.

    failing run ─▶ written down as a script ─▶ [ faults, lives, clients, transactions, statements, values ]…
        ─▶ a replay file and a pytest file

M1. A candidate counts only if it fails with the same signature (sim/reduce.py): the failure must not be lost for another one.
M2. What the clients do is written down before anything is left out (sim/scenario/script.py), so that what stays is the same,
    at the same time. Only the devices' latencies still move; so a candidate may try a few seeds of noise before it is given up:
    the more, the less there is left to try.
M3. What is tried depends on nothing but the file. The limit is on CPU time: how busy the machine is changes nothing.
M4. No candidate is run twice, and none much longer than the present best.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from time import process_time

from sim import shrink_plan, shrink_steps
from sim.attempts import Attempts, Played
from sim.reduce import signature
from sim.scenario.faults_plan import draw
from sim.scenario.plan import fixed
from sim.scenario.replay import Document, document_of, faults_in
from sim.scenario.scenario import Scenario, ScenarioError, build
from sim.scenario.schema import parse_yaml, wrap
from sim.shrunk_files import write

__all__ = ["Shrunk", "read_document", "shrink", "write"]

FAULTS, TRANSACTIONS = 5, 10
"""Small enough."""
FIRST_LIMIT_S = 60.0
SLOWEST_S = 2.0
NOISES = (1, 3, 10, 30)
SMALL = (6, 12, 25, 50)
SMALL_SEEDS = 60
SEARCH_SHARE, SMALL_SHARE = 0.1, 0.4
"""Of the time: for finding short runs, and of what is left for shrinking one of them."""
USUAL = 300
"""About as many transactions does a run of the scenarios have; outages come sooner where there are fewer."""


_LINE = re.compile(r"\bline \d+")
"""Where a step stands in its file, which is another one in the replay file."""
_DRAWING = ("mix", "think", "async_commit", "repeatable_read", "large", "rate")
"""What clients draw by. (Not how many `transactions` they have: who has none left owes no service.)"""


@dataclass(slots=True)
class Shrunk:
    """The smallest failing run so far."""

    raw: Document
    scenario: Scenario
    seed: int
    kind: str
    played: Played
    tried: int = 0
    cpu_s: float = 0.0
    first: tuple[int, int] = (0, 0)
    """Faults and transactions of the run that was found."""
    start: str = ""
    """Which run the smallest one was shrunk from."""

    @property
    def document(self) -> Document:
        """The replay file, without what a plan and a script have made meaningless."""
        found = document_of(self.raw, self.scenario, self.seed)
        if self.scenario.workload.script is not None:
            found["workload"] = {name: value for name, value in found["workload"].items() if name not in _DRAWING}
        if "faults" in found:
            found["faults"] = {name: value for name, value in found["faults"].items() if name == "stall"}
        return found

    @property
    def violations(self) -> tuple[str, ...]:
        return self.played.violations

    @property
    def faults(self) -> int:
        return faults_in(self.scenario)

    @property
    def transactions(self) -> int:
        """Those that the script has, or those that were acknowledged, three of the set-up's included: whichever are more."""
        script = self.scenario.workload.script
        return max(self.played.transactions, 0 if script is None else sum(one.works for life in script for one in life))

    @property
    def small(self) -> bool:
        return self.faults <= FAULTS and self.transactions <= TRANSACTIONS


@dataclass(slots=True)
class Search:
    """What the passes work on: the smallest failing run so far, and the question whether a smaller one fails too."""

    attempts: Attempts
    scenario: Scenario
    seed: int
    kind: str
    played: Played
    limit_s: float
    said: Callable[[str], None]
    noises: int = 1
    _known: set[bytes] = field(default_factory=set)
    _began_s: float = field(default_factory=process_time)

    @property
    def cpu_s(self) -> float:
        return self.attempts.cpu_s + process_time() - self._began_s

    def over(self) -> bool:
        return self.cpu_s >= self.limit_s

    def better(self, scenario: Scenario, what: str = "", noises: int = 0) -> bool:
        """Take a candidate if it fails as it should (M1, M2, M4)."""
        text = pickle.dumps(replace(scenario, path=""))
        for noise in range(noises or self.noises):
            seed = self.seed + noise
            key = blake2b(text + seed.to_bytes(8, "little"), digest_size=12).digest()
            if key in self._known:
                continue
            if self.over():
                return False
            self._known.add(key)
            played = self.run(scenario, seed)
            if played is not None and self.same(played):
                self.scenario, self.seed, self.played = scenario, seed, played
                if what:
                    self.said(f"  {self.cpu_s:6.1f} s  {what}: {self.told()}")
                return True
        return False

    def run(self, scenario: Scenario, seed: int, recorded: bool = False) -> Played | None:
        return self.attempts.play(scenario, seed, max(SLOWEST_S, 4 * self.played.cpu_s), recorded)

    def same(self, played: Played) -> bool:
        return bool(played.violations) and signature(played.violations[0]) == self.kind

    def told(self) -> str:
        script = self.scenario.workload.script
        count = "" if script is None else f", {sum(one.works for life in script for one in life)} transactions"
        return f"{faults_in(self.scenario)} faults{count}"


def read_document(path: str) -> tuple[Document, Scenario]:
    """A scenario or replay file. Raises: ScenarioError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from None
    value = parse_yaml(text, path)
    scenario = build(value)
    document: Document = value.plain()
    return document, scenario


def shrink(path: str, seed: int | None, limit_s: float, said: Callable[[str], None]) -> Shrunk:
    """Shrink the failure of a file with a seed (of a replay file: with its own). Raises: ScenarioError if it does not fail."""
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
        )
        _shrink(search, found, scenario)
        _verified(found, attempts)
    return found


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
    passes = shrink_steps.passes if start.incident else shrink_plan.passes
    if not start.incident and start.workload.script is None:
        shrink_plan.written_down(search)
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
            outages = tuple(replace(one, after_ns=one.after_ns * transactions // USUAL) for one in plan.outages[:2])
            start = replace(little, plan=replace(plan, outages=outages))
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
    """The file must fail as what was shrunk does. Raises: ScenarioError."""
    again = attempts.play(build(wrap(json.loads(json.dumps(found.document)), "replay")), found.seed, FIRST_LIMIT_S)
    if again is None or [_LINE.sub("", one) for one in again.violations] != [_LINE.sub("", one) for one in found.violations]:
        said = "nothing" if again is None or not again.violations else again.violations[0][:200]
        raise ScenarioError(f"the replay file does not fail as the run did, but with {said}: please report this")
