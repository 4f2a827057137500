"""UPDATE and DELETE: compiled once, then rows found on a path, each locked, looked at again and changed.

W1. A row is locked before it is changed, and what the statement checked before is checked again on what the lock found.
W2. A change of the key that the scan follows would meet its own rows again: such rows are collected first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from thunderdb.base.errors import InvariantViolated, SqlError
from thunderdb.engine.rows import WouldWait
from thunderdb.sql.context import CHANGES_A_TURN, Context
from thunderdb.sql.expr import Fn, Hard
from thunderdb.sql.path import choose
from thunderdb.sql.plan import Environment, Plan
from thunderdb.sql.result import Result
from thunderdb.sql.select import plan_subqueries
from thunderdb.sql.write import Emit, WritePlan, alias_of, plan_assignments, required_table

COLLECT_LIMIT = 10_000_000


async def plan_update(env: Environment, tree: Any) -> Plan:
    definition = required_table(env, tree.this)
    alias = alias_of(tree.this, definition)
    try:
        if tree.args.get("from_") or tree.args.get("with_"):
            raise Hard("UPDATE … FROM")
        plan: Plan = UpdatePlan(env, definition, tree, alias, await plan_subqueries(env, tree))
    except Hard:
        env.subqueries, env.subquery_kinds = [], []
        from thunderdb.sql.write_hard import HardUpdatePlan

        plan = HardUpdatePlan(env, definition, tree, alias)
    plan.take_environment(env)
    return plan


async def plan_delete(env: Environment, tree: Any) -> Plan:
    definition = required_table(env, tree.this)
    alias = alias_of(tree.this, definition)
    try:
        if tree.args.get("using") or tree.args.get("with_"):
            raise Hard("DELETE … USING")
        plan: Plan = DeletePlan(env, definition, tree, alias, await plan_subqueries(env, tree))
    except Hard:
        env.subqueries, env.subquery_kinds = [], []
        from thunderdb.sql.write_hard import HardDeletePlan

        plan = HardDeletePlan(env, definition, tree, alias)
    plan.take_environment(env)
    return plan


class _Changing(WritePlan):
    """UPDATE and DELETE: find rows on a path, lock each, look again, change."""

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__(env, definition, tree, alias, subqueries)
        where = tree.args.get("where")
        condition = where.this if where is not None else None
        self.path = choose(self.compiler, self.target.table, condition)
        compiled = self.compiler.condition(condition).fn if condition is not None else None
        self.filter = None if self.path.exact else compiled
        self.moves = True  # the change may move a row within the tree that is scanned (W2)

    async def _keys(self, context: Context) -> AsyncIterator[list[bytes]]:
        """The keys of the rows that the snapshot says are to be changed."""
        decode, condition = self.target.table.row.decode, self.filter
        collected: list[bytes] = []
        async for batch in self.path.batches(context, self.target.table):
            await context.progress(len(batch))
            if condition is None:
                keys = [key for key, _ in batch]
            else:
                keys = [key for key, payload in batch if condition(decode(payload), context) is True]
            if not self.moves:
                yield keys
                continue
            collected.extend(keys)
            if len(collected) > COLLECT_LIMIT:
                raise SqlError("54000", f"the statement would change more than {COLLECT_LIMIT} rows")
        if collected:
            yield collected

    async def change(self, context: Context, emit: Emit | None) -> int:
        if self.path.kind == "keys":
            return await self._change_keys(context, self.path.keys(context), emit)
        count = 0
        async for keys in self._keys(context):
            count += await self._change_keys(context, keys, emit)
            await context.progress(len(keys))
        return count

    async def _change_keys(self, context: Context, keys: list[bytes], emit: Emit | None) -> int:
        """Lock each row, look whether it still matches (W1), change it."""
        decode, condition, rows, count = self.target.table.row.decode, self.filter, context.rows, 0
        for key in keys:
            context.changes += 1
            if context.changes >= CHANGES_A_TURN:
                await context.breathe()
            payload = await rows.lock_row(context.txn, self.definition, key)
            context.check()  # it may have waited for a page
            if payload is None:
                continue
            values = decode(payload)
            if condition is not None and condition(values, context) is not True:
                continue
            count += 1
            row = await self._change_row(context, key, payload, values)
            if emit is not None:
                emit(row)
        return count

    async def _change_row(self, context: Context, key: bytes, payload: bytes, old: list[Any]) -> list[Any]:
        raise NotImplementedError


class UpdatePlan(_Changing):
    tag = "UPDATE"

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__(env, definition, tree, alias, subqueries)
        self.compiler.used = set()
        self.constants: list[Fn] = []
        self.assignments = plan_assignments(self.target, self.compiler, tree.expressions, self.constants)
        needed = self.compiler.used
        changed = {position for position, _ in self.assignments}
        self.moves = bool(self.path.index_root) or bool(changed & set(definition.pk))
        self.sequences = self.compiler.sequences
        target = self.target
        self.quick = (
            self.path.kind == "keys"
            and self.path.members is None
            and self.filter is None
            and self.returning is None
            and not (self.moves or self.sequences or target.table.indexes)
        )
        self.results = (Result("UPDATE 0"), Result("UPDATE 1"))
        row = target.table.row
        self._changer = row.changer(self.assignments, needed) if self.quick and not target.checks else None

    def change_quickly(self, context: Context) -> int:
        """Change one row by its key in one synchronous step (`quick` plans only). Raises: WouldWait, Miss; SqlError."""
        try:
            key = self.path.key(context)
        except InvariantViolated:
            raise
        except Exception as error:  # before anything is changed: the general path meets it again, and reports it
            raise WouldWait from error
        rows, table = context.rows, self.target.table
        found = 0 if key is None else int(rows.try_update(context.txn, table, key, self._new_payload, context))
        if not found and self.constants:
            raise WouldWait  # the general path looks at them
        return found

    async def change(self, context: Context, emit: Emit | None) -> int:
        count = await super().change(context, emit)
        if not count:
            for fn in self.constants:  # PostgreSQL works them out when it plans: what is wrong in them is wrong without a row
                fn(None, context)
        return count

    def _new_payload(self, payload: bytes, context: Context) -> bytes:
        """What becomes of a row. Raises: WouldWait where there is an error to report."""
        target = self.target
        row = target.table.row
        try:
            if self._changer is not None:
                changed = self._changer(payload, context)
                if changed is not None:
                    return changed
            old = row.decode(payload)
            new = old.copy()
            for position, fn in self.assignments:
                new[position] = fn(old, context)
            if target.checks or None in new:
                target.check(new, context)
            return row.encode(new)
        except InvariantViolated:
            raise
        except Exception as error:
            raise WouldWait from error

    async def _change_row(self, context: Context, key: bytes, payload: bytes, old: list[Any]) -> list[Any]:
        if self.sequences:
            await context.fill_sequences(self.sequences)
        new = list(old)
        for position, fn in self.assignments:
            new[position] = fn(old, context)
        self.target.check(new, context)
        await context.rows.update(context.txn, self.definition, key, payload, new)
        return new


class DeletePlan(_Changing):
    tag = "DELETE"

    def __init__(
        self, env: Environment, definition: Any, tree: Any, alias: str, subqueries: dict[int, tuple[int, str]]
    ) -> None:
        super().__init__(env, definition, tree, alias, subqueries)
        self.moves = bool(self.path.index_root)

    async def _change_row(self, context: Context, key: bytes, payload: bytes, old: list[Any]) -> list[Any]:
        await context.rows.delete(context.txn, self.definition, key, payload)
        return old
