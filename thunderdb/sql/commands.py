"""Running utility statements: what each kind of utility.py does to the session, the transaction or the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql import ddl, transfer
from thunderdb.sql.change import DeletePlan, UpdatePlan
from thunderdb.sql.context import Context
from thunderdb.sql.copy_statement import parse_copy
from thunderdb.sql.expr import Compiler, Slots
from thunderdb.sql.parse import parse, type_of
from thunderdb.sql.plan import AnalyticPlan, ConstantPlan, Plan, result_column
from thunderdb.sql.prepare import Planned, plan_tree
from thunderdb.sql.result import CopyOut, Notice, Result
from thunderdb.sql.select import PointPlan, SelectPlan
from thunderdb.sql.settings import checked
from thunderdb.sql.simple import until_fresh
from thunderdb.sql.utility import WORDS, Utility, first_word, parse_utility
from thunderdb.txn.locks import Mode
from thunderdb.txn.manager import READ_COMMITTED, check_isolation

if TYPE_CHECKING:
    from thunderdb.sql.executor import SqlSession


async def run_utility(session: SqlSession, utility: Utility, text: str, alone: bool) -> Result:
    handler = _HANDLERS.get(utility.kind)
    if handler is not None:
        result: Result = await handler(session, utility.values)
        return result
    if utility.kind == "copy":
        return await _copy(session, text, alone)
    if utility.kind == "explain":
        return await _explain(session, utility.values)
    if utility.kind == "execute":
        return await _execute(session, utility.values)
    if utility.kind in ("vacuum", "analyze", "checkpoint"):
        return await _maintenance(session, utility)
    raise SqlError("0A000", f"{utility.kind.upper()} is not supported")


def utility_columns(session: SqlSession, utility: Utility) -> Any:
    """The columns of a utility that gives rows, for Describe."""
    if utility.kind == "show":
        return _show_plan(session, utility.values["name"]).columns
    if utility.kind == "explain":
        return (result_column("QUERY PLAN", "text"),)
    if utility.kind == "execute" and utility.values["name"] in session.statements:
        return session.statements[utility.values["name"]].columns
    return None


def warn(session: SqlSession, sqlstate: str, message: str) -> None:
    session.add_notice(Notice("WARNING", sqlstate, message))


# --- transactions -----------------------------------------------------------------------------------------------------


async def _begin(session: SqlSession, values: dict[str, Any]) -> Result:
    if session.status != "I":
        warn(session, "25001", "there is already a transaction in progress")
    else:
        session.begin_block(values["modes"])
    return Result("BEGIN")


async def _commit(session: SqlSession, values: dict[str, Any]) -> Result:
    return await _end(session, True, values["chain"])


async def _rollback(session: SqlSession, values: dict[str, Any]) -> Result:
    return await _end(session, False, values["chain"])


async def _end(session: SqlSession, committed: bool, chain: bool) -> Result:
    if session.status == "I":
        if chain:
            raise SqlError("25P01", f"{'COMMIT' if committed else 'ROLLBACK'} AND CHAIN can only be used in transaction blocks")
        warn(session, "25P01", "there is no transaction in progress")
    modes = {
        "isolation": session.settings.values["transaction_isolation"],
        "read_only": session.settings.values["transaction_read_only"] == "on",
    }
    tag = await session.end_block(committed)
    if chain:
        session.begin_block(modes)
    return Result(tag)


async def _savepoint(session: SqlSession, values: dict[str, Any]) -> Result:
    if session.status == "I":
        raise SqlError("25P01", "SAVEPOINT can only be used in transaction blocks")
    session.savepoints.append((values["name"], session.txn.savepoint()))
    return Result("SAVEPOINT")


async def _release(session: SqlSession, values: dict[str, Any]) -> Result:
    if session.status == "I":
        raise SqlError("25P01", "RELEASE SAVEPOINT can only be used in transaction blocks")
    del session.savepoints[session.savepoint_index(values["name"]) :]
    return Result("RELEASE")


async def _rollback_to(session: SqlSession, values: dict[str, Any]) -> Result:
    await session.rollback_to_savepoint(values["name"])
    return Result("ROLLBACK")


async def _set_transaction(session: SqlSession, values: dict[str, Any]) -> Result:
    modes = values["modes"]
    if values["session"]:
        if "isolation" in modes:
            session.settings.set("default_transaction_isolation", modes["isolation"])
        if "read_only" in modes:
            session.settings.set("default_transaction_read_only", "on" if modes["read_only"] else "off")
        return Result("SET")
    if session.status == "I":
        warn(session, "25P01", "SET TRANSACTION can only be used in transaction blocks")
        return Result("SET")
    txn = session.txn
    isolation = modes.get("isolation", txn.isolation)
    if isolation == "read uncommitted":
        isolation = READ_COMMITTED
    check_isolation(isolation)
    if isolation != txn.isolation:
        if txn.snapshot is not None or txn.id:
            raise SqlError("25001", "SET TRANSACTION ISOLATION LEVEL must be called before any query")
        txn.isolation = isolation
        session.settings.values["transaction_isolation"] = isolation
    if "read_only" in modes:
        if txn.read_only and not modes["read_only"] and txn.snapshot is not None:
            raise SqlError("25001", "transaction read-write mode must be set before any query")
        txn.read_only = modes["read_only"]
        session.settings.values["transaction_read_only"] = "on" if modes["read_only"] else "off"
    return Result("SET")


# --- parameters, prepared statements ----------------------------------------------------------------------------------


async def _set(session: SqlSession, values: dict[str, Any]) -> Result:
    if values["local"] and session.status == "I":
        warn(session, "25P01", "SET LOCAL can only be used in transaction blocks")
    name, value = values["name"], values["value"]
    if value is not None and name == "transaction_isolation":
        return await _set_transaction(session, {"modes": {"isolation": checked(name, name, value)}, "session": False})
    if value is not None and name == "transaction_read_only":
        read_only = checked(name, name, value) == "on"
        return await _set_transaction(session, {"modes": {"read_only": read_only}, "session": False})
    session.set_parameter(values["name"], values["value"], values["local"])
    return Result("SET")


async def _reset(session: SqlSession, values: dict[str, Any]) -> Result:
    if values["name"] == "all":
        session.settings.reset_all()
    else:
        session.set_parameter(values["name"], None)
    return Result("RESET")


def _show_plan(session: SqlSession, name: str) -> Plan:
    settings = session.settings
    if name == "all":
        columns = [result_column(n, "text") for n in ("name", "setting", "description")]
        return ConstantPlan("SHOW", columns, [[key, value, ""] for key, value in sorted(settings.values.items())])
    value = settings.show(name)
    return ConstantPlan("SHOW", [result_column(name, "text")], [[value]])


async def _show(session: SqlSession, values: dict[str, Any]) -> Result:
    return await _rows(session, _show_plan(session, values["name"]))


async def _rows(session: SqlSession, plan: Plan) -> Result:
    session.start()
    return await session.collect(Planned(plan, None), Context(session, session.txn, ()), ())


async def _discard(session: SqlSession, values: dict[str, Any]) -> Result:
    what = values["what"]
    if what == "all":
        if session.status != "I":
            raise SqlError("25001", "DISCARD ALL cannot run inside a transaction block")
        session.statements.clear()
        session.portals.clear()
        session.settings.reset_all()
    elif what == "plans":
        pass
    elif what not in ("temp", "temporary", "sequences"):
        raise SqlError("42601", f'syntax error at or near "{what}"')
    return Result(f"DISCARD {what.upper()}")


async def _prepare(session: SqlSession, values: dict[str, Any]) -> Result:
    name = values["name"]
    if name in session.statements:
        raise SqlError("42P05", f'prepared statement "{name}" already exists')
    if first_word(values["text"]) in WORDS:
        raise SqlError("42601", f'syntax error at or near "{first_word(values["text"])}"')
    declared = [_declared(text) for text in values["types"]]
    session.statements[name] = await session.extended.prepare(name, values["text"], declared)
    return Result("PREPARE")


def _declared(text: str) -> str:
    tree = parse(f"SELECT CAST(NULL AS {text})")
    return type_of(tree.expressions[0].to)[0]


async def _execute(session: SqlSession, values: dict[str, Any]) -> Result:
    prepared = session.statements.get(values["name"])
    if prepared is None:
        raise SqlError("26000", f'prepared statement "{values["name"]}" does not exist')
    if prepared.planned is None:
        raise SqlError("0A000", "EXECUTE of a utility statement is not supported")
    session.start()
    compiler = Compiler([], Slots())
    trees: list[Any] = []
    if values["arguments"]:
        trees = parse(f"SELECT ROW{values['arguments']}").expressions[0].expressions
    kinds = prepared.planned.param_types
    if len(trees) != len(kinds):
        raise SqlError(
            "42601",
            f'wrong number of parameters for prepared statement "{prepared.name}"',
            f"Expected {len(kinds)} parameters but got {len(trees)}.",
        )
    context = Context(session, session.txn, ())
    params = []
    for tree, kind in zip(trees, kinds, strict=True):
        value = compiler.coerce(compiler.compile(tree), "text" if kind == "unknown" else kind, "assignment")
        params.append(value.fn(None, context))

    async def run() -> Result:
        return await session.run(await session.extended.current(prepared), params, ())

    return await until_fresh(session, run)


async def _deallocate(session: SqlSession, values: dict[str, Any]) -> Result:
    name = values["name"]
    if not name:
        session.statements.clear()
        return Result("DEALLOCATE ALL")
    if session.statements.pop(name, None) is None:
        raise SqlError("26000", f'prepared statement "{name}" does not exist')
    return Result("DEALLOCATE")


# --- the database -----------------------------------------------------------------------------------------------------


async def _truncate(session: SqlSession, values: dict[str, Any]) -> Result:
    session.start()
    context = Context(session, session.txn, ())
    session.txn.begin_write()

    async def truncate() -> Result:
        return Result(await ddl.truncate(context, values["tables"], values["restart"]))

    return await until_fresh(session, truncate)


async def _lock(session: SqlSession, values: dict[str, Any]) -> Result:
    if session.status == "I":
        raise SqlError("25P01", "LOCK TABLE can only be used in transaction blocks")
    context = Context(session, session.txn, ())

    async def lock() -> Result:
        for table in _tables(context, values["tables"]):
            await session.rows.lock_table(session.txn, table, Mode.EXCLUSIVE)
        return Result("LOCK TABLE")

    return await until_fresh(session, lock)


def _tables(context: Context, names: list[tuple[str, str]]) -> list[Any]:
    return [
        ddl.table_of(
            context,
            exp.Table(this=exp.to_identifier(name, quoted=True), db=exp.to_identifier(schema, quoted=True) if schema else None),
        )
        for schema, name in names
    ]


async def _maintenance(session: SqlSession, utility: Utility) -> Result:
    """VACUUM and ANALYZE have nothing to do here; their tables must exist all the same."""
    kind = utility.kind
    if kind == "vacuum" and session.status != "I":
        raise SqlError("25001", "VACUUM cannot run inside a transaction block")
    if kind == "checkpoint":
        await session.db.checkpoint()
        return Result("CHECKPOINT")
    session.start()
    _tables(Context(session, session.txn, ()), utility.values["tables"])
    return Result(kind.upper())


async def _noop(session: SqlSession, values: dict[str, Any]) -> Result:
    return Result(values["tag"])


async def _explain(session: SqlSession, values: dict[str, Any]) -> Result:
    session.start()
    text = values["text"].rstrip().rstrip(";")
    env = session.environment()
    if first_word(text) in WORDS:
        utility = parse_utility(text)
        raise SqlError("0A000", f"EXPLAIN {utility.kind.upper()} is not supported")
    plan = await plan_tree(env, parse(text))
    lines = explain(plan)
    if values["analyze"]:
        result = await session.run(Planned(plan, env.catalog), (), ())
        if result.more is not None:
            async for _ in result.more:
                pass
        lines.append(f"Result: {result.tag}")
    return await _rows(session, ConstantPlan("EXPLAIN", [result_column("QUERY PLAN", "text")], [[line] for line in lines]))


def explain(plan: Plan) -> list[str]:
    """A plan in words."""
    if isinstance(plan, AnalyticPlan):
        return ["Analytic query (DuckDB over a snapshot)", f"  {plan.tree.sql(dialect='postgres')}"]
    if isinstance(plan, PointPlan):
        return [f"Key look-up on {plan.definition.name} using {plan.definition.pk_name}"]
    if isinstance(plan, SelectPlan):
        return [
            _path_line(plan.path, plan.definition),
            *(["  Filter"] if plan.filter else []),
            *(["  Sort"] if plan.sort else []),
        ]
    if isinstance(plan, (UpdatePlan, DeletePlan)):
        return [f"{plan.tag.title()} on {plan.definition.name}", "  ->  " + _path_line(plan.path, plan.definition)]
    name = type(plan).__name__.removesuffix("Plan")
    definition = getattr(plan, "definition", None)
    return [f"{name} on {definition.name}" if definition is not None else name]


def _path_line(path: Any, definition: Any) -> str:
    if path.kind == "scan":
        return f"Scan on {definition.name}"
    index = next((i.name for i in definition.indexes if i.root == path.index_root), definition.pk_name)
    what = {"keys": "Key look-up", "range": "Range scan"}[path.kind]
    return f"{what} on {definition.name} using {index}"


# --- COPY -------------------------------------------------------------------------------------------------------------


async def _copy(session: SqlSession, text: str, alone: bool) -> Result:
    statement = parse_copy(text)
    session.start()
    txn = session.txn
    txn.new_snapshot()
    context = Context(session, txn, ())
    if statement.direction == "to":
        return await _copy_to(session, context, statement)
    result = Result()

    async def finished(tag: str) -> None:
        result.tag = tag
        if alone and session.status == "I":
            await session.end(True)

    async def failed(message: str) -> None:
        await session.fail(SqlError("57014", message))

    receiver = transfer.CopyInto(context, session.environment(), statement, finished, failed)
    await receiver.start()
    result.copy_in = receiver
    return result


async def _copy_to(session: SqlSession, context: Context, statement: Any) -> Result:
    tree = parse(statement.query) if statement.query else transfer.copy_query(context, statement)
    plan = await plan_tree(session.environment(), tree)
    if plan.columns is None:
        raise SqlError("0A000", "COPY query must have a RETURNING clause")
    await plan.begin(context)
    result = Result()
    count = [0]
    result.copy_out = CopyOut(statement.options.format == "binary", len(plan.columns))

    async def chunks() -> AsyncIterator[bytes]:
        async for piece in transfer.copy_out(context, plan, statement, count):
            yield piece
        result.tag = f"COPY {count[0]}"

    result.more = chunks()
    return result


_HANDLERS: dict[str, Any] = {
    "begin": _begin,
    "commit": _commit,
    "rollback": _rollback,
    "savepoint": _savepoint,
    "release": _release,
    "rollback_to": _rollback_to,
    "set": _set,
    "set_transaction": _set_transaction,
    "reset": _reset,
    "show": _show,
    "discard": _discard,
    "prepare": _prepare,
    "deallocate": _deallocate,
    "truncate": _truncate,
    "lock": _lock,
    "noop": _noop,
}
