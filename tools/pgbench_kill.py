"""Kill -9 under pgbench's own TPC-B, round after round: nothing acknowledged may be missing, nothing may be half there.

    python -m tools.pgbench_kill [--rounds 20] [--scale 10] [--clients 8] [--mode simple|extended|prepared]

The script is TPC-B with one statement more: a transaction enters (round, client, its own number) into a ledger. pgbench
writes a line into its transaction log for every transaction that the server acknowledged, so after each restart:

K1. For every client the ledger holds the numbers 1..n without a gap, n at least what pgbench logged, at most one more.
K2. The sums over accounts, tellers and branches equal that of the history's deltas; history and ledger have as many rows.
K3. pgbench met no error before the kill (a deadlock cannot happen in TPC-B: all transactions update in one order).
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.harness import pgbench
from tools.harness.postgres import Postgres
from tools.harness.server import Server, ServerFailed, stop_whatever_happens
from tools.harness.thunder import Thunder

SCRIPT = """\
\\set seq :seq + 1
\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
INSERT INTO kill_ledger (round, client, seq) VALUES (:round, :client_id, :seq);
END;
"""
LEDGER = "CREATE TABLE kill_ledger (round int, client int, seq int, PRIMARY KEY (round, client, seq))"
# What pgbench says when the server goes away under it; anything else on stderr is a fault of the server's.
EXPECTED = (
    "perhaps the backend died",
    "server closed the connection",
    "before or while processing",
    "This probably means",
)
LOST = ("connection to server", "Connection refused", "Run was aborted", "the above results are incomplete", "Connection reset")


class Broken(Exception):
    """A promise was broken."""


def unexpected(stderr: str) -> list[str]:
    quiet = ("pgbench (", "progress:", "\t")
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith(quiet)]
    return [line for line in lines if not any(known in line for known in (*EXPECTED, *LOST))]


def load_and_kill(server: Server, work: Path, number: int, options: argparse.Namespace, after_s: float) -> dict[int, int]:
    """Run pgbench, kill the server in the middle; return what each client had acknowledged."""
    for old in work.glob("log.*"):
        old.unlink()
    arguments = pgbench.arguments(
        server, "-n", "-c", str(options.clients), "-j", "2", "-T", "600", "-M", options.mode, "-f", "script.sql",
        "-s", str(options.scale), "-D", f"round={number}", "-D", "seq=0", "--log", "--log-prefix=log",
    )  # fmt: skip
    bench = subprocess.Popen(arguments, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(after_s)
        if bench.poll() is not None:
            raise Broken(
                f"pgbench ended before the kill with {bench.returncode}\n{bench.stderr.read()[-2000:] if bench.stderr else ''}"
            )
        server.kill()
        _, stderr = bench.communicate(timeout=60)
    finally:
        if bench.poll() is None:
            bench.send_signal(signal.SIGKILL)
    strange = unexpected(stderr)
    if strange:
        raise Broken("pgbench met an error that the kill does not explain:\n" + "\n".join(strange[:10]))
    acknowledged: dict[int, int] = collections.Counter()
    for path in sorted(work.glob("log.*")):
        for line in path.read_text().splitlines():
            acknowledged[int(line.split()[0])] += 1
    return dict(acknowledged)


def check(server: Server, number: int, acknowledged: dict[int, int], clients: int) -> str:
    with server.connect(autocommit=True) as connection:
        query = "SELECT client, count(*), min(seq), max(seq) FROM kill_ledger WHERE round = %s GROUP BY client ORDER BY client"
        found = {row[0]: (row[1], row[2], row[3]) for row in connection.execute(query, (number,)).fetchall()}
        ledger = (connection.execute("SELECT count(*) FROM kill_ledger").fetchone() or (0,))[0]
        history = (connection.execute("SELECT count(*) FROM pgbench_history").fetchone() or (0,))[0]
    unknown = 0
    for client in range(clients):
        count, least, most = found.get(client, (0, 1, 0))
        acks = acknowledged.get(client, 0)
        if count < acks:
            raise Broken(f"K1: client {client} had {acks} transactions acknowledged, {count} are there")
        if count > acks + 1:
            raise Broken(f"K1: client {client} had {acks} transactions acknowledged, {count} are there: more than one too many")
        if count and (least, most) != (1, count):
            raise Broken(f"K1: client {client} has {count} transactions numbered {least} to {most}: a gap")
        unknown += count - acks
    sums = pgbench.sums(server)
    if len(set(sums.values())) != 1:
        raise Broken(f"K2: the sums differ: {sums}")
    if history != ledger:
        raise Broken(f"K2: {history} rows of history, {ledger} rows in the ledger")
    kept = f"{sum(acknowledged.values()):,} acknowledged and there, {unknown} unknown kept"
    return f"{kept}, four sums {sums['history']:,}, {history:,} in history"


def rounds(server: Server, work: Path, options: argparse.Namespace) -> None:
    streams = random.Random(options.seed)
    total = 0
    for number in range(1, options.rounds + 1):
        after_s = streams.uniform(options.least, options.most)
        acknowledged = load_and_kill(server, work, number, options, after_s)
        before, took = server.log_size(), server.start(timeout_s=300)
        recovered = ""
        if isinstance(server, Thunder):
            lines = server.recovery_lines(before)
            if not any("Recovery complete" in line for line in lines):
                raise Broken("the restart printed no recovery\n" + server.log_tail())
            recovered = f", {server.records_replayed(before):,} records replayed"
        verdict = check(server, number, acknowledged, options.clients)
        total += sum(acknowledged.values())
        print(
            f"round {number:2}: killed after {after_s:4.1f} s, first query after {took:5.2f} s{recovered}: {verdict}",
            flush=True,
        )
    if total == 0:
        raise Broken("no transaction was acknowledged in any round: the load never ran")
    print(f"PASSED: {options.rounds} rounds of kill -9, {total:,} acknowledged transactions, none missing, all sums agree")


def whole_database_check(server: Server) -> None:
    """`thunderdb --check` on the stopped database: structure, indexes against tables, space map, garbage."""
    command = [*server.command(), "--check", "--config", str(server.directory / "thunderdb.toml")]
    done = subprocess.run(command, env=server.environment(), capture_output=True, text=True, timeout=900)
    print("\n".join((done.stdout + done.stderr).strip().splitlines()[-3:]))
    if done.returncode != 0:
        raise Broken(f"thunderdb --check ended with {done.returncode}\n{done.stdout}{done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description="kill -9 under pgbench; check sums and every acknowledged transaction.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--scale", type=int, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--mode", choices=("simple", "extended", "prepared"), default="simple")
    parser.add_argument("--least", type=float, default=1.0, help="shortest load before a kill, seconds")
    parser.add_argument("--most", type=float, default=6.0, help="longest load before a kill, seconds")
    parser.add_argument("--seed", type=int, default=1, help="for the moments of the kills")
    parser.add_argument("--server", choices=("thunderdb", "postgres"), default="thunderdb")
    options = parser.parse_args()
    stop_whatever_happens()

    work = Path(tempfile.mkdtemp(prefix="thunderdb-kill-"))
    (work / "script.sql").write_text(SCRIPT)
    directory = work / "server"
    server: Server = Thunder(directory) if options.server == "thunderdb" else Postgres(directory)
    try:
        server.start(timeout_s=60)
        loaded_s = pgbench.initialise(server, options.scale)
        print(f"{server.name}, scale {options.scale}: loaded in {loaded_s:.1f} s (pgbench's done in)")
        with server.connect(autocommit=True) as connection:
            connection.execute(LEDGER)
        rounds(server, work, options)
        if server.stop() != 0:
            raise Broken("the clean shutdown failed\n" + server.log_tail())
        if isinstance(server, Thunder):
            whole_database_check(server)
        shutil.rmtree(work, ignore_errors=True)
        return 0
    except (Broken, ServerFailed, pgbench.PgbenchFailed) as failure:
        print(f"FAILED: {failure}\nLeft behind for a look: {work}")
        return 1
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
