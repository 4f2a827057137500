"""What every pass asks: does this smaller run fail in the same way? If so, it is what the next one begins from.

Q1. A candidate counts only if it fails with the same signature (sim/shrinking/reduce.py): the failure must not be lost for
    another one.
Q2. Only the devices' latencies move when something is left out of a script; so a candidate may try a few seeds of noise before
    it is given up: the more, the less there is left to try.
Q3. No candidate is run twice, and none much longer than the present best.
Q4. The limit is on CPU time: how busy the machine is changes nothing.
Q5. Where another source is right (reference.py), and the failure's own words do not say what is, a candidate must pass there.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from time import process_time

from sim.scenario.replay import faults_in
from sim.scenario.scenario import Scenario
from sim.scenario.script import Script, transactions_in
from sim.shrinking.attempts import Attempts, Played
from sim.shrinking.reduce import signature

SLOWEST_S = 2.0


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
    passes: Callable[[Scenario, int], bool] | None = None
    """Q5."""
    _known: set[bytes] = field(default_factory=set)
    _began_s: float = field(default_factory=process_time)

    @property
    def cpu_s(self) -> float:
        return self.attempts.cpu_s + process_time() - self._began_s

    def begin_again(self, scenario: Scenario, seed: int, played: Played) -> None:
        self.scenario, self.seed, self.played, self.noises = scenario, seed, played, 1
        self._known.clear()

    def over(self) -> bool:
        return self.cpu_s >= self.limit_s

    def better(self, scenario: Scenario, what: str = "", noises: int = 0) -> bool:
        """Take a candidate if it fails as it should (Q1, Q2, Q3, Q5)."""
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
            if played is not None and self.same(played) and (self.passes is None or self.passes(scenario, seed)):
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
        count = "" if script is None else f", {transactions_in(script)} transactions"
        return f"{faults_in(self.scenario)} faults{count}"

    @property
    def script(self) -> Script:
        return self.scenario.workload.script or ()


def with_script(scenario: Scenario, script: Script) -> Scenario:
    return replace(scenario, workload=replace(scenario.workload, script=script))
