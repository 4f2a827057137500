"""The file that a failure is read from, and what is written of it: a replay file, and a pytest file that fails as it did."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim.scenario.replay import Document, document_of, faults_in
from sim.scenario.scenario import Scenario, ScenarioError, build
from sim.scenario.schema import parse_yaml
from sim.scenario.script import transactions_in
from sim.shrinking.attempts import Played

FAULTS, TRANSACTIONS = 5, 10
"""Small enough."""
JUDGED = ", judged by the good source"
_DRAWING = ("mix", "async_commit", "repeatable_read", "large")
"""What clients draw by, and nothing else goes by. (Who thinks for a minute, or has no `transactions` left, owes no service.)"""


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
    judged: bool = False
    """Whether another source had to say that what is left is no failure of the scenario's author."""

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
        return max(self.played.transactions, 0 if script is None else transactions_in(script))

    @property
    def small(self) -> bool:
        return self.faults <= FAULTS and self.transactions <= TRANSACTIONS


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


def write(found: Shrunk, folder: Path, name: str) -> list[Path]:
    """Write both. Raises: ScenarioError."""
    name = re.sub(r"\W", "_", name)
    replay, test = folder / f"{name}.yaml", folder / f"test_{name}.py"
    said = found.violations[0]
    about = f"# Shrunk from a failing run: {said[:180]}\n#   thunderdb-sim run --replay {replay.name}\n"
    document = json.loads(json.dumps(found.document))  # tuples are lists
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.dump(_lined(document), Dumper=_Dumper, sort_keys=False, width=120, default_flow_style=None)
        replay.write_text(about + text, encoding="utf-8")
        shown = said[:80].replace('"', "'").replace("\\", "/")
        test.write_text(_TEST.format(name=name, violation=shown), encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"cannot write to {folder}: {error.strerror or error}") from None
    return [replay, test]


class _Line(list[Any]):
    """A list that is written on one line: an operation."""


class _Dumper(yaml.SafeDumper):
    """YAML's own, and lines."""


_Dumper.add_representer(_Line, lambda dumper, line: dumper.represent_sequence("tag:yaml.org,2002:seq", line, flow_style=True))


def _lined(document: Document) -> Document:
    work = document.get("workload") or {}
    for life in work.get("script") or []:
        for one in life:
            one["do"] = [_Line(op) for op in one["do"]]
    return document


_TEST = '''"""Found by simulation, and shrunk: {violation}"""

from __future__ import annotations

from pathlib import Path

from sim.incident.play import play
from sim.scenario.scenario import load


def test_{name}() -> None:
    scenario = load(str(Path(__file__).with_name("{name}.yaml")))
    assert play(scenario, scenario.seed).violations == []
'''
