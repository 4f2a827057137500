"""What planted bugs shrank to (tests/mutants/shrunk): the source as it is passes each file; with its bug it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.incident.play import play
from sim.planted.mutants import Copies, folder, load_all
from sim.planted.shrunk import checked
from sim.scenario.replay import faults_in
from sim.scenario.scenario import load
from sim.scenario.script import transactions_in
from sim.shrinking.shrunk import FAULTS, TRANSACTIONS, read_document

FILES = sorted((folder() / "shrunk").glob("*.yaml"))
SAMPLE = ("target_before_backup_accepted", "unfinished_backup_taken_for_copy")
"""What these forget does not go by time: whatever the engine costs, their runs still fail."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_source_as_it_is_passes_what_a_bug_shrank_to(file: Path) -> None:
    _, scenario = read_document(str(file))
    script = scenario.workload.script
    assert faults_in(scenario) <= FAULTS and transactions_in(script or ()) <= TRANSACTIONS
    assert play(load(str(file)), scenario.seed).violations == []


def failing(names: list[str]) -> list[str]:
    with Copies() as copies:
        return [mutant.name for mutant in load_all() if mutant.name in names and checked(copies, mutant)]


def test_each_file_is_of_a_planted_bug() -> None:
    assert {file.stem for file in FILES} <= {mutant.name for mutant in load_all()}


def test_with_the_bug_a_sample_fails() -> None:
    assert failing(list(SAMPLE)) == sorted(SAMPLE)


@pytest.mark.long
def test_with_its_bug_nearly_each_still_fails() -> None:
    """Some go by the very write that a power cut meets: another log record before it, and they pass."""
    names = [file.stem for file in FILES]
    found = failing(names)
    assert len(found) >= 0.9 * len(names), sorted(set(names) - set(found))
