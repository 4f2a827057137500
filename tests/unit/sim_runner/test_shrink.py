"""Replay files hold the plan; shrinking keeps the failure and little else; the list of its bugs is kept up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sim.cli import main
from sim.incident.play import play
from sim.scenario.replay import document_of
from sim.scenario.scenario import Scenario, ScenarioError, build, load, parse
from sim.scenario.schema import parse_yaml, wrap
from sim.shrinking.reduce import signature
from sim.shrinking.reference import NoReference
from sim.shrinking.shrink import shrink
from sim.shrinking.shrunk import write

ROOT = Path(__file__).resolve().parents[3]
LIES = """
settings: {page_size: 4KB, buffer_pool_size: 4MB, wal_segment_size: 1MB, max_wal_size: 4MB}
workload: {clients: [2, 3], rate: 30/s, accounts: 8, items: 20}
operator: {notices: [1s, 2s], acts: 500ms}
timeline:
  - {at: 500ms, checkpoint: }
  - {after: [100ms, 1s], serve: {for: 1s}}
  - {at: 2s, fsync_lies: {path: wal, for: 1min}}
  - {after: [500ms, 1s], power_cut: {fates: none}}
  - {after: 1s, start: }
promises: {rpo: 0, rto: 1min}
"""


def replayed(text: str, file: str, seed: int) -> None:
    scenario = parse(text, file)
    document = document_of(parse_yaml(text, file).plain(), scenario, seed)
    again = build(parse_yaml(yaml.safe_dump(document, sort_keys=False), file))
    assert again.seed == seed
    assert play(again, seed).trace_hash == play(scenario, seed).trace_hash


def test_a_replay_file_gives_the_same_run() -> None:
    """Both kinds, and without the drawing: another swarm changes nothing."""
    replayed(LIES, "lies.yaml", 5)
    text = (ROOT / "scenarios" / "power_cut.yaml").read_text()
    replayed(text, "scenarios/power_cut.yaml", 11)
    document = document_of(yaml.safe_load(text), load(str(ROOT / "scenarios/power_cut.yaml")), 11)
    changed = {**document, "faults": {**document["faults"], "swarm": 0.9, "outages": [9, 9]}}
    other = document_of(changed, build(wrap(changed, "x")), 11)
    assert other["plan"] == document["plan"]


def test_a_failure_shrinks_and_its_test_fails(tmp_path: Path) -> None:
    file = tmp_path / "lies.yaml"
    file.write_text(LIES)
    said: list[str] = []
    found = shrink(str(file), 1, 10.0, said.append)
    assert found.kind == signature(found.violations[0]) == "rpo acknowledged transactions lost promised"
    assert found.faults <= 2 and found.transactions <= 10, found.document
    assert not any("checkpoint" in step or "serve" in step for step in found.document["timeline"])
    replay, test = write(found, tmp_path / "out", "lies")
    assert play(load(str(replay)), load(str(replay)).seed).violations == list(found.violations)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "acknowledged transactions lost" in done.stdout, done.stdout[-2000:]


def loses_much_work(scenario: Scenario, seed: int) -> bool:
    """Which seed does, moves with the engine."""
    result = play(scenario, seed)
    return result.transactions > 60 and result.violations[:1] != [] and result.violations[0].startswith("rpo: ")


@pytest.mark.parametrize("written_out", [False, True])
def test_outages_drawn_by_weight_shrink_to_a_few_transactions(tmp_path: Path, written_out: bool) -> None:
    """From a short run that fails in the same way, or, where the file has a plan, from that very run."""
    document = yaml.safe_load((ROOT / "scenarios/power_cut.yaml").read_text())
    document["workload"].update(driver="engine", clients=[3, 4], items=30, accounts=10)
    document["faults"] = {
        "outages": [2, 3],
        "after": ["2ms", "40ms"],
        "disk": {"lost_sync": 0.2},
        "fates": {"none": 1},
        "swarm": 0.0,
    }
    scenario = build(wrap(document, "x"))
    seed = next(seed for seed in range(100) if loses_much_work(scenario, seed))
    if written_out:
        document = document_of(document, scenario, seed)
    file = tmp_path / "lost-sync.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    found = shrink(str(file), seed, 10.0, lambda _: None)
    assert found.first[1] > 40 and found.small and found.start.startswith("seed"), (
        found.first,
        found.transactions,
        found.faults,
    )
    assert (found.start == f"seed {seed}") == written_out
    script = found.scenario.workload.script
    assert script is not None and sum(len(life) for life in script) <= 7
    replay, test = write(found, tmp_path / "out", "lost-sync_4")
    assert play(load(str(replay)), load(str(replay)).seed).violations == list(found.violations)
    compile(test.read_text(), str(test), "exec")


def test_where_a_refusal_was_expected_the_steps_and_the_work_stay(tmp_path: Path) -> None:
    """It goes by them; and the file that is written names another line, which is no other failure."""
    file = tmp_path / "expected.yaml"
    file.write_text(
        LIES.replace("{after: 1s, start: }", "{after: 1s, start: {expect: refused}}").replace("{path: wal, for: 1min}", "")
    )
    found = shrink(str(file), 1, 5.0, lambda _: None)
    assert found.kind.startswith("Violation line start ended ok expected"), found.kind
    assert [step.verb for step in found.scenario.timeline] == ["checkpoint", "serve", "fsync_lies", "power_cut", "start"]
    assert found.scenario.workload.script is None and found.transactions > 10


def test_with_a_good_source_at_hand_what_its_author_expected_shrinks_too(tmp_path: Path) -> None:
    """The good one refuses to start after a power cut; its judge lets that pass where the disk may have lied."""
    good = tmp_path / "good"
    for name in ("thunderdb", "sim"):
        shutil.copytree(ROOT / name, good / name, ignore=shutil.ignore_patterns("data", "__pycache__"))
    actions = good / "sim/incident/actions.py"
    text = actions.read_text()
    before = '            return "ok", await coro or ""\n'
    assert before in text
    refuses = "            if self.site.world.fired['power_cut']:\n                coro.close()\n"
    actions.write_text(text.replace(before, refuses + "                raise Refused('no')\n" + before))
    file = tmp_path / "expected.yaml"
    text = LIES.replace("{after: 1s, start: }", "{after: 1s, start: {expect: refused}}").replace("{path: wal, for: 1min}", "")
    file.write_text(text.replace("promises: {", "promises: {outcome: must_refuse, "))
    search_said: list[str] = []
    found = shrink(str(file), 1, 20.0, lambda line: search_said.extend(["again"] if "once more" in line else []), good)
    assert found.judged and [step.verb for step in found.scenario.timeline] == ["fsync_lies", "power_cut", "start"]
    assert found.transactions <= 3 and search_said == []
    with pytest.raises(ScenarioError, match="fails with the source in .*, too"):
        shrink(str(file), 1, 5.0, lambda _: None, ROOT)
    with pytest.raises(NoReference, match="there is no simulator in this folder"):
        shrink(str(file), 1, 5.0, lambda _: None, tmp_path)


def test_what_does_not_fail_cannot_be_shrunk(tmp_path: Path) -> None:
    file = tmp_path / "fine.yaml"
    file.write_text(LIES.replace("fsync_lies: {path: wal, for: 1min}", "checkpoint: "))
    with pytest.raises(ScenarioError, match="seed 1 does not fail"):
        shrink(str(file), 1, 5.0, lambda _: None)
    done = CliRunner().invoke(main, ["shrink", str(file), "--seed", "1"])
    assert done.exit_code == 2 and "does not fail" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "which scenario"),
        (["shrink"], "which failure"),
        (["run", "x.yaml", "--seed", "seven"], "'seven' is not a valid integer"),
        (["sweep", str(ROOT / "scenarios/power_cut.yaml"), "--seeds", "one..two"], "expected A..B"),
        (["run", "--replay", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_wrong_usage_is_said(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2 and words in done.output


def test_a_plan_that_is_none_is_refused_by_line() -> None:
    with pytest.raises(ScenarioError, match=r"x.yaml:2: plan: this is no plan"):
        parse("seed: 3\nplan: {outages: 4}", "x.yaml")


def test_a_size_that_was_left_out_is_not_in_the_file() -> None:
    """A database that stands for 100 GB is loaded in dozens of transactions; a small one may do."""
    text = LIES + "scale: 10\nsizes: {data: 4MB, log: 2MB}\n"
    scenario = parse(text, "x.yaml")
    little = replace(scenario, sizes=replace(scenario.sizes, data_bytes=0))
    document = document_of(parse_yaml(text, "x.yaml").plain(), little, 1)
    assert document["sizes"] == {"log": "2MB"} and build(wrap(document, "x")).sizes == little.sizes
