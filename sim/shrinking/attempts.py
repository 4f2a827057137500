"""Runs of scenarios in a process of their own, forked warm: nothing is imported again; one that never ends costs only itself.

A1. A run has a limit of CPU seconds, not of wall time: how busy the machine is decides nothing.
A2. `cpu_s` is what all runs have cost so far, beside what the caller's own process used.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from sim.incident.play import play
from sim.scenario.scenario import Scenario
from sim.scenario.script import Script
from sim.shrinking.recording import record

MEMORY_BYTES = 6 << 30


@dataclass(frozen=True, slots=True)
class Played:
    """What one run showed, as far as shrinking needs it."""

    violations: tuple[str, ...]
    transactions: int
    events: int
    cpu_s: float
    script: Script = ()
    lives_ns: tuple[tuple[int, int], ...] = ()
    """When the clients of each life began, and when it ended."""


class Attempts:
    """A child that runs what it is given."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.count = 0
        self._pid = 0
        self._pipe: Connection[Any, Any] | None = None

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def play(self, scenario: Scenario, seed: int, limit_s: float, recorded: bool = False) -> Played | None:
        """Run it; None if it takes longer than `limit_s` of CPU, or ends its process."""
        if self._pipe is None:
            self._pipe = self._begin()
        self.count += 1
        self._pipe.send((scenario, seed, limit_s, recorded))
        try:
            played: Played = self._pipe.recv()
        except EOFError:
            self.cpu_s += limit_s
            self._end()
            return None
        self.cpu_s += played.cpu_s
        return played

    def _begin(self) -> Connection[Any, Any]:
        here, there = Pipe()
        gc.collect()
        gc.freeze()  # so that collecting in the child does not copy what it shares with this process
        self._pid = os.fork()
        if self._pid == 0:
            here.close()
            _serve(there)
        gc.unfreeze()
        there.close()
        return here

    def _end(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _serve(pipe: Connection[Any, Any]) -> None:
    """The child: run what comes, until nothing more comes."""
    status = 1
    try:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        while True:
            scenario, seed, limit_s, recorded = pipe.recv()
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            played = _run(scenario, seed, recorded)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(played)
    except EOFError:
        status = 0
    finally:
        os._exit(status)


def _run(scenario: Scenario, seed: int, recorded: bool) -> Played:
    began_s = time.process_time()
    script: Script = ()
    lives_ns: tuple[tuple[int, int], ...] = ()
    if recorded:
        result, script, lives_ns = record(scenario, seed)
    else:
        result = play(scenario, seed)
    cpu_s = time.process_time() - began_s
    return Played(tuple(result.violations), result.transactions, result.events, cpu_s, script, lives_ns)
