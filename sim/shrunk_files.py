"""Writes a shrunk failure: a replay file, and a pytest file that fails as long as the bug is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sim.scenario.scenario import ScenarioError

if TYPE_CHECKING:
    from sim.shrink import Shrunk


def write(found: Shrunk, folder: Path, name: str) -> list[Path]:
    """Write both. Raises: ScenarioError."""
    replay, test = folder / f"{name}.yaml", folder / f"test_{name}.py"
    said = found.violations[0]
    about = f"# Shrunk from a failing run: {said[:180]}\n#   thunderdb-sim run --replay {replay.name}\n"
    document = json.loads(json.dumps(found.document))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replay.write_text(
            about + yaml.safe_dump(document, sort_keys=False, width=120, default_flow_style=None), encoding="utf-8"
        )
        shown = said[:80].replace('"', "'").replace("\\", "/")
        test.write_text(_TEST.format(name=name, violation=shown), encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"cannot write to {folder}: {error.strerror or error}") from None
    return [replay, test]


_TEST = '''"""Found by simulation, and shrunk: {violation}"""

from __future__ import annotations

from pathlib import Path

from sim.play import play
from sim.scenario.scenario import load


def test_{name}() -> None:
    scenario = load(str(Path(__file__).with_name("{name}.yaml")))
    assert play(scenario, scenario.seed).violations == []
'''
