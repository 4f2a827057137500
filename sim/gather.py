"""What a report is made of: the runs of a sweep or those of files, the planted bugs, the real daemons; and its writing."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from sim.measure import Report, commit
from sim.report.page import markdown, page
from sim.report.rows import Data, parse_mutants, rows_of
from sim.report.rto import FILE as REAL_FILE
from sim.scenario import coverage
from sim.scenario.scenario import Scenario, ScenarioError
from sim.sweep import sweep
from thunderdb import __version__


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
    folders = [path for path in (here.parent / "tests/mutants", here / "data/mutants") if (path / "RESULTS.md").exists()]
    tables = [(path / name).read_text(encoding="utf-8") for path in folders[:1] for name in ("RESULTS.md", "SCENARIOS.md")]
    summary, mutants = parse_mutants(*tables) if tables else ("", [])
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
