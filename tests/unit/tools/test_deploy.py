"""What is deployed beside the daemon: alert rules, dashboard, systemd units, cron script, each checked by its own tool."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules" / "thunderdb-backup-alerts.yml"
SCRIPT = DEPLOY / "cron" / "thunderdb-backup.sh"


def tool(name: str) -> str:
    own = Path(sys.executable).parent / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (tools/debian_packages.sh installs it)")
    return found


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


# ---- alerts and dashboard ---------------------------------------------------------------------------------------------------


def test_the_alert_rules_are_what_promtool_takes_and_do_what_their_cases_say() -> None:
    promtool = tool("promtool")
    done = run(promtool, "check", "rules", str(RULES))
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done
    done = run(promtool, "test", "rules", str(DEPLOY / "prometheus" / "tests" / "thunderdb-backup-alerts.test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cases_can_fail(tmp_path: Path) -> None:
    """The same cases over rules with a wrong threshold."""
    promtool = tool("promtool")
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules" / RULES.name).write_text(RULES.read_text().replace("> 86400 * 2", "> 86400 * 3"))
    cases = shutil.copy(DEPLOY / "prometheus" / "tests" / "thunderdb-backup-alerts.test.yml", tmp_path / "tests")
    assert run(promtool, "test", "rules", str(cases)).returncode != 0


def test_the_manuals_alerts_are_there_word_for_word() -> None:
    alerts = {rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
    expected = {
        "ThunderDBBackupFailed": ("thunderdb_last_backup_status == 0", "1m", "critical"),
        "ThunderDBBackupStale": ("time() - thunderdb_last_backup_timestamp > 86400 * 2", "1h", "warning"),
        "ThunderDBWALArchiveLag": ("thunderdb_wal_archive_pending_segments > 100", "10m", "warning"),
    }
    for name, (expression, wait, severity) in expected.items():
        rule = alerts[name]
        assert (rule["expr"], rule["for"], rule["labels"]["severity"]) == (expression, wait, severity)


def test_every_alert_has_a_case() -> None:
    alerts = {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
    cases = yaml.safe_load((DEPLOY / "prometheus" / "tests" / "thunderdb-backup-alerts.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in cases for case in test["alert_rule_test"] if case.get("exp_alerts")}
    quiet = {case["alertname"] for test in cases for case in test["alert_rule_test"] if not case.get("exp_alerts")}
    assert alerts == fired == quiet


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    dashboard = json.loads((DEPLOY / "grafana" / "thunderdb-backup.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [rule["expr"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]]
    names = {name for expression in expressions for name in re.findall(r"thunderdb_\w+", expression)}
    assert len(names) > 12 and not [name for name in sorted(names) if f"`{name}`" not in documented]
    panels = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = {(x, y) for p in panels for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])}
    assert len(cells) == sum(p["w"] * p["h"] for p in panels), "panels overlap"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(panels)


# ---- systemd ----------------------------------------------------------------------------------------------------------------


def test_the_units_verify(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    command = tmp_path / "thunderdb"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for unit in (DEPLOY / "systemd").iterdir():
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={command}", unit.read_text(), flags=re.M)
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in (DEPLOY / "systemd").iterdir()]
    done = run(analyze, "verify", "--man=no", *units)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "thunderdb" in line]
    assert done.returncode == 0 and ours == [], done
    broken = tmp_path / "thunderdb.service"
    broken.write_text(broken.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    assert "sometimes" in run(analyze, "verify", "--man=no", str(broken)).stderr, "it can fail"


def test_the_service_is_the_manuals_and_closed() -> None:
    text = (DEPLOY / "systemd" / "thunderdb.service").read_text()
    for line in ("User=thunder", "StateDirectory=thunderdb thunderdb/data thunderdb/wal", "ProtectSystem=strict", "UMask=0077"):
        assert line in text.splitlines()
    assert "--config /etc/thunderdb/thunderdb.toml" in text and "StateDirectoryMode=0700" in text


# ---- the cron script --------------------------------------------------------------------------------------------------------


def test_shell_scripts_are_clean() -> None:
    shellcheck = tool("shellcheck")
    scripts = [SCRIPT, *(ROOT / "tools").glob("*.sh")]
    done = run(shellcheck, *map(str, scripts))
    assert done.returncode == 0, done.stdout


class Api(BaseHTTPRequestHandler):
    """A daemon of a few canned answers. `server.statuses` is handed out one by one; the last one for ever."""

    def answer(self, status: int, body: Any) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.calls.append((self.path, json.loads(body or b"{}"), self.headers.get("Authorization")))
        if self.path == "/admin/backup":
            if server.makes:
                folder = Path(json.loads(body)["destination"])
                folder.mkdir()
                (folder / "backup_manifest.json").write_text('{"backup_id": "bk-new"}')
            self.answer(*server.started)
        else:
            self.answer(200, {"status": "failed"})

    def do_GET(self) -> None:
        server: Any = self.server
        status = server.statuses.pop(0) if len(server.statuses) > 1 else server.statuses[0]
        self.answer(*status)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def api() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.calls, server.makes = [], True
    server.started = (202, {"status": "started", "backup_id": "bk-new"})
    server.statuses = [(200, {"status": "running"}), (200, {"status": "completed"})]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def backup(tmp_path: Path, api: Any, verify: str = "exit 0", **settings: str) -> subprocess.CompletedProcess[str]:
    for name in ("curl", "jq", "flock"):
        tool(name)
    command = tmp_path / "thunderdb"
    command.write_text(f'#!/bin/sh\necho "verified: $*"\n{verify}\n')
    command.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"], "THUNDERDB_URL": f"http://127.0.0.1:{api.server_address[1]}", "POLL_S": "0.05",
        "THUNDERDB": str(command), "BACKUP_DIR": str(tmp_path), **settings,
    }  # fmt: skip
    return run(str(SCRIPT), env=environment)


def old(tmp_path: Path, days: int, backup_id: str = "", base: str | None = None, prefix: str = "full") -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() - days * 86_400))
    folder = tmp_path / f"{prefix}-{stamp}"
    (folder / "data").mkdir(parents=True)
    link = {"backup_id": base} if base else None
    (folder / "backup_manifest.json").write_text(json.dumps({"backup_id": backup_id or f"bk-{days}", "base": link}))
    return folder


def test_the_script_backs_up_verifies_and_removes_what_is_old(tmp_path: Path, api: Any) -> None:
    kept = [old(tmp_path, days) for days in (1, 6)]
    gone = [old(tmp_path, days) for days in (8, 30)]
    others = [tmp_path / "full-by-hand", tmp_path / "wal-archive"]
    for folder in others:
        folder.mkdir()
    done = backup(tmp_path, api)
    assert done.returncode == 0, done
    path, request, _ = api.calls[0]
    assert path == "/admin/backup" and request["include_wal"] is True and request["compress"] is True
    assert re.fullmatch(rf"{tmp_path}/full-\d{{8}}-\d{{6}}", request["destination"])
    assert f"verified: --verify-backup {request['destination']}" in done.stdout
    assert [folder.exists() for folder in [*kept, *others]] == [True] * 4
    assert [folder.exists() for folder in gone] == [False] * 2


def test_the_newest_and_what_others_stand_on_stay_however_old(tmp_path: Path, api: Any) -> None:
    base, lone = old(tmp_path, 40, "bk-base"), old(tmp_path, 30)
    old(tmp_path, 20, "bk-incr", "bk-base", prefix="incr")
    newest = [old(tmp_path, 12), old(tmp_path, 11)]
    assert backup(tmp_path, api, KEEP_LEAST="3").returncode == 0
    assert base.exists() and not lone.exists() and all(folder.exists() for folder in newest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"started": (409, {"error": "refused", "message": "exists"})}, "did not start.*exists"),
        ({"started": (200, {"status": "started"})}, "no backup_id"),
        ({"started": (200, b"<html>")}, "no backup_id"),
        ({"statuses": [(200, {"status": "failed", "error": "disk full"})]}, "failed: disk full"),
        ({"statuses": [(404, {"status": "failed", "message": "there is no backup"})]}, "failed: there is no backup"),
        ({"statuses": [(503, {"error": "not_ready"})]}, "does not answer any more"),
        ({"statuses": [(200, {"status": "running"})]}, "not ended after 1 seconds"),
    ],
)
def test_whatever_goes_wrong_is_loud_and_nothing_is_removed(
    tmp_path: Path, api: Any, change: dict[str, Any], said: str
) -> None:
    for name, value in change.items():
        setattr(api, name, value)
    ancient = [old(tmp_path, days) for days in (30, 31, 32, 33)]
    done = backup(tmp_path, api, TIMEOUT_S="1" if "not ended" in said else "20")
    assert done.returncode != 0 and re.search(said, done.stderr), done
    assert all(folder.exists() for folder in ancient)
    if "not ended" in said:
        assert api.calls[-1][0] == "/admin/backup/bk-new/cancel"


def test_a_backup_that_does_not_verify_removes_nothing(tmp_path: Path, api: Any) -> None:
    ancient = [old(tmp_path, days) for days in (30, 31, 32, 33)]
    done = backup(tmp_path, api, verify="exit 1")
    assert done.returncode == 1 and "does not verify" in done.stderr and all(folder.exists() for folder in ancient)


def test_a_daemon_that_is_not_there_is_loud(tmp_path: Path, api: Any) -> None:
    api.shutdown()
    done = backup(tmp_path, api, THUNDERDB_URL="http://127.0.0.1:1")
    assert done.returncode != 0 and "did not start" in done.stderr
    api.serve_forever = lambda: None


def test_the_token_is_sent_and_never_shown(tmp_path: Path, api: Any) -> None:
    secret = tmp_path / "token"
    secret.write_text("0123456789abcdef\n")
    done = backup(tmp_path, api, TOKEN_FILE=str(secret))
    assert done.returncode == 0 and api.calls[0][2] == "Bearer 0123456789abcdef"
    assert "0123456789abcdef" not in done.stdout + done.stderr


def test_two_runs_do_not_overlap(tmp_path: Path, api: Any) -> None:
    flock = tool("flock")
    with subprocess.Popen([flock, str(tmp_path / ".thunderdb-backup.lock"), "sleep", "30"]) as holder:
        time.sleep(0.3)
        done = backup(tmp_path, api)
        holder.kill()
    assert done.returncode == 1 and "another run" in done.stderr
