"""Walks the manual's chapter on backup and recovery on real processes; writes docs/backup-and-recovery.md of what they say.

    python -m tools.spec_walk            write the document
    python -m tools.spec_walk --check    walk again, and compare the shape of every answer with the document's

Each command is the manual's own text, run by bash. Paths (/etc/thunderdb, /var/lib/thunderdb, /backups) lie below one scratch
folder, ports are free ones, `sudo` and `systemctl` are small scripts that do the same to our own process: nothing of the host
is touched. The document shows the commands as the manual has them.

S1. A step whose answer lacks what it must have ends the walk, with status 1 and the answer.
S2. The shape of an answer is the answer without ids, times, LSNs, numbers and paths. A document of another shape is stale.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import psycopg

from tools.harness.server import free_port
from tools.spec_walk_text import HEAD, STEPS, TAIL, Step

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "backup-and-recovery.md"
CONFIG = """\
[network]
pg_port = {pg}
http_port = {http}

[storage]
data_dir = "{prefix}/var/lib/thunderdb/data"
wal_dir = "{prefix}/var/lib/thunderdb/wal"
wal_archive_enabled = true
wal_archive_dir = "{prefix}/backups/thunderdb/wal-archive"
wal_archive_retention = "7d"
"""
TEST_CONFIG = """\
[network]
pg_port = {test_pg}
http_port = {test_http}

[storage]
data_dir = "{prefix}/var/lib/thunderdb-test/data"
wal_dir = "{prefix}/var/lib/thunderdb-test/wal"
wal_archive_dir = "{prefix}/backups/thunderdb/wal-archive"
"""
SYSTEMCTL = """\
#!/bin/bash
# start, stop or kill our own daemon, the way systemd does it to the service.
set -eu
name=${{3:-thunderdb.toml}}
pid_file={prefix}/$name.pid
case $1 in
  start)
    nohup thunderdb --config "{prefix}/etc/thunderdb/$name" >>{prefix}/var/log/thunderdb.log 2>&1 </dev/null &
    echo $! >"$pid_file"
    for _ in $(seq 600); do
      curl -sf "http://127.0.0.1:${{4:-{http}}}/admin/ready" >/dev/null && exit 0
      kill -0 "$(cat "$pid_file")" 2>/dev/null || break
      sleep 0.05
    done
    tail -5 {prefix}/var/log/thunderdb.log >&2
    exit 1 ;;
  stop | kill)
    signal=TERM; [ "$1" = stop ] || signal=KILL
    kill -$signal "$(cat "$pid_file")"
    for _ in $(seq 600); do kill -0 "$(cat "$pid_file")" 2>/dev/null || exit 0; sleep 0.05; done
    exit 1 ;;
esac
"""
SHAPES = (
    (re.compile(r"bk-\d{8}-\d{6}(-\d+)?"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d| UTC)?"), "TIME"),
    (re.compile(r"\b[0-9A-F]{24}\b"), "SEGMENT"),
    (re.compile(r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b"), "LSN"),
    (re.compile(r"\b\d+\.\d+(e[+-]?\d+)?\b"), "N"),  # before digests: fifteen digits and an e look like one
    (re.compile(r"\b[0-9a-f]{16,32}\b"), "DIGEST"),
    (re.compile(r"(full|incr)-\d{8}(-\d{6})?"), "NAME"),
    (re.compile(r"-?\b\d[\d,]*(\.\d+)?(e[+-]?\d+)?\s?(ms|s|B|KB|MB|GB|h|min)?\b"), "N"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r"-{3,}"), "---"),
    (re.compile(r"^\[INFO\] Replaying segment SEGMENT\.\.\. done\n", re.M), ""),  # a checkpoint may have closed one more
    (re.compile(r"^Note: (?!no manifest).*\n", re.M), ""),  # which pages were torn when a copy was made is chance
)


class WalkFailed(Exception):
    """The manual says one thing, and the program did another."""


@dataclass(slots=True)
class Walk:
    """One walk below a scratch folder. `names` are what earlier answers gave: the backup's id, a time, an LSN."""

    prefix: Path
    names: dict[str, str] = field(default_factory=dict)
    loaders: list[Loader] = field(default_factory=list)

    def prepare(self) -> None:
        ports = {name: str(free_port()) for name in ("pg", "http", "test_pg", "test_http")}
        self.names |= ports | {"prefix": str(self.prefix)}
        for folder in ("etc/thunderdb", "var/lib/thunderdb", "var/log", "backups/thunderdb", "bin", "scripts"):
            (self.prefix / folder).mkdir(parents=True)
        (self.prefix / "etc/thunderdb/thunderdb.toml").write_text(CONFIG.format(**self.names))
        (self.prefix / "etc/thunderdb/thunderdb-test.toml").write_text(TEST_CONFIG.format(**self.names))
        scripts = {
            "thunderdb": f'#!/bin/sh\nexec "{sys.executable}" -m thunderdb.server.cli "$@"\n',
            "sudo": '#!/bin/sh\n[ "$1" != -u ] || shift 2\nexec "$@"\n',
            "systemctl": SYSTEMCTL.format(**self.names),
        }
        for name, text in scripts.items():
            path = self.prefix / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        (self.prefix / "scripts/recovery-validation.sql").write_text(
            "SELECT count(*) AS orders, sum(amount) AS total FROM orders;\n"
        )

    def close(self) -> None:
        for loader in self.loaders:
            loader.stop()
        for name in ("thunderdb.toml", "thunderdb-test.toml"):
            if (self.prefix / f"{name}.pid").exists():
                command = [str(self.prefix / "bin/systemctl"), "kill", "thunderdb", name]
                subprocess.run(command, env=self.environment(), capture_output=True, timeout=60)

    def environment(self) -> dict[str, str]:
        dropped = ("THUNDERDB_", "PG", "PYTHONDONTWRITEBYTECODE")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        return clean | {
            "PATH": f"{self.prefix}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PGPORT": self.names["pg"],
            "THUNDERDB_CONFIG": f"{self.prefix}/etc/thunderdb/thunderdb.toml", "LC_ALL": "C.UTF-8", "TZ": "UTC",
            "THUNDERDB_URL": f"http://localhost:{self.names['http']}", "POLL_S": "0.2",
            "BACKUP_DIR": f"{self.prefix}/backups/thunderdb", "THUNDERDB": "thunderdb", "PSQLRC": "/dev/null",
        }  # fmt: skip

    def run(self, step: Step) -> str:
        """Run a step's command and return what it printed, paths as the manual has them. Raises: WalkFailed."""
        if step.load is not None:
            self._load(step.load)
        command = self._real(step.command)
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail\n{command}"], env=self.environment(), cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, timeout=120,
        )  # fmt: skip
        shown = self._shown(done.stdout).strip("\n")
        if done.returncode != step.status:
            raise WalkFailed(
                f"$ {step.command}\n{shown}\nended with status {done.returncode} instead of {step.status}\n{self.log()}"
            )
        for wanted in step.expect:
            if not re.search(wanted, shown, re.M):
                raise WalkFailed(f"$ {step.command}\n{shown}\nlacks {wanted!r}\n{self.log()}")
        for name, pattern in step.keep.items():
            found = re.search(pattern, done.stdout, re.M)
            if found is None:
                raise WalkFailed(f"$ {step.command}\n{shown}\nhas no {name} ({pattern!r})")
            self.names[name] = found[1]
        return shown

    def log(self) -> str:
        path = self.prefix / "var/log/thunderdb.log"
        return "\n".join(path.read_text().splitlines()[-15:]) if path.exists() else ""

    def _load(self, what: str) -> None:
        if what == "start":
            loader = Loader(int(self.names["pg"]))
            self.loaders.append(loader)
            loader.start()
            time.sleep(0.5)
            return
        loader = self.loaders.pop()
        loader.stop()
        if loader.error is not None or loader.rows == 0:
            raise WalkFailed(f"the load did not run: {loader.rows} rows, {loader.error}")

    def _real(self, text: str) -> str:
        for name, value in self.names.items():
            text = text.replace("{" + name + "}", value)
        for path in ("/backups/", "/etc/thunderdb/", "/var/lib/thunderdb", "/var/log/", "/scripts/"):
            text = text.replace(path, f"{self.prefix}{path}")
        text = text.replace("/etc/cron.d/thunderdb-backup.sh", str(ROOT / "deploy/cron/thunderdb-backup.sh"))
        return text.replace(":8088", ":" + self.names["http"]).replace("-p 15432", "-p " + self.names["test_pg"])

    def _shown(self, text: str) -> str:
        text = text.replace(str(self.prefix), "").replace(str(ROOT) + "/", "")
        for name, port in (("pg", "5432"), ("http", "8088"), ("test_pg", "15432"), ("test_http", "18088")):
            text = re.sub(rf"\b{self.names[name]}\b", port, text)
        return text

    def command_shown(self, step: Step) -> str:
        text = step.command
        for name, value in self.names.items():
            text = text.replace("{" + name + "}", value)
        return self._shown(text)


class Loader(threading.Thread):
    """Inserts orders one by one, until it is told to stop."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.rows = 0
        self.error: BaseException | None = None
        self._stop_now = threading.Event()

    def run(self) -> None:
        try:
            with psycopg.connect(f"host=127.0.0.1 port={self.port} user=admin dbname=thunderdb", autocommit=True) as connection:
                number = int(connection.execute("SELECT coalesce(max(id), 0) FROM orders").fetchone()[0])  # type: ignore[index]
                while not self._stop_now.is_set():
                    number += 1
                    connection.execute(
                        "INSERT INTO orders VALUES (%s, %s, %s)", (number, f"customer {number % 97}", number % 500)
                    )
                    self.rows += 1
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._stop_now.set()
        self.join(30)


SOMETIMES = re.compile(r"pages? will be rebuilt from")
"""Lines that depend on the moment: whether a copy under load caught a page while it was written."""


def shape(text: str) -> str:
    """S2. How many lines of the same shape follow each other is a number, too."""
    for pattern, word in SHAPES:
        text = pattern.sub(word, text)
    lines = [line.strip() for line in text.splitlines() if not SOMETIMES.search(line)]
    return "\n".join(line for line, _ in groupby(lines))


def walk(say: bool = True) -> list[tuple[Step, str, str]]:
    """All steps: (step, command as shown, answer). Raises: WalkFailed."""
    prefix = Path(tempfile.mkdtemp(prefix="thunderdb-walk-"))
    current = Walk(prefix)
    found: list[tuple[Step, str, str]] = []
    try:
        current.prepare()
        for step in STEPS:
            began_s = time.monotonic()
            answer = current.run(step)
            found.append((step, current.command_shown(step), answer))
            if say:
                print(f"{time.monotonic() - began_s:6.2f}s  {step.title}", flush=True)
    finally:
        current.close()
        shutil.rmtree(prefix, ignore_errors=True)
    return found


def render(found: list[tuple[Step, str, str]]) -> str:
    parts = [HEAD]
    section = ""
    for step, command, answer in found:
        if step.hidden:
            continue
        if step.section != section:
            section = step.section
            parts.append(f"\n## {section}\n")
        parts.append(f"\n### {step.title}\n")
        if step.text:
            parts.append(f"\n{step.text}\n")
        parts.append(f"\n```bash\n{command}\n```\n")
        if step.manual:
            parts.append(f"\nThe manual's answer:\n\n```\n{step.manual.strip(chr(10))}\n```\n")
        if answer:
            parts.append(f"\n{'Ours' if step.manual else 'Answer'}:\n\n```\n{answer}\n```\n")
        if step.remark:
            parts.append(f"\n{step.remark}\n")
    return "".join(parts) + TAIL


def differences(document: str, fresh: str) -> list[str]:
    """Lines of the two documents' shapes that differ."""
    import difflib

    lines = difflib.unified_diff(shape(document).splitlines(), shape(fresh).splitlines(), "document", "walk", lineterm="", n=1)
    return list(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare with the document instead of writing it")
    options = parser.parse_args()
    missing = [tool for tool in ("bash", "curl", "jq", "psql", "rsync", "flock") if shutil.which(tool) is None]
    if missing:
        print(f"SKIPPED: {', '.join(missing)} not installed (tools/debian_packages.sh installs it)")
        return 0
    try:
        text = render(walk())
    except WalkFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    if not options.check:
        DOCUMENT.write_text(text)
        print(f"wrote: {DOCUMENT.relative_to(ROOT)}")
        return 0
    stale = differences(DOCUMENT.read_text(), text)
    print("\n".join(stale) or f"{DOCUMENT.relative_to(ROOT)} says what is so")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
