"""Writes a shrunk failure: a replay file, and a pytest file that fails as long as the bug is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sim.scenario.replay import Document
from sim.scenario.scenario import ScenarioError

if TYPE_CHECKING:
    from sim.shrink import Shrunk


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

from sim.play import play
from sim.scenario.scenario import load


def test_{name}() -> None:
    scenario = load(str(Path(__file__).with_name("{name}.yaml")))
    assert play(scenario, scenario.seed).violations == []
'''
