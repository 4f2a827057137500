"""The demo's load: clients that move money between accounts, and what they write down of it."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import psycopg

from tools.harness.server import Server

ACCOUNTS = 10_000
OPENING_BALANCE = 1_000

SCHEMA = """
CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL);
CREATE TABLE ledger (
    client int NOT NULL, number int NOT NULL, source int NOT NULL, target int NOT NULL, amount bigint NOT NULL,
    PRIMARY KEY (client, number)
);
CREATE INDEX accounts_owner ON accounts (owner);
"""


class DemoFailed(Exception):
    """A promise was broken."""


class Client(threading.Thread):
    """Transfers money until the connection dies; `acknowledged` is what the server said is committed."""

    def __init__(self, server: Server, client: int, first_number: int) -> None:
        super().__init__(daemon=True)
        self.server, self.client, self.number = server, client, first_number
        self.acknowledged: list[int] = []
        self.retries = 0
        self.error: BaseException | None = None
        self.random = random.Random(client * 1_000_003 + first_number)

    def run(self) -> None:
        try:
            with self.server.connect(autocommit=False) as connection:
                while True:
                    self._transfer(connection)
        except psycopg.OperationalError:
            return  # the kill: what was asked for last is neither acknowledged nor failed
        except BaseException as error:  # reported by the main thread
            self.error = error

    def _transfer(self, connection: psycopg.Connection[Any]) -> None:
        source, target = self.random.sample(range(ACCOUNTS), 2)
        amount = self.random.randint(1, 100)
        try:
            connection.execute("UPDATE accounts SET balance = balance - %s WHERE id = %s", (amount, source))
            connection.execute("UPDATE accounts SET balance = balance + %s WHERE id = %s", (amount, target))
            row = (self.client, self.number, source, target, amount)
            connection.execute("INSERT INTO ledger VALUES (%s, %s, %s, %s, %s)", row)
            connection.commit()
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            connection.rollback()
            self.retries += 1
            return
        self.acknowledged.append(self.number)
        self.number += 1


def say(text: str = "") -> None:
    print(text, flush=True)


def load(server: Server) -> None:
    begun = time.monotonic()
    with server.connect(autocommit=True) as connection:
        for statement in filter(None, (part.strip() for part in SCHEMA.split(";"))):
            connection.execute(statement)
        with connection.cursor().copy("COPY accounts (id, owner, balance) FROM STDIN") as copy:
            for account in range(ACCOUNTS):
                copy.write_row((account, f"owner-{account % 97:02d}", OPENING_BALANCE))
        row = connection.execute("SELECT count(*), sum(balance) FROM accounts").fetchone()
    if row is None or (row[0], int(row[1])) != (ACCOUNTS, ACCOUNTS * OPENING_BALANCE):
        raise DemoFailed(f"loaded {ACCOUNTS} accounts, the table has {row}")
    say(f"Loaded {ACCOUNTS:,} accounts with {ACCOUNTS * OPENING_BALANCE:,} in all ({time.monotonic() - begun:.2f} s)")
