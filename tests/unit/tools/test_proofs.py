"""The tools' own proofs must be able to fail: each is handed a server that has lost or invented something."""

from __future__ import annotations

from typing import Any

import pytest

from tools import demo, demo_pitr, pgbench_kill
from tools.bench.rows import Row, table
from tools.harness import pgbench


class CannedConnection:
    """Answers queries from a table of (words in the query → rows)."""

    def __init__(self, answers: dict[str, list[tuple[Any, ...]]]) -> None:
        self.answers = answers
        self.rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> CannedConnection:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def execute(self, query: str, _parameters: object = None) -> CannedConnection:
        self.rows = next(rows for words, rows in self.answers.items() if words in query)
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self.rows[0] if self.rows else None


class CannedServer:
    def __init__(self, answers: dict[str, list[tuple[Any, ...]]]) -> None:
        self.answers = answers

    def connect(self, **_: object) -> CannedConnection:
        return CannedConnection(self.answers)


def bank(transfers: list[tuple[int, int, int, int, int]]) -> dict[str, list[tuple[Any, ...]]]:
    """A demo database in which these transfers are complete."""
    balances = dict.fromkeys(range(demo.ACCOUNTS), demo.OPENING_BALANCE)
    for _, _, source, target, amount in transfers:
        balances[source] -= amount
        balances[target] += amount
    return {
        "FROM ledger": list(transfers),
        "SELECT id, balance": list(balances.items()),
        "SELECT sum(balance)": [(sum(balances.values()),)],
    }


TRANSFERS = [(0, 1, 5, 6, 10), (0, 2, 6, 7, 20), (1, 1, 8, 9, 30)]


def test_the_demo_accepts_a_whole_database(capsys: pytest.CaptureFixture[str]) -> None:
    demo.prove(CannedServer(bank(TRANSFERS)), {0: [1, 2], 1: []}, 1)  # type: ignore[arg-type]
    assert "all 2 acknowledged commits are there (1 more" in capsys.readouterr().out


def test_the_demo_sees_a_missing_commit() -> None:
    with pytest.raises(demo.DemoFailed, match="1 acknowledged commits are MISSING"):
        demo.prove(CannedServer(bank(TRANSFERS[:1])), {0: [1, 2], 1: []}, 1)  # type: ignore[arg-type]


def test_the_demo_sees_half_a_transfer() -> None:
    answers = bank(TRANSFERS)
    answers["SELECT id, balance"] = bank(TRANSFERS[:2])["SELECT id, balance"]
    with pytest.raises(demo.DemoFailed, match="2 accounts wrong"):
        demo.prove(CannedServer(answers), {0: [1, 2], 1: [1]}, 1)  # type: ignore[arg-type]


def test_the_demo_sees_invented_transfers() -> None:
    with pytest.raises(demo.DemoFailed, match="3 transfers are there that nobody was told of"):
        demo.prove(CannedServer(bank(TRANSFERS)), {0: [], 1: []}, 1)  # type: ignore[arg-type]


def kill_round(
    clients: list[tuple[int, int, int, int]], sums: tuple[int, int, int, int] = (7, 7, 7, 7), history: int | None = None
) -> CannedServer:
    rows = sum(count for _, count, _, _ in clients)
    answers: dict[str, list[tuple[Any, ...]]] = {
        "GROUP BY client": list(clients),
        "count(*) FROM kill_ledger": [(rows,)],
        "count(*) FROM pgbench_history": [(rows if history is None else history,)],
    }
    for query, value in zip(pgbench.SUMS.values(), sums, strict=True):
        answers[query] = [(value,)]
    return CannedServer(answers)


def test_a_kill_round_accepts_unknown_outcomes() -> None:
    server = kill_round([(0, 5, 1, 5), (1, 4, 1, 4)])
    assert "8 acknowledged and there, 1 unknown kept" in pgbench_kill.check(server, 1, {0: 5, 1: 3}, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "acknowledged", "reason"),
    [
        (kill_round([(0, 4, 1, 4)]), {0: 5}, "5 transactions acknowledged, 4 are there"),
        (kill_round([]), {0: 1}, "1 transactions acknowledged, 0 are there"),
        (kill_round([(0, 7, 1, 7)]), {0: 5}, "more than one too many"),
        (kill_round([(0, 5, 1, 6)]), {0: 5}, "a gap"),
        (kill_round([(0, 5, 1, 5)], sums=(7, 7, 8, 7)), {0: 5}, "the sums differ"),
        (kill_round([(0, 5, 1, 5)], history=6), {0: 5}, "6 rows of history, 5 rows in the ledger"),
    ],
)
def test_a_kill_round_sees_what_is_broken(server: Any, acknowledged: dict[int, int], reason: str) -> None:
    with pytest.raises(pgbench_kill.Broken, match=reason):
        pgbench_kill.check(server, 1, acknowledged, 1)


def test_errors_that_a_kill_does_not_explain_are_seen() -> None:
    killed = "pgbench (15.18)\npgbench: error: client 3 aborted in command 5 of script 0; perhaps the backend died\n"
    assert pgbench_kill.unexpected(killed) == []
    error = "pgbench: error: client 0 script 0 aborted in command 6: ERROR:  deadlock detected"
    assert pgbench_kill.unexpected(killed + error) == [error]


def test_rows_hold_medians_against_their_bars() -> None:
    rate = Row("rate", "tps", more_is_better=True, bar=0.7)
    for value in (60.0, 71.0, 90.0):
        rate.add("ThunderDB", value)
        rate.add("PostgreSQL", 100.0)
    assert rate.passed() is True
    rate.thunder[:] = [60.0, 69.0, 90.0]
    assert rate.passed() is False
    assert "MISSED" in table([rate])
    assert Row("alone", "tps", more_is_better=True, bar=0.7, thunder=[1.0]).passed() is None


def test_rows_hold_times_against_their_limits() -> None:
    assert Row("load", "s", more_is_better=False, limit=8, thunder=[7.0, 9.0, 7.5]).passed() is True
    assert Row("load", "s", more_is_better=False, limit=8, thunder=[8.5, 9.0, 7.5]).passed() is False
    assert Row("restart", "s", more_is_better=False, bar=0.8, thunder=[9.0], postgres=[10.0]).passed() is False


def test_the_demo_sees_a_row_too_many_and_a_row_too_few() -> None:
    truth = {"accounts": {(1, "a", 5), (2, "b", 6)}, "ledger": {(0, 1, 1, 2, 3)}}
    demo_pitr._compare(truth, truth)
    for found in ({(1, "a", 5)}, {(1, "a", 5), (2, "b", 6), (3, "c", 0)}, {(1, "a", 5), (2, "b", 7)}):
        with pytest.raises(demo.DemoFailed, match="accounts is not what it was"):
            demo_pitr._compare(truth, {**truth, "accounts": found})
