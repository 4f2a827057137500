"""The command's flags for backups: what goes together, what is printed, and what exit code says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thunderdb.archive.retention import Decision
from thunderdb.backup.expire import Expired
from thunderdb.backup.inventory import Inventory
from thunderdb.backup.verify_report import VerifyReport
from thunderdb.base.config import parse
from thunderdb.base.errors import ConfigError, Refused, StorageError
from thunderdb.server import remote, retaining, verifying
from thunderdb.server.cli_backup import OWN, run_backup_command

TEXTS = ("backup", "base", "verify_backup", "hold", "hold_for", "release")
NONE: dict[str, Any] = {name: None if name in TEXTS else False for name in OWN}


def asked(**flags: Any) -> int | None:
    return run_backup_command(parse(), {**NONE, **flags}, dry_run=False, as_json=False)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"backup": "/b", "expire": True}, "--backup and --expire"),
        ({"verify_backup": "/b", "retention_report": True}, "--verify-backup and --retention-report"),
        ({"deep": True}, "--deep means nothing without --verify-backup"),
        ({"compress": True}, "--compress means nothing without --backup"),
        ({"no_wal": True, "verify_backup": "/b"}, "--no-wal means nothing without --backup"),
        ({"backup": "/b", "base": "/a"}, "--base means nothing without --incremental"),
        ({"expire": True}, "neither"),
        ({"hold": "audit"}, "neither"),
        ({"hold_for": "1d", "expire": True}, "--hold-for means nothing without --hold"),
        ({"hold": "a", "release": "a"}, "--hold and --release"),
    ],
)
def test_flags_that_do_not_go_together_are_named(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        asked(**flags)
    assert caught.value.hint


def test_without_any_of_them_the_daemon_runs() -> None:
    assert asked() is None


def test_the_manuals_lines_exactly() -> None:
    report = VerifyReport(
        "/backups/full", backup_time="2026-01-15T10:30:45Z", end_lsn=0x1A3B4C5D, data_pages=8192, wal_segments=12
    )
    report.manifest = object()  # type: ignore[assignment]
    assert verifying.lines(report) == [
        "Backup verification: PASSED",
        "Backup time: 2026-01-15T10:30:45Z",
        "LSN: 0/1A3B4C5D",
        "Data pages: 8192 (verified)",
        "WAL segments: 12 (verified)",
        "Checksum: OK",
    ]


def test_a_failure_names_the_first_bad_file_page_and_lsn() -> None:
    report = VerifyReport("/backups/full", data_pages=8192)
    for page in range(30):
        report.problem("data/pages.000000", "checksum does not match", page, 0x1383 + page)
    found = verifying.lines(report)
    assert found[0] == "Backup verification: FAILED"
    assert found[1] == "First problem: data/pages.000000, page 0, LSN 0/1383: checksum does not match"
    assert "Checksum: FAILED" in found and found[-1] == "  and 10 more (--json has them all)"


def test_a_copy_by_hand_has_no_manifest_and_says_so() -> None:
    report = VerifyReport("/backups/full", notes=["no manifest"])
    assert "Checksum: OK (no manifest: pages and log were checked)" in verifying.lines(report)


def test_verifying_nothing_fails_and_json_is_versioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verifying.verify_place(parse(), str(tmp_path / "none"), deep=False, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["passed"]) == ("thunderdb.verify/1", False) and answer["problems"][0]["text"]


def test_the_report_has_a_line_for_each_backup_and_one_for_a_run_of_segments() -> None:
    decisions = [Decision(f"/b/full-{n}", "backup", n > 1, "daily, …", 1 << 20) for n in (3, 2, 1)]
    decisions += [Decision(f"{n:024X}", "segment", n > 2, "old" if n <= 2 else "needed", 1 << 24) for n in range(1, 6)]
    done = Expired(Inventory("/b"), decisions, 0)
    found = retaining.lines(done, removed=False)
    assert found == [
        "Recovery window: nothing can be restored yet",
        "Backups: 3 (3.0MB)",
        "  keep    /b/full-3  1.0MB  daily, …",
        "  keep    /b/full-2  1.0MB  daily, …",
        "  may go  /b/full-1  1.0MB  daily, …",
        "Archived log: 5 (80.0MB)",
        f"  may go  {1:024X} … {2:024X} (2)  32.0MB  old",
        f"  keep    {3:024X} … {5:024X} (3)  48.0MB  needed",
        "May go: 3 objects (33.0MB); --expire removes them",
    ]
    done.removed = ["/b/full-1"]
    assert retaining.lines(done, removed=True)[4].startswith("  removed ")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ConfigError), (401, ConfigError), (403, Refused), (409, Refused), (503, StorageError), (500, StorageError)],
)
def test_the_daemons_answers_become_exit_codes(status: int, kind: type[Exception]) -> None:
    error = remote._error_of(status, {"message": "no", "hint": "do this"})
    assert type(error) is kind and (error.message, error.hint) == ("no", "do this")


def test_where_the_daemon_is() -> None:
    assert remote.AdminClient(parse("", {}, {"http_port": 1})).url == "http://127.0.0.1:1"
    assert remote.AdminClient(parse("", {}, {"http_listen_addr": "::1", "http_port": 1})).url == "http://[::1]:1"
    with pytest.raises(remote.Unreachable) as caught:
        remote.AdminClient(parse("", {}, {"http_port": 1})).call("GET", "/admin/live")
    assert caught.value.exit_code == 4 and "--http-port" in caught.value.hint


def test_sizes_as_people_read_them() -> None:
    assert [remote.show_size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30)] == ["0B", "1023B", "1.5KB", "5.0MB", "3.0GB"]


def test_a_hold_by_hand_stops_everything_until_it_is_released(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parse("", {}, {"destination": str(tmp_path / "b"), "data_dir": str(tmp_path / "data")})

    def run(**flags: Any) -> str:
        assert run_backup_command(config, {**NONE, **flags}, dry_run=False, as_json=False) == 0
        return capsys.readouterr().out

    folder = tmp_path / "b" / "full-20200101-020000"
    folder.mkdir(parents=True)
    (folder / "backup_manifest.json").write_text("{}")
    assert run(hold="audit", hold_for="2h").startswith("Held: nothing goes until 20")
    assert "held by audit until" in run(retention_report=True)
    assert run(release="audit") == "Released: audit\n"
    assert "held by" not in run(retention_report=True) and "cannot be read" in run(expire=True)
    with pytest.raises(Refused, match="no hold"):
        run(release="audit")
    with pytest.raises(Refused, match="name of a hold"):
        run(hold="../x")
    with pytest.raises(ConfigError, match="hold-for"):
        run(hold="audit", hold_for="soon")
