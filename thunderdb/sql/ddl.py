"""CREATE, ALTER, DROP and TRUNCATE: from sqlglot's trees to the engine's definitions.

Names that PostgreSQL makes up: table_pkey, table_column_key (unique), table_columns_idx, table_column_check, table_column_seq;
a number follows where the name is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.engine.catalog import CheckDef, Column, IndexDef, TableDef
from thunderdb.sql import text_in, types
from thunderdb.sql.context import Context
from thunderdb.sql.expr import Compiler, Hard, Slots
from thunderdb.sql.parse import ident, parse_expression, type_of
from thunderdb.sql.result import Notice
from thunderdb.sql.select import scope_of
from thunderdb.sql.write import Target

DEFAULT_FILLFACTOR = 92
_SERIAL_MAXIMA = {"int2": (1 << 15) - 1, "int4": (1 << 31) - 1, "int8": (1 << 63) - 1}


def notice(context: Context, message: str, sqlstate: str = "00000") -> None:
    context.session.add_notice(Notice("NOTICE", sqlstate, message))


def unsupported(what: str) -> SqlError:
    return SqlError("0A000", f"{what} is not supported")


def table_of(context: Context, node: Any) -> TableDef:
    """Raises: SqlError 42P01, 42501."""
    schema, name = ident(node.args.get("db")), ident(node.this)
    if schema in ("pg_catalog", "information_schema"):
        raise SqlError("42501", f'permission denied: "{name}" is a system catalog')
    found = context.db.catalog_for(context.txn).table(name) if schema in ("", "public") else None
    if found is None:
        raise SqlError("42P01", f'relation "{f"{schema}." if schema else ""}{name}" does not exist')
    table: TableDef = found
    return table


def free_name(context: Context, wanted: str, also: Sequence[str] = ()) -> str:
    catalog = context.db.catalog_for(context.txn)
    name, number = wanted[:63], 0
    while catalog.name_taken(name) or name in also:
        number += 1
        name = f"{wanted[: 63 - len(str(number))]}{number}"
    return name


class TableParts:
    """What the elements of a CREATE TABLE or ALTER TABLE … ADD say."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.columns: list[Column] = []
        self.serials: list[tuple[int, str]] = []
        self.pk: list[str] = []
        self.pk_name = ""
        self.uniques: list[tuple[str, list[str]]] = []
        self.checks: list[tuple[str, str]] = []

    def add(self, element: Any) -> None:
        if isinstance(element, exp.ColumnDef):
            self.add_column(element)
        elif isinstance(element, exp.Constraint):
            for inner in element.expressions:
                self.add_constraint(inner, ident(element.this), "")
        else:
            self.add_constraint(element, "", "")

    def add_column(self, tree: exp.ColumnDef) -> None:
        name = ident(tree.this)
        if tree.args.get("kind") is None:
            raise SqlError("42601", f'column "{name}" has no type')
        kind, typmod, is_serial = type_of(tree.args["kind"])
        if kind.endswith("[]") or kind not in text_in.PARSERS or kind in ("regclass", "regtype", "unknown"):
            raise unsupported(f"a column of type {types.TYPES[kind].display}")
        column = Column(name, kind, typmod, not_null=is_serial)
        if is_serial:
            self.serials.append((len(self.columns), name))
        self.columns.append(column)
        for constraint in tree.args.get("constraints") or ():
            self.add_constraint(constraint.args["kind"], ident(constraint.args.get("this")), name)

    def add_constraint(self, kind: Any, name: str, column: str) -> None:
        if isinstance(kind, (exp.PrimaryKeyColumnConstraint, exp.PrimaryKey)):
            if self.pk:
                raise SqlError("42P16", f'multiple primary keys for table "{self.table}" are not allowed')
            self.pk, self.pk_name = [column] if column else [_key_name(item) for item in kind.expressions], name
        elif isinstance(kind, exp.UniqueColumnConstraint):
            listed = kind.this.expressions if isinstance(kind.this, exp.Schema) else kind.expressions
            self.uniques.append((name, [column] if not listed else [_key_name(item) for item in listed]))
        elif isinstance(kind, exp.CheckColumnConstraint):
            self.checks.append((name or self._check_name(kind.this, column), kind.this.sql(dialect="postgres")))
        elif isinstance(kind, (exp.NotNullColumnConstraint, exp.DefaultColumnConstraint)):
            last = self.columns[-1]
            if isinstance(kind, exp.NotNullColumnConstraint):
                self.columns[-1] = replace(last, not_null=not kind.args.get("allow_null"))
            else:
                self.columns[-1] = replace(last, default=kind.this.sql(dialect="postgres"))
        elif isinstance(kind, exp.GeneratedAsIdentityColumnConstraint) and kind.args.get("expression") is None:
            self.serials.append((len(self.columns) - 1, column))
            self.columns[-1] = replace(self.columns[-1], not_null=True)
        elif isinstance(kind, (exp.CollateColumnConstraint,)):
            pass  # text sorts in C order, whatever is asked for
        elif isinstance(kind, (exp.Reference, exp.ForeignKey)):
            raise unsupported("FOREIGN KEY")
        else:
            raise unsupported(f"the constraint {kind.sql(dialect='postgres')}")

    def _check_name(self, tree: Any, column: str) -> str:
        columns = dict.fromkeys(ident(found.this) for found in tree.find_all(exp.Column))
        part = column or (next(iter(columns)) if len(columns) == 1 else "")
        wanted = f"{self.table}_{part}_check" if part else f"{self.table}_check"
        taken, number = [name for name, _ in self.checks], 0
        name = wanted
        while name in taken:
            number += 1
            name = f"{wanted}{number}"
        return name

    def positions(self, names: Sequence[str], columns: Sequence[Column]) -> tuple[int, ...]:
        known = [column.name for column in columns]
        for name in names:
            if name not in known:
                raise SqlError("42703", f'column "{name}" named in key does not exist')
        if len(set(names)) != len(names):
            raise SqlError("42701", "column appears twice in a key constraint")
        return tuple(known.index(name) for name in names)


def _key_name(tree: Any) -> str:
    inner = tree.this if isinstance(tree, exp.Ordered) else tree
    if isinstance(tree, exp.Ordered) and tree.args.get("desc"):
        raise unsupported("a descending key column")
    if not isinstance(inner, (exp.Column, exp.Identifier)):
        raise unsupported("an index on an expression")
    return ident(inner if isinstance(inner, exp.Identifier) else inner.this)


def compile_constraints(table: TableDef) -> None:
    """Compile defaults and checks once, so that a wrong one fails at its DDL. Raises: SqlError."""
    try:
        for column in table.columns:
            if column.default is not None:
                compiler = Compiler([], Slots())
                value = compiler.compile(parse_expression(column.default))
                message = (
                    f'column "{column.name}" is of type {types.TYPES[column.type].display} but default expression is of type '
                )
                compiler.coerce(value, column.type, "assignment", message + types.TYPES[value.type].display)
        for check in table.checks:
            Compiler(scope_of(table, table.name), Slots()).condition(parse_expression(check.sql), "CHECK")
    except Hard as hard:
        raise unsupported(f"{hard} in a DEFAULT or CHECK") from None


async def create(context: Context, tree: exp.Create) -> str:
    kind = str(tree.args.get("kind")).upper()
    if kind == "INDEX":
        return await create_index(context, tree)
    if kind == "SEQUENCE":
        return await create_sequence(context, tree)
    if kind != "TABLE" or tree.args.get("replace") or tree.expression is not None:
        raise unsupported(f"CREATE {kind}{' AS' if tree.expression is not None else ''}")
    schema = tree.this
    if not isinstance(schema, exp.Schema):
        schema = exp.Schema(this=schema, expressions=[])
    if ident(schema.this.args.get("db")) not in ("", "public"):
        raise SqlError("3F000", f'schema "{ident(schema.this.args.get("db"))}" does not exist')
    name = ident(schema.this.this)
    catalog = context.db.catalog_for(context.txn)
    if catalog.name_taken(name):
        if not tree.args.get("exists"):
            raise SqlError("42P07", f'relation "{name}" already exists')
        notice(context, f'relation "{name}" already exists, skipping', "42P07")
        return "CREATE TABLE"
    parts = TableParts(name)
    for element in schema.expressions:
        parts.add(element)
    await _create_table(context, parts, _fillfactor(tree))
    return "CREATE TABLE"


def _fillfactor(tree: Any) -> int:
    properties = tree.args.get("properties")
    for item in properties.expressions if properties is not None else ():
        if isinstance(item, exp.Property) and item.name.lower() == "fillfactor":
            value = int(item.args["value"].name)
            if not 10 <= value <= 100:
                raise SqlError("22023", f'value {value} out of bounds for option "fillfactor"')
            return value
        if isinstance(item, (exp.TemporaryProperty, exp.InheritsProperty, exp.PartitionedByProperty)):
            raise unsupported(f"CREATE TABLE … {item.sql(dialect='postgres')}")
    return DEFAULT_FILLFACTOR


async def _create_table(context: Context, parts: TableParts, fillfactor: int) -> None:
    ddl, txn, name = context.db.ddl, context.txn, parts.table
    sequences = []
    for position, column in parts.serials:
        sequence = free_name(context, f"{name}_{column}_seq")
        sequences.append((position, sequence))
        parts.columns[position] = replace(parts.columns[position], default=f"nextval('{sequence}')")
    uniques: list[tuple[str, tuple[int, ...]]] = []
    for given, names in parts.uniques:
        made = given or free_name(context, f"{name}_{'_'.join(names)}_key", [n for n, _ in uniques])
        uniques.append((made, parts.positions(names, parts.columns)))
    checks = tuple(CheckDef(check, sql) for check, sql in parts.checks)
    compile_constraints(TableDef(0, name, 0, tuple(parts.columns), checks=checks))
    table = await ddl.create_table(
        txn,
        name,
        parts.columns,
        pk=parts.positions(parts.pk, parts.columns),
        pk_name=parts.pk_name,
        uniques=uniques,
        checks=checks,
        fillfactor=fillfactor,
    )
    for position, sequence in sequences:
        maximum = _SERIAL_MAXIMA[parts.columns[position].type]
        await ddl.create_sequence(txn, sequence, max_value=maximum, owned_by=(table.id, position))


async def create_sequence(context: Context, tree: exp.Create) -> str:
    name = ident(tree.this.this)
    if context.db.catalog_for(context.txn).name_taken(name):
        if not tree.args.get("exists"):
            raise SqlError("42P07", f'relation "{name}" already exists')
        notice(context, f'relation "{name}" already exists, skipping', "42P07")
        return "CREATE SEQUENCE"
    options: dict[str, Any] = {}
    properties = tree.args.get("properties")
    for item in properties.expressions if properties is not None else ():
        for key, field in (
            ("start", "start"),
            ("increment", "increment"),
            ("minvalue", "min_value"),
            ("maxvalue", "max_value"),
        ):
            value = item.args.get(key)
            if value is not None:
                options[field] = int(value.sql())
    await context.db.ddl.create_sequence(context.txn, name, **options)
    return "CREATE SEQUENCE"


async def create_index(context: Context, tree: exp.Create) -> str:
    index = tree.this
    table = table_of(context, index.args["table"])
    params = index.args.get("params")
    if params is None or not params.args.get("columns"):
        raise SqlError("42601", "an index needs columns")
    using = params.args.get("using")
    if using is not None and using.name.lower() != "btree":
        raise unsupported(f"an index of method {using.name.lower()}")
    if params.args.get("where") is not None:
        raise unsupported("a partial index")
    names = []
    for item in params.args["columns"]:
        inner = item.this if isinstance(item, exp.Ordered) else item
        if not isinstance(inner, (exp.Column, exp.Identifier)):
            raise unsupported("an index on an expression")
        names.append(ident(inner if isinstance(inner, exp.Identifier) else inner.this))  # DESC only turns the scan round
    name = ident(index.this)
    catalog = context.db.catalog_for(context.txn)
    if name and catalog.name_taken(name):
        if not tree.args.get("exists"):
            raise SqlError("42P07", f'relation "{name}" already exists')
        notice(context, f'relation "{name}" already exists, skipping', "42P07")
        return "CREATE INDEX"
    name = name or free_name(context, f"{table.name}_{'_'.join(names)}_idx")
    for column in names:
        if all(existing.name != column for existing in table.columns):
            raise SqlError("42703", f'column "{column}" does not exist')
    positions = TableParts(table.name).positions(names, table.columns)
    await context.db.ddl.create_index(context.txn, table, name, positions, unique=bool(tree.args.get("unique")))
    return "CREATE INDEX"


async def drop(context: Context, tree: exp.Drop) -> str:
    kind = str(tree.args.get("kind")).upper()
    if kind not in ("TABLE", "INDEX", "SEQUENCE"):
        raise unsupported(f"DROP {kind}")
    nodes = tree.args.get("tables") or ([tree.this] if tree.this is not None else [])
    ddl, txn = context.db.ddl, context.txn
    for node in nodes:
        name = ident(node.this)
        catalog = context.db.catalog_for(txn)
        found = {"TABLE": catalog.table, "INDEX": catalog.index, "SEQUENCE": catalog.sequence}[kind](name)
        if found is None:
            if catalog.name_taken(name):
                raise SqlError("42809", f'"{name}" is not {"an index" if kind == "INDEX" else f"a {kind.lower()}"}')
            if not tree.args.get("exists"):
                missing = {"TABLE": "table", "INDEX": "index", "SEQUENCE": "sequence"}[kind]
                code = "42P01" if kind != "INDEX" else "42704"
                raise SqlError(code, f'{missing} "{name}" does not exist')
            notice(context, f'{kind.lower()} "{name}" does not exist, skipping')
        elif kind == "TABLE":
            await ddl.drop_table(txn, found)
        elif kind == "SEQUENCE":
            if found.owned_by is not None and not tree.args.get("cascade"):
                raise SqlError("2BP01", f"cannot drop sequence {name} because other objects depend on it")
            await ddl.drop_sequence(txn, found)
        else:
            await _drop_index(context, name, found)
    return f"DROP {kind}"


async def _drop_index(context: Context, name: str, found: tuple[TableDef, IndexDef | None]) -> None:
    table, index = found
    if index is None or index.constraint:
        message = f"cannot drop index {name} because constraint {name} on table {table.name} requires it"
        hint = f"You can drop constraint {name} on table {table.name} instead."
        raise SqlError("2BP01", message, hint=hint)
    await context.db.ddl.drop_index(context.txn, table, index)


async def truncate(context: Context, names: Sequence[tuple[str, str]], restart_identity: bool) -> str:
    tables = []
    for schema, name in names:
        node = exp.Table(
            this=exp.to_identifier(name, quoted=True), db=exp.to_identifier(schema, quoted=True) if schema else None
        )
        table = table_of(context, node)
        if table not in tables:
            tables.append(table)
    await context.db.ddl.truncate(context.txn, tables)
    if restart_identity:
        ids = [table.id for table in tables]
        for sequence in context.db.catalog_for(context.txn).sequences():
            if sequence.owned_by is not None and sequence.owned_by[0] in ids:
                await context.db.ddl.setval(sequence, sequence.start)
    return "TRUNCATE TABLE"


# --- ALTER TABLE ------------------------------------------------------------------------------------------------------


async def alter(context: Context, tree: exp.Alter) -> str:
    if str(tree.args.get("kind")).upper() != "TABLE":
        raise unsupported(f"ALTER {tree.args.get('kind')}")
    name = ident(tree.this.this)
    if tree.args.get("exists") and context.db.catalog_for(context.txn).table(name) is None:
        notice(context, f'relation "{name}" does not exist, skipping')
        return "ALTER TABLE"
    for action in tree.args.get("actions") or ():
        await _alter_one(context, table_of(context, tree.this), action)
    return "ALTER TABLE"


async def _alter_one(context: Context, table: TableDef, action: Any) -> None:
    ddl, txn = context.db.ddl, context.txn
    if isinstance(action, exp.ColumnDef):
        await _add_column(context, table, action)
    elif isinstance(action, exp.AddConstraint):
        for element in action.expressions:
            await _add_constraint(context, table, element)
    elif isinstance(action, exp.AlterColumn):
        await _alter_column(context, table, action)
    elif isinstance(action, exp.Drop) and str(action.args.get("kind")).upper() == "CONSTRAINT":
        await _drop_constraint(context, table, _dropped_name(action), bool(action.args.get("exists")))
    elif isinstance(action, exp.AlterRename):
        await ddl.alter_table(txn, table, replace(table, name=ident(action.this.this)))
    elif isinstance(action, exp.RenameColumn):
        old, new = ident(action.this.this), ident(action.args["to"].this)
        if any(column.name == new for column in table.columns):
            raise SqlError("42701", f'column "{new}" of relation "{table.name}" already exists')
        if table.checks:
            raise unsupported("renaming a column of a table with CHECK constraints")
        columns = tuple(replace(c, name=new) if c.name == old else c for c in table.columns)
        if columns == table.columns:
            raise SqlError("42703", f'column "{old}" does not exist')
        await ddl.alter_table(txn, table, replace(table, columns=columns))
    else:
        raise unsupported(f"ALTER TABLE … {action.sql(dialect='postgres')}")


def _dropped_name(action: exp.Drop) -> str:
    named = action.this if action.this is not None else (action.args.get("tables") or [None])[0]
    return ident(named)


async def _drop_constraint(context: Context, table: TableDef, name: str, missing_ok: bool) -> None:
    for index in table.indexes:
        if index.constraint and index.name == name:
            await context.db.ddl.drop_index(context.txn, table, index)
            return
    checks = tuple(check for check in table.checks if check.name != name)
    if len(checks) < len(table.checks):
        await context.db.ddl.alter_table(context.txn, table, replace(table, checks=checks))
    elif name == table.pk_name and name:
        raise unsupported("dropping a primary key")
    elif missing_ok:
        notice(context, f'constraint "{name}" of relation "{table.name}" does not exist, skipping')
    else:
        raise SqlError("42704", f'constraint "{name}" of relation "{table.name}" does not exist')


async def _add_column(context: Context, table: TableDef, tree: exp.ColumnDef) -> None:
    parts = TableParts(table.name)
    parts.add_column(tree)
    column = parts.columns[0]
    if tree.args.get("exists") and any(existing.name == column.name for existing in table.columns):
        notice(context, f'column "{column.name}" of relation "{table.name}" already exists, skipping', "42701")
        return
    if parts.serials:
        raise unsupported("ALTER TABLE … ADD COLUMN of a serial type")
    compile_constraints(TableDef(0, table.name, 0, (column,)))
    value = None
    if column.default is not None:
        compiler = Compiler([], Slots())
        probe = Target.__new__(Target)
        probe.columns, probe.definition = (column,), table
        value = probe.assigned(compiler, compiler.compile(parse_expression(column.default)), 0).fn(None, context)
    if value is None and column.not_null and await _has_rows(context, table):
        raise SqlError("23502", f'column "{column.name}" of relation "{table.name}" contains null values')
    changed = await context.db.ddl.add_column(context.txn, table, column, value)
    if parts.pk:
        changed = await context.db.ddl.add_primary_key(context.txn, changed, [len(changed.columns) - 1], parts.pk_name)
    for name, names in parts.uniques:
        await _add_unique(context, changed, name, names)
    for name, sql in parts.checks:
        await _add_check(context, table_of(context, exp.to_table(f'"{table.name}"')), name, sql)


async def _has_rows(context: Context, table: TableDef) -> bool:
    async for _ in context.rows.scan(context.txn, table.root):
        return True
    return False


async def _add_constraint(context: Context, table: TableDef, element: Any) -> None:
    parts = TableParts(table.name)
    parts.add(element)
    if parts.pk:
        positions = parts.positions(parts.pk, table.columns)
        await context.db.ddl.add_primary_key(context.txn, table, positions, parts.pk_name)
    for name, names in parts.uniques:
        await _add_unique(context, table_of(context, exp.to_table(f'"{table.name}"')), name, names)
    for name, sql in parts.checks:
        await _add_check(context, table_of(context, exp.to_table(f'"{table.name}"')), name, sql)


async def _add_unique(context: Context, table: TableDef, name: str, names: list[str]) -> None:
    positions = TableParts(table.name).positions(names, table.columns)
    name = name or free_name(context, f"{table.name}_{'_'.join(names)}_key")
    await context.db.ddl.create_index(context.txn, table, name, positions, unique=True, constraint=True)


async def _add_check(context: Context, table: TableDef, name: str, sql: str) -> None:
    if any(check.name == name for check in table.checks):
        raise SqlError("42710", f'constraint "{name}" for relation "{table.name}" already exists')
    changed = replace(table, checks=(*table.checks, CheckDef(name, sql)))
    compile_constraints(changed)
    fn = Compiler(scope_of(table, table.name), Slots()).condition(parse_expression(sql), "CHECK").fn
    decode = context.rows.table(table).row.decode
    await context.rows.lock_table(context.txn, table)
    async for batch in context.rows.scan(context.txn, table.root):
        await context.progress(len(batch))
        if any(fn(decode(payload), context) is False for _, payload in batch):
            raise SqlError("23514", f'check constraint "{name}" of relation "{table.name}" is violated by some row')
    await context.db.ddl.alter_table(context.txn, table, changed)


async def _alter_column(context: Context, table: TableDef, action: exp.AlterColumn) -> None:
    name = ident(action.this)
    position = next((i for i, column in enumerate(table.columns) if column.name == name), None)
    if position is None:
        raise SqlError("42703", f'column "{name}" of relation "{table.name}" does not exist')
    column = table.columns[position]
    if action.args.get("allow_null") is False:
        decode = context.rows.table(table).row.projector((position,))
        async for batch in context.rows.scan(context.txn, table.root):
            if any(decode(payload)[0] is None for _, payload in batch):
                raise SqlError("23502", f'column "{name}" of relation "{table.name}" contains null values')
        column = replace(column, not_null=True)
    elif action.args.get("allow_null"):
        if position in table.pk:
            raise SqlError("42P16", f'column "{name}" is in a primary key')
        column = replace(column, not_null=False)
    elif action.args.get("default") is not None:
        column = replace(column, default=action.args["default"].sql(dialect="postgres"))
    elif action.args.get("drop"):
        column = replace(column, default=None)
    else:
        raise unsupported("ALTER COLUMN … TYPE")
    columns = (*table.columns[:position], column, *table.columns[position + 1 :])
    changed = replace(table, columns=columns)
    compile_constraints(changed)
    await context.db.ddl.alter_table(context.txn, table, changed)
