"""What somebody may get wrong is said in words, with exit code 2: file, line, key, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.cli import main


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timeline: [", "not YAML"),
        ("timeline:\n  - {meteor: }\n", "x.yaml:2: timeline[0].meteor: unknown step"),
        ("topology: {nodes: 3}\n", "3 need the cluster"),
        ("topology: {regions: [east], nodes: [{name: a, region: west}]}\n", "node a is in region west"),
        ("promises: {rto: 5}\n", "needs its unit"),
        ("timeline: [{damage: {what: moon}}]\n", "'moon' is not allowed"),
    ],
)
def test_a_bad_scenario(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    for command in (["run", str(file)], ["sweep", str(file), "--seeds", "0..2"]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2 and words in done.output, done.output


@pytest.mark.parametrize("arguments", [["run", "--generated", "--seed", "x"], ["sweep", "--generated", "--seeds", "x..9"]])
def test_a_seed_that_is_no_number(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2 and ("not a valid integer" in done.output or "expected A..B" in done.output)
