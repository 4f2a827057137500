"""Generated incidents: any seed is a scenario that can be printed, read again, and run to the same end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.cli import main
from sim.incident.play import play
from sim.scenario import coverage
from sim.scenario.generate import BACKGROUND, DAMAGES, NEWER, NEWER_DAMAGES, OUTAGES, document, generated, text
from sim.scenario.replay import document_of
from sim.scenario.scenario import ScenarioError, build, parse
from sim.scenario.schema import wrap
from sim.scenario.steps import ACTIONS, FAULTS
from sim.sweep import read_corpus


def test_every_seed_is_a_scenario_and_all_classes_are_drawn() -> None:
    found: Counter[str] = Counter()
    archives: Counter[str] = Counter()
    for seed in range(300):
        scenario = generated(seed)
        found.update(coverage.classes(scenario))
        archives["command" if scenario.config().wal_archive_command else scenario.config().wal_archive_dir[:5]] += 1
    assert not {*BACKGROUND, *OUTAGES, *(f"damage {what}" for what in DAMAGES)} - set(found)
    assert set(archives) == {"", "s3://", "/mnt/", "command"}


def test_seeds_from_a_million_on_damage_small_files_and_strike_in_the_middle_of_every_action() -> None:
    found: Counter[str] = Counter()
    for seed in range(NEWER, NEWER + 150):
        scenario = generated(seed)
        found.update(coverage.classes(scenario))
        steps = scenario.timeline
        for begun, fault in zip(steps, steps[1:], strict=False):
            if not begun.wait and begun.verb in ACTIONS and fault.verb in FAULTS:
                found[f"{fault.verb} amid {begun.verb}"] += 1
    assert not {f"damage {what}" for what in NEWER_DAMAGES} - set(found)
    actions = ("backup", "restore", "verify", "expire", "copy", "checkpoint")
    assert all(any(key.endswith(f"amid {action}") for key in found) for action in actions)
    assert found["disk_errors amid restore"] and found["sync_error"]
    assert any(found[f"{fault} amid backup"] for fault in ("store_errors", "store_outage"))


@pytest.mark.parametrize("seed", [0, 3, 7, NEWER + 53])
def test_what_is_printed_is_the_same_run(seed: int) -> None:
    scenario = generated(seed)
    printed = parse(text(seed), "printed.yaml")
    first = play(scenario, seed)
    assert first.violations == []
    assert play(printed, printed.seed).trace_hash == first.trace_hash
    replay = document_of(document(seed), scenario, seed)
    assert play(build(wrap(replay, "replay")), seed).trace_hash == first.trace_hash


def test_a_sweep_of_generated_incidents(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    done = CliRunner().invoke(main, ["sweep", "--generated", "--seeds", "0..3", "--jobs", "1", "--json", str(lines)])
    assert done.exit_code == 0, done.output
    reports = [json.loads(line) for line in lines.read_text().splitlines() if line.startswith("{")]
    assert [report["seed"] for report in reports] == [0, 1, 2] and all(report["classes"] for report in reports[1:])
    assert "faults by file and phase" in done.output and "3 runs, 0 violations" in done.output


def test_a_class_that_never_strikes_is_named() -> None:
    enabled = Counter({"kill": 30, "damage archive": 30, "fsync_lies": 30, "pause": 3})
    covered = Counter({"kill at I/O|page|serving": 1, "damage_flip|page|down": 2, "lost_sync|segment|serving": 1})
    assert coverage.silent(enabled, covered) == ["damage archive is enabled in 30 runs, but never fired"]


def test_a_corpus_lists_seeds_and_reasons(tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("# why\n17 kill|machine|restore\n\n23 was a bug\n")
    assert read_corpus(str(file)) == [17, 23]
    file.write_text("17 a\nseventeen b\n")
    with pytest.raises(ScenarioError, match="corpus.txt:2: 'seventeen' is no seed"):
        read_corpus(str(file))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep"], "which scenarios"),
        (["sweep", "x.yaml", "--generated"], "which scenarios"),
        (["sweep", "--generated", "--seeds", "seven"], "expected A..B"),
        (["sweep", "--corpus", "/nowhere.txt"], "/nowhere.txt"),
        (["run", "x.yaml", "--print"], "--print shows a generated incident"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2 and words in done.output
