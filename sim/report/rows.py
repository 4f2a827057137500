"""What a report shows, as values: for each scenario its promise beside what was measured, and the worst run's course.

Q1. A percentile is a value that was measured (nearest rank), never one in between.
Q2. The worst run is the one with the longest RTO; among equals the lowest seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.scenario import coverage
from sim.scenario.scenario import Scenario

PERCENTILES = (50, 95, 99, 100)
Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a recovery. `who` is people, restore, replay or service."""

    what: str
    who: str
    from_s: float
    to_s: float


@dataclass(slots=True)
class Row:
    """One scenario over its runs. Times in seconds."""

    name: str
    folder: str
    path: str
    about: str
    rpo_promise: str
    rto_promise_s: float
    outcome: str
    runs: int = 0
    violations: list[str] = field(default_factory=list)
    refused: int = 0
    served: int = 0
    rto_s: list[float] = field(default_factory=list)
    rpo_s: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    operator_s: float = 0.0
    worst_seed: int = 0
    worst: tuple[Phase, ...] = ()
    sim_s: float = 0.0
    cpu_s: float = 0.0
    events: int = 0
    missing: tuple[str, ...] = ()
    wanted_rto_s: float = 0.0
    rpo_promise_s: float = 0.0

    @property
    def command(self) -> str:
        return f"thunderdb-sim run {self.path} --seed {self.worst_seed}"

    @property
    def must_refuse(self) -> bool:
        return self.outcome == "must_refuse" or (self.runs > 0 and not self.served and self.refused == self.runs)

    @property
    def unreached(self) -> bool:
        """The specification wants a shorter RTO than was measured."""
        return self.wanted_rto_s > 0 and self.rto(100) > self.wanted_rto_s

    @property
    def counted(self) -> bool:
        """Whether its RPO is promised as a number of transactions."""
        return self.rpo_promise == "0" or self.rpo_promise.endswith("transactions")

    def rpo_text(self, percent: int) -> str:
        """RPO as it is promised: a number of transactions, or a time."""
        if self.counted:
            return f"{percentile(self.lost, percent):g}"
        return seconds(self.rpo(percent))

    def rto(self, percent: int) -> float:
        return percentile(self.rto_s, percent)

    def rpo(self, percent: int) -> float:
        return percentile(self.rpo_s, percent)


@dataclass(slots=True)
class Data:
    """All that a report shows."""

    rows: list[Row]
    coverage: Counter[str]
    mutants: list[tuple[str, ...]]
    mutants_summary: str
    facts: dict[str, str]
    seeds: str
    real: Mapping[str, Any] | None = None
    """What tools/rto_report has measured."""

    @property
    def runs(self) -> int:
        return sum(row.runs for row in self.rows)

    @property
    def violations(self) -> int:
        return sum(len(row.violations) for row in self.rows)


def percentile(values: Sequence[float], percent: int) -> float:
    """Q1; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, rank - 1)]


def rows_of(scenarios: Sequence[Scenario], reports: Sequence[Report]) -> list[Row]:
    """The rows, in the order of the scenarios."""
    by_name: dict[str, list[Report]] = {}
    for report in reports:
        by_name.setdefault(report["scenario"], []).append(report)
    return [_row(scenario, by_name.get(scenario.name, [])) for scenario in scenarios]


def _row(scenario: Scenario, reports: list[Report]) -> Row:
    promises = scenario.promises
    parts = scenario.path.split("/")
    row = Row(
        scenario.name, parts[-2] if len(parts) > 2 or parts[-2:-1] not in ([], ["scenarios"]) else "power", scenario.path,
        scenario.about, "backup's end" if promises.recovered_to == "backup_end" else rpo_words(promises.rpo, promises.rpo_ns),
        promises.rto_ns / 1e9, promises.outcome, wanted_rto_s=promises.wanted_rto_ns / 1e9,
        rpo_promise_s=max(0, promises.rpo_ns) / 1e9,
    )  # fmt: skip
    if row.folder == "scenarios":
        row.folder = "power"
    worst: Report | None = None
    fired: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for report in sorted(reports, key=lambda one: int(one["seed"])):
        row.runs += 1
        row.sim_s += report["sim_s"]
        row.cpu_s += report.get("cpu_s", 0.0)
        row.events += report["events"]
        row.violations += [f"seed {report['seed']}: {text}" for text in report.get("violations", [])[:1]]
        row.refused += bool(report.get("refusals"))
        fired.update(report["faults"])
        covered.update(report.get("coverage", {}))
        if report["rto_s"] > 0:
            row.served += 1
            row.rto_s.append(report["rto_s"])
            row.rpo_s.append(report["rpo_s"])
            row.lost.append(report["rpo_transactions"])
            row.operator_s = max(row.operator_s, report.get("operator_s", 0.0))
        if worst is None or report["rto_s"] > worst["rto_s"]:
            worst = report
    if worst is not None:
        row.worst_seed = worst["seed"]
        row.worst = phases(worst.get("marks", []))
    if row.runs >= coverage.ENOUGH_RUNS:
        row.missing = tuple(coverage.never_fired(scenario, fired, covered))
    return row


def phases(marks: Sequence[Sequence[Any]]) -> tuple[Phase, ...]:
    """The longest way from a fault to service, cut at the marks between."""
    best: tuple[Phase, ...] = ()
    fault: float | None = None
    steps: list[tuple[float, str]] = []
    for at, kind, what in marks:
        if kind == "incident":
            fault, steps = at, []
        elif fault is not None and kind in ("operator", "restore", "service"):
            steps.append((at, what))
            if kind == "service":
                found = _cut(fault, steps)
                if not best or found[-1].to_s - found[0].from_s > best[-1].to_s - best[0].from_s:
                    best = found
                fault = None
    return best


_PHASES = {
    "noticed": ("noticed", "people"), "operator acts": ("decided, machine ready", "people"),
    "daemon started": ("waiting", "people"), "restore begins": ("waiting", "people"),
    "restore planned": ("log read, planned", "restore"), "pages laid down": ("pages laid down", "restore"),
    "log laid down": ("log laid down", "restore"), "restored": ("made durable", "restore"),
    "recovered": ("restart: analysis, redo, undo", "replay"), "first service": ("first write", "service"),
}  # fmt: skip


def _cut(fault: float, steps: list[tuple[float, str]]) -> tuple[Phase, ...]:
    found: list[Phase] = []
    at = fault
    for to, what in steps:
        name, who = _PHASES.get(what, (what if len(what) <= 60 else f"{what[:58]}…", "people"))
        if to > at:
            found.append(Phase(name, who, at - fault, to - fault))
            at = to
    return tuple(found) or (Phase("first write", "service", 0.0, 0.0),)


def rpo_words(transactions: int, duration_ns: int) -> str:
    """A promised RPO in words."""
    if duration_ns >= 0:
        return f"≤ {seconds(duration_ns / 1e9)}"
    if transactions < 0:
        return "no promise"
    return "0" if transactions == 0 else f"≤ {transactions} transactions"


def seconds(value: float) -> str:
    """A duration as a person would say it."""
    if value == 0:
        return "0"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.3g} s" if value < 10 else f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.1f} min" if value < 600 and value % 60 else f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def parse_mutants(text: str, scenarios: str = "") -> tuple[str, list[tuple[str, ...]]]:
    """The planted bugs from tests/mutants/RESULTS.md: the summary line and (bug, run, scenarios, seeds, CPU seconds) rows.

    `scenarios` is SCENARIOS.md, which says for each scenario the bug that breaks its promise.
    """
    summary = ""
    breaks: dict[str, list[str]] = {}
    for line in scenarios.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) >= 4 and cells[0] != "scenario" and not cells[0].startswith("---"):
            breaks.setdefault(cells[1], []).append(cells[0])
    rows: list[tuple[str, ...]] = []
    for line in text.splitlines():
        if " of " in line and "caught" in line and not line.startswith("|"):
            summary = line.strip()
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) >= 6 and cells[0] != "bug" and not cells[0].startswith("---"):
            rows.append((cells[0], cells[2], ", ".join(breaks.get(cells[0].partition(":")[0], [])), cells[3], cells[4]))
    return summary, rows
