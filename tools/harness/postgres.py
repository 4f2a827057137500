"""PostgreSQL 15 under test: a scratch cluster with fsync on, run by a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

from tools.harness.server import Server, children, status_kb


def bin_dir() -> Path | None:
    """Where PostgreSQL's server programs are, the newest first; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]), reverse=True)
    fifteen = [path for path in found if path.parts[-3] == "15"]
    if fifteen or found:
        return (fifteen or found)[0].parent
    which = shutil.which("postgres")
    return Path(which).resolve().parent if which else None


def install() -> Path | None:
    """Find PostgreSQL, or install Debian's where APT=1 or CI=true asks for it; None (and why) if there is none."""
    found = bin_dir()
    if found is not None:
        return found
    asked = os.environ.get("APT") == "1" or os.environ.get("CI") == "true"
    if not asked or os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("SKIPPED: PostgreSQL is not installed (APT=1 as root installs Debian's postgresql-15).")
        return None
    print("Installing the Debian package postgresql-15")
    conf = Path("/etc/postgresql-common/createcluster.conf")
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text("create_main_cluster = false\n")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "postgresql-15"]):
        command = ["apt-get", "-qq", *arguments]
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode != 0:
            print(f"SKIPPED: {' '.join(command)} failed.")
            return None
    return bin_dir()


def run_as() -> list[str]:
    """A command prefix that leaves root behind: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]


class Postgres(Server):
    """`settings` are postgresql.conf keys."""

    name = "PostgreSQL"

    def __init__(self, directory: Path, settings: dict[str, str] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(directory)
        found = bin_dir()
        if found is None:
            raise FileNotFoundError("PostgreSQL is not installed")
        self.programs = found
        durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
        self.settings = durable | {"max_connections": "300"} | (settings or {})
        self.data = directory / "data"
        if not self.data.exists():
            self._create()

    def _create(self) -> None:
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            for parent in self.directory.parents:
                if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o001 == 0:
                    parent.chmod(parent.stat().st_mode | 0o011)
                if parent == Path("/tmp"):
                    break
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]
        command = [*run_as(), str(self.programs / "initdb"), "-D", str(self.data), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "logging_collector": "off",
            "log_checkpoints": "off",
            **self.settings,
        }
        arguments = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [*run_as(), str(self.programs / "postgres"), "-D", str(self.data), *arguments]

    def peak_memory_kb(self) -> int:
        """The sum over its processes of private memory now, plus the shared memory that the greatest one has touched."""
        if self.process is None:
            return 0
        pids = [self.process.pid, *children(self.process.pid)]
        private = sum(status_kb(pid, "RssAnon") for pid in pids)
        return private + max(status_kb(pid, "RssShmem") for pid in pids)

    def _wait_dead(self, pids: list[int]) -> None:
        super()._wait_dead(pids)
        # The lock file of the dead postmaster stays; a new one looks whether that process lives.
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.01)
