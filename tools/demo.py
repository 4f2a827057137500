"""The main job, end to end, on this machine's disk: load, kill -9 under load, restart, prove that nothing acknowledged is lost.

    python -m tools.demo [--rounds 2] [--clients 8] [--seconds 4] [--server thunderdb|postgres] [--keep]

Clients move money between accounts. Each transfer also enters its own number into a ledger table, and once the server has
acknowledged the commit, the client writes that number down on its side. After every kill the two are compared:

D1. Each number that a client wrote down is in the table: no acknowledged commit is missing.
D2. A number in the table that no client wrote down is one whose answer the kill cut off: at most one for each client and round.
D3. The accounts still sum up to what was loaded, and each balance equals what the ledger says of it: no transfer is half there.

Then backup and point-in-time recovery: demo_pitr.py.

Exits with 0 only if all three hold in every round, and the restart did recover from a crash. Whatever it started, it stops.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tools.demo_load import ACCOUNTS, OPENING_BALANCE, Client, DemoFailed, load, say
from tools.demo_pitr import backup_and_restore
from tools.harness.postgres import Postgres
from tools.harness.server import Server, ServerFailed, stop_whatever_happens
from tools.harness.thunder import Thunder


def kill_under_load(server: Server, seconds: float, clients: int, book: dict[int, list[int]]) -> None:
    """Run the clients, kill the server in the middle, and add what was acknowledged to the book."""
    workers = [
        Client(server, client, 1 + max(book[client], default=0) + 1000 * bool(book[client])) for client in range(clients)
    ]
    for worker in workers:
        worker.start()
    time.sleep(seconds)
    busy = sum(worker.is_alive() for worker in workers)
    server.kill()
    for worker in workers:
        worker.join(timeout=30)
        if worker.error is not None:
            raise DemoFailed(f"client {worker.client} failed: {type(worker.error).__name__}: {worker.error}") from worker.error
        book[worker.client] += worker.acknowledged
    acknowledged = sum(len(worker.acknowledged) for worker in workers)
    if busy < clients or not acknowledged:
        raise DemoFailed(f"the load was not running at the kill: {busy} of {clients} clients, {acknowledged} commits")
    retries = sum(worker.retries for worker in workers)
    rate = acknowledged / seconds
    told = f"{acknowledged:,} commits acknowledged ({rate:,.0f}/s, {clients} clients, {retries} retried)"
    say(f"kill -9 after {seconds:.0f} s: {told}")


def restart(server: Server) -> None:
    before = server.log_size()
    took = server.start(timeout_s=120)
    if isinstance(server, Thunder):
        lines = server.recovery_lines(before)
        for line in lines:
            say(f"    {line}")
        if not any("Recovery complete" in line for line in lines):
            raise DemoFailed("the restart printed no recovery\n" + server.log_tail())
    say(f"Restarted; the first query was answered {took:.2f} s after the start")


def prove(server: Server, book: dict[int, list[int]], rounds_done: int) -> None:
    with server.connect(autocommit=True) as connection:
        ledger = connection.execute("SELECT client, number, source, target, amount FROM ledger").fetchall()
        balances = {
            account: int(balance) for account, balance in connection.execute("SELECT id, balance FROM accounts").fetchall()
        }
        row = connection.execute("SELECT sum(balance) FROM accounts").fetchone()
    total = int(row[0]) if row else 0
    there = {(client, number) for client, number, *_ in ledger}
    written_down = {(client, number) for client, numbers in book.items() for number in numbers}
    missing = sorted(written_down - there)
    if missing:
        raise DemoFailed(f"{len(missing)} acknowledged commits are MISSING, e.g. (client, number) {missing[:5]}")
    unknown = len(there - written_down)
    if unknown > rounds_done * len(book):
        raise DemoFailed(f"{unknown} transfers are there that nobody was told of: more than one a client and kill")
    expected = dict.fromkeys(range(ACCOUNTS), OPENING_BALANCE)
    for _, _, source, target, amount in ledger:
        expected[source] -= int(amount)
        expected[target] += int(amount)
    if total != ACCOUNTS * OPENING_BALANCE or balances != expected:
        wrong = [account for account in expected if balances.get(account) != expected[account]]
        raise DemoFailed(
            f"the balances do not agree with the ledger: sum {total:,}, {len(wrong)} accounts wrong, e.g. {wrong[:5]}"
        )
    say(
        f"Proved: all {len(written_down):,} acknowledged commits are there ({unknown} more whose answer the kill cut off), "
        f"the sum is {total:,}, every balance agrees with the ledger"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Load, kill -9 under load, restart, prove that nothing is lost.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="load before each kill")
    parser.add_argument("--server", choices=("thunderdb", "postgres"), default="thunderdb")
    parser.add_argument("--no-backup", action="store_true", help="only the kills, no backup and recovery")
    parser.add_argument("--keep", action="store_true", help="leave the directory behind")
    options = parser.parse_args()
    stop_whatever_happens()

    directory = Path(tempfile.mkdtemp(prefix="thunderdb-demo-"))
    server: Server = Thunder(directory) if options.server == "thunderdb" else Postgres(directory)
    begun = time.monotonic()
    try:
        say(f"{server.name} on {directory}: first query {server.start(timeout_s=60):.2f} s after the start, port {server.port}")
        load(server)
        book: dict[int, list[int]] = {client: [] for client in range(options.clients)}
        for number in range(1, options.rounds + 1):
            say(f"\nRound {number} of {options.rounds}")
            kill_under_load(server, options.seconds, options.clients, book)
            restart(server)
            prove(server, book, number)
        status = server.stop()
        if status != 0:
            raise DemoFailed(f"the clean shutdown ended with status {status}\n{server.log_tail()}")
        say(
            f"\nStopped cleanly. {sum(map(len, book.values())):,} commits, {options.rounds} kills, nothing lost.",
        )
        if options.server == "thunderdb" and not options.no_backup:
            say("\nBackup and point-in-time recovery")
            backup_and_restore(directory / "backup", options.clients, options.seconds)
        say(f"\nThe demo took {time.monotonic() - begun:.0f} s.")
        return 0
    except (DemoFailed, ServerFailed) as failure:
        say(f"\nFAILED: {failure}")
        options.keep = True
        return 1
    finally:
        server.kill()
        if options.keep:
            say(f"Left behind for a look: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
