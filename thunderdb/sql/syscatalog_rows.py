"""The rows of the system views, made from a Catalog and a session when a query names them.

G1. An object's oid is its id in the engine's catalog; a CHECK's is derived from its table's. Oids below 16384 are
    PostgreSQL's own.
G2. A row is given by name and completed with each type's neutral value, so that a view's columns live in one place only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from thunderdb.engine.catalog import Catalog, Column, SequenceDef, TableDef
from thunderdb.sql.syscatalog_columns import VIEWS
from thunderdb.sql.types import TYPES, TypeInfo, type_display

if TYPE_CHECKING:
    from thunderdb.sql.analytic_rewrite import QuerySession

PG_CATALOG, PUBLIC, INFORMATION_SCHEMA = 11, 2200, 13000
NAMESPACES = ((PG_CATALOG, "pg_catalog"), (PUBLIC, "public"), (INFORMATION_SCHEMA, "information_schema"))
OWNER_OID, OWNER = 10, "admin"
DATABASE_OID = 5
HEAP, BTREE = 2, 403
DEFAULT_COLLATION = 100
FIRST_VIEW_OID = 10000
CHECK_BASE = 3_000_000_000

Row = dict[str, Any]


def rows_of(view: str, catalog: Catalog, session: QuerySession) -> list[list[Any]]:
    """All rows of `schema.view`, columns in order."""
    make = _MAKERS.get(view)
    if make is None:
        return []
    columns = VIEWS[view]
    return [[row[name] if name in row else _neutral(name, kind) for name, kind in columns] for row in make(catalog, session)]


def _neutral(name: str, kind: str) -> Any:
    if kind == "bool":
        return False
    if kind in ("int2", "int4", "int8", "oid"):
        return 0
    if kind in ("float4", "float8"):
        return 0.0
    return "" if kind == "char" else None


def quote_ident(name: str) -> str:
    """A name as SQL needs it."""
    plain = (
        name.isascii() and name.replace("_", "a").replace("$", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    )
    return name if plain else '"' + name.replace('"', '""') + '"'


def index_definition(table: TableDef, name: str, columns: tuple[int, ...], unique: bool) -> str:
    names = ", ".join(quote_ident(table.columns[i].name) for i in columns)
    kind = "UNIQUE INDEX" if unique else "INDEX"
    return f"CREATE {kind} {quote_ident(name)} ON {quote_ident(table.schema)}.{quote_ident(table.name)} USING btree ({names})"


def indexes_of(table: TableDef) -> Iterator[tuple[int, str, tuple[int, ...], bool, bool, bool]]:
    """(oid, name, columns, unique, primary, is a constraint), the primary key first."""
    if table.pk:
        yield table.pk_id or table.id + 1, table.pk_name or f"{table.name}_pkey", table.pk, True, True, True
    for index in table.indexes:
        yield index.id, index.name, index.columns, index.unique, False, index.constraint


def constraints_of(table: TableDef) -> Iterator[tuple[int, str, str, int, tuple[int, ...], str]]:
    """(oid, name, contype, index oid, columns, definition)."""
    for oid, name, columns, _unique, primary, constraint in indexes_of(table):
        if constraint:
            names = ", ".join(quote_ident(table.columns[i].name) for i in columns)
            yield oid, name, "p" if primary else "u", oid, columns, f"{'PRIMARY KEY' if primary else 'UNIQUE'} ({names})"
    for number, check in enumerate(table.checks):
        yield CHECK_BASE + table.id * 64 + number, check.name, "c", 0, (), f"CHECK ({_bare(check.sql)})"


def _bare(condition: str) -> str:
    """A condition without parentheses around all of it."""
    if not (condition.startswith("(") and condition.endswith(")")):
        return condition
    depth = 0
    for at, char in enumerate(condition):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth == 0 and at < len(condition) - 1:
            return condition
    return condition[1:-1]


# pg_catalog


def _namespaces(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for oid, name in NAMESPACES:
        yield {"oid": oid, "nspname": name, "nspowner": OWNER_OID}


def _relation(oid: int, name: str, kind: str, **more: Any) -> Row:
    row = {
        "oid": oid, "relname": name, "relnamespace": PUBLIC, "relowner": OWNER_OID, "relfilenode": oid, "relkind": kind,
        "relpersistence": "p", "relispopulated": True, "relreplident": "d" if kind == "r" else "n",
    }  # fmt: skip
    return row | more


def _classes(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        indexes = list(indexes_of(table))
        yield _relation(
            table.id, table.name, "r", relam=HEAP, relhasindex=bool(indexes), relnatts=len(table.columns),
            relchecks=len(table.checks), reltuples=-1.0,
            reloptions=None if table.fillfactor in (0, 92, 100) else [f"fillfactor={table.fillfactor}"],
        )  # fmt: skip
        for oid, name, columns, *_ in indexes:
            yield _relation(oid, name, "i", relam=BTREE, relnatts=len(columns))
    for sequence in catalog.sequences():
        yield _relation(sequence.id, sequence.name, "S", relnatts=3)
    for number, view in enumerate(VIEWS):
        schema, _, name = view.partition(".")
        namespace = PG_CATALOG if schema == "pg_catalog" else INFORMATION_SCHEMA
        kind = "v" if schema == "information_schema" else "r"
        yield _relation(view_oid(number, name), name, kind, relnamespace=namespace, relnatts=len(VIEWS[view]))


_WELL_KNOWN = {"pg_class": 1259, "pg_type": 1247, "pg_attribute": 1249, "pg_proc": 1255, "pg_namespace": 2615}
_WELL_KNOWN |= {"pg_constraint": 2606, "pg_database": 1262, "pg_attrdef": 2604, "pg_extension": 3079, "pg_index": 2610}


def view_oid(number: int, name: str) -> int:
    return _WELL_KNOWN.get(name, FIRST_VIEW_OID + number)


def _attribute(relation: int, number: int, column: Column, has_default: bool) -> Row:
    info = TYPES[column.type]
    return {
        "attrelid": relation, "attname": column.name, "atttypid": info.oid, "attstattarget": -1, "attlen": info.size,
        "attnum": number, "attcacheoff": -1, "atttypmod": column.typmod, "attbyval": 0 < info.size <= 8, "attalign": "i",
        "attstorage": _storage(info), "attnotnull": column.not_null, "atthasdef": has_default,
        "atthasmissing": column.missing is not None, "attislocal": True,
        "attcollation": DEFAULT_COLLATION if info.category == "S" else 0,
    }  # fmt: skip


def _storage(info: TypeInfo) -> str:
    return "p" if info.size > 0 else "m" if info.name == "numeric" else "x"


def _attributes(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for number, column in enumerate(table.columns, 1):
            yield _attribute(table.id, number, column, column.default is not None)
        for oid, _name, columns, *_ in indexes_of(table):
            for number, position in enumerate(columns, 1):
                column = table.columns[position]
                yield _attribute(oid, number, Column(column.name, column.type, column.typmod), False)
    for number, (view, described) in enumerate(VIEWS.items()):
        oid = view_oid(number, view.partition(".")[2])
        for at, (name, kind) in enumerate(described, 1):
            yield _attribute(oid, at, Column(name, kind if kind in TYPES else "text"), False)


def _defaults(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for number, column in enumerate(table.columns, 1):
            if column.default is not None:
                yield {"oid": table.id * 2048 + number, "adrelid": table.id, "adnum": number, "adbin": shown_default(column)}


def shown_default(column: Column) -> str:
    text = column.default or ""
    if text.lower().startswith("nextval(") and "::regclass" not in text:
        return text[:-1].rstrip() + "::regclass)"
    return text


def _types(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for info in TYPES.values():
        is_array = info.name.endswith("[]")
        element = TYPES[info.name[:-2]].oid if is_array else 0
        yield {
            "oid": info.oid, "typname": "_" + info.name[:-2] if is_array else info.name, "typnamespace": PG_CATALOG,
            "typowner": OWNER_OID, "typlen": info.size, "typbyval": 0 < info.size <= 8,
            "typtype": "p" if info.category == "P" else "b",
            "typcategory": info.category, "typispreferred": info.name in ("text", "float8", "bool", "timestamptz", "oid"),
            "typisdefined": True, "typdelim": ",", "typelem": element, "typarray": info.array_oid, "typtypmod": -1,
            "typinput": f"{info.name}in", "typoutput": f"{info.name}out", "typalign": "i", "typstorage": _storage(info),
            "typcollation": DEFAULT_COLLATION if info.category == "S" else 0,
        }  # fmt: skip


def _indexes(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for oid, _name, columns, unique, primary, _constraint in indexes_of(table):
            yield {
                "indexrelid": oid, "indrelid": table.id, "indnatts": len(columns), "indnkeyatts": len(columns),
                "indisunique": unique, "indisprimary": primary, "indimmediate": True, "indisvalid": True, "indisready": True,
                "indislive": True, "indkey": [i + 1 for i in columns], "indoption": [0] * len(columns),
                "indcollation": [0] * len(columns), "indclass": [0] * len(columns),
            }  # fmt: skip


def _constraints(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for oid, name, kind, index, columns, definition in constraints_of(table):
            yield {
                "oid": oid, "conname": name, "connamespace": PUBLIC, "contype": kind, "convalidated": True,
                "conrelid": table.id, "conindid": index, "conislocal": True, "connoinherit": kind != "c",
                "conkey": [i + 1 for i in columns] or None, "conbin": definition if kind == "c" else None,
                "confupdtype": " ", "confdeltype": " ", "confmatchtype": " ",
            }  # fmt: skip


def _databases(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    yield {
        "oid": DATABASE_OID, "datname": session.database, "datdba": OWNER_OID, "encoding": 6, "datlocprovider": "c",
        "datallowconn": True, "datconnlimit": -1, "dattablespace": 1663, "datcollate": "C", "datctype": "C",
    }  # fmt: skip


def role_names(session: QuerySession) -> list[tuple[int, str]]:
    roles = [(OWNER_OID, OWNER)]
    return roles if session.user == OWNER else [*roles, (16383, session.user)]


def _roles(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for oid, name in role_names(session):
        yield {
            "oid": oid, "rolname": name, "rolsuper": True, "rolinherit": True, "rolcreaterole": True, "rolcreatedb": True,
            "rolcanlogin": True, "rolconnlimit": -1, "rolpassword": "********", "rolreplication": True, "rolbypassrls": True,
        }  # fmt: skip


def _users(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for oid, name in role_names(session):
        yield {"usename": name, "usesysid": oid, "usecreatedb": True, "usesuper": True, "userepl": True, "usebypassrls": True,
               "passwd": "********"}  # fmt: skip


def _settings(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for name in sorted(session.settings):
        value = session.settings[name]
        yield {"name": name, "setting": value, "category": "ThunderDB", "short_desc": "", "context": "user",
               "vartype": "string", "source": "default", "boot_val": value, "reset_val": value}  # fmt: skip


def _tables(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        yield {"schemaname": table.schema, "tablename": table.name, "tableowner": OWNER, "hasindexes": any(indexes_of(table))}
    for view in VIEWS:
        schema, _, name = view.partition(".")
        if schema == "pg_catalog":
            yield {"schemaname": schema, "tablename": name, "tableowner": OWNER}


def _index_view(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for _oid, name, columns, unique, *_ in indexes_of(table):
            yield {"schemaname": table.schema, "tablename": table.name, "indexname": name,
                   "indexdef": index_definition(table, name, columns, unique)}  # fmt: skip


def _access_methods(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    yield {"oid": HEAP, "amname": "heap", "amhandler": "heap_tableam_handler", "amtype": "t"}
    yield {"oid": BTREE, "amname": "btree", "amhandler": "bthandler", "amtype": "i"}


def _sequence_type(catalog: Catalog, sequence: SequenceDef) -> str:
    owner = catalog.table_by_id(sequence.owned_by[0]) if sequence.owned_by else None
    if owner is None or sequence.owned_by is None or sequence.owned_by[1] >= len(owner.columns):
        return "int8"
    return owner.columns[sequence.owned_by[1]].type


def _sequences(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for sequence in catalog.sequences():
        yield {
            "seqrelid": sequence.id, "seqtypid": TYPES[_sequence_type(catalog, sequence)].oid, "seqstart": sequence.start,
            "seqincrement": sequence.increment, "seqmax": sequence.max_value, "seqmin": sequence.min_value, "seqcache": 1,
            "seqcycle": sequence.cycle,
        }  # fmt: skip


def _sequence_view(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for sequence in catalog.sequences():
        yield {
            "schemaname": "public", "sequencename": sequence.name, "sequenceowner": OWNER, "start_value": sequence.start,
            "data_type": TYPES[_sequence_type(catalog, sequence)].oid, "min_value": sequence.min_value,
            "max_value": sequence.max_value, "increment_by": sequence.increment, "cycle": sequence.cycle, "cache_size": 1,
            "last_value": None,
        }  # fmt: skip


def _depends(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for sequence in catalog.sequences():
        if sequence.owned_by is not None:
            yield {"classid": 1259, "objid": sequence.id, "refclassid": 1259, "refobjid": sequence.owned_by[0],
                   "refobjsubid": sequence.owned_by[1] + 1, "deptype": "a"}  # fmt: skip


def _collations(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for oid, name in ((100, "default"), (950, "C"), (951, "POSIX")):
        yield {"oid": oid, "collname": name, "collnamespace": PG_CATALOG, "collowner": OWNER_OID, "collprovider": "c",
               "collisdeterministic": True, "collencoding": -1}  # fmt: skip


def _tablespaces(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    yield {"oid": 1663, "spcname": "pg_default", "spcowner": OWNER_OID}
    yield {"oid": 1664, "spcname": "pg_global", "spcowner": OWNER_OID}


def _activity(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    others = session.activity or ({"pid": session.pid, "usename": session.user, "state": "active"},)
    for row in others:
        yield {"datid": DATABASE_OID, "datname": session.database, "usesysid": OWNER_OID, "backend_type": "client backend",
               "application_name": "", "leader_pid": None, "client_port": None, "query_id": None, **row}  # fmt: skip


def _user_table_stats(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        yield {"relid": table.id, "schemaname": table.schema, "relname": table.name}


# information_schema


def _schemata(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for _oid, name in NAMESPACES:
        yield {"catalog_name": session.database, "schema_name": name, "schema_owner": OWNER}


def _info_tables(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        yield {"table_catalog": session.database, "table_schema": table.schema, "table_name": table.name,
               "table_type": "BASE TABLE", "is_insertable_into": "YES", "is_typed": "NO"}  # fmt: skip
    for view in VIEWS:
        schema, _, name = view.partition(".")
        yield {"table_catalog": session.database, "table_schema": schema, "table_name": name,
               "table_type": "BASE TABLE" if schema == "pg_catalog" else "VIEW", "is_insertable_into": "NO",
               "is_typed": "NO"}  # fmt: skip


_PRECISION = {"int2": (16, 2, 0), "int4": (32, 2, 0), "int8": (64, 2, 0), "float4": (24, 2, None), "float8": (53, 2, None)}
_TIMES = ("time", "timestamp", "timestamptz", "interval")


def _info_columns(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for number, column in enumerate(table.columns, 1):
            precision, radix, scale = _PRECISION.get(column.type, (None, None, None))
            limit = column.typmod - 4 if column.type in ("varchar", "bpchar") and column.typmod >= 4 else None
            if column.type == "numeric":
                radix = 10
                if column.typmod >= 4:
                    precision, scale = (column.typmod - 4) >> 16, (column.typmod - 4) & 0x7FF
            yield {
                "table_catalog": session.database, "table_schema": table.schema, "table_name": table.name,
                "column_name": column.name, "ordinal_position": number,
                "column_default": shown_default(column) if column.default is not None else None,
                "is_nullable": "NO" if column.not_null else "YES", "data_type": type_display(column.type),
                "character_maximum_length": limit,
                "character_octet_length": limit * 4 if limit is not None else 1 << 30 if column.type == "text" else None,
                "numeric_precision": precision, "numeric_precision_radix": radix, "numeric_scale": scale,
                "datetime_precision": 6 if column.type in _TIMES else 0 if column.type == "date" else None,
                "udt_catalog": session.database, "udt_schema": "pg_catalog", "udt_name": column.type,
                "dtd_identifier": str(number), "is_self_referencing": "NO", "is_identity": "NO", "identity_cycle": "NO",
                "is_generated": "NEVER", "is_updatable": "YES", "maximum_cardinality": None, "interval_precision": None,
            }  # fmt: skip


_CONSTRAINT_KINDS = {"p": "PRIMARY KEY", "u": "UNIQUE", "c": "CHECK"}


def _info_constraints(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for _oid, name, kind, *_ in constraints_of(table):
            yield {
                "constraint_catalog": session.database, "constraint_schema": table.schema, "constraint_name": name,
                "table_catalog": session.database, "table_schema": table.schema, "table_name": table.name,
                "constraint_type": _CONSTRAINT_KINDS[kind], "is_deferrable": "NO", "initially_deferred": "NO",
                "enforced": "YES", "nulls_distinct": "YES" if kind == "u" else None,
            }  # fmt: skip


def _info_keys(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for _oid, name, kind, _index, columns, _definition in constraints_of(table):
            for number, position in enumerate(columns, 1):
                if kind != "c":
                    yield {
                        "constraint_catalog": session.database, "constraint_schema": table.schema, "constraint_name": name,
                        "table_catalog": session.database, "table_schema": table.schema, "table_name": table.name,
                        "column_name": table.columns[position].name, "ordinal_position": number,
                        "position_in_unique_constraint": None,
                    }  # fmt: skip


def _info_sequences(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for sequence in catalog.sequences():
        kind = _sequence_type(catalog, sequence)
        precision = _PRECISION.get(kind, (64, 2, 0))[0]
        yield {
            "sequence_catalog": session.database, "sequence_schema": "public", "sequence_name": sequence.name,
            "data_type": type_display(kind), "numeric_precision": precision, "numeric_precision_radix": 2, "numeric_scale": 0,
            "start_value": str(sequence.start), "minimum_value": str(sequence.min_value),
            "maximum_value": str(sequence.max_value), "increment": str(sequence.increment),
            "cycle_option": "YES" if sequence.cycle else "NO",
        }  # fmt: skip


def _info_checks(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for table in catalog.tables():
        for check in table.checks:
            yield {"constraint_catalog": session.database, "constraint_schema": table.schema, "constraint_name": check.name,
                   "check_clause": f"({check.sql})"}  # fmt: skip


def _info_roles(catalog: Catalog, session: QuerySession) -> Iterator[Row]:
    for _oid, name in role_names(session):
        yield {"role_name": name}


_MAKERS: dict[str, Callable[[Catalog, Any], Iterator[Row]]] = {
    "pg_catalog.pg_namespace": _namespaces,
    "pg_catalog.pg_class": _classes,
    "pg_catalog.pg_attribute": _attributes,
    "pg_catalog.pg_attrdef": _defaults,
    "pg_catalog.pg_type": _types,
    "pg_catalog.pg_index": _indexes,
    "pg_catalog.pg_constraint": _constraints,
    "pg_catalog.pg_database": _databases,
    "pg_catalog.pg_roles": _roles,
    "pg_catalog.pg_user": _users,
    "pg_catalog.pg_settings": _settings,
    "pg_catalog.pg_tables": _tables,
    "pg_catalog.pg_indexes": _index_view,
    "pg_catalog.pg_am": _access_methods,
    "pg_catalog.pg_sequence": _sequences,
    "pg_catalog.pg_sequences": _sequence_view,
    "pg_catalog.pg_depend": _depends,
    "pg_catalog.pg_collation": _collations,
    "pg_catalog.pg_tablespace": _tablespaces,
    "pg_catalog.pg_stat_activity": _activity,
    "pg_catalog.pg_stat_user_tables": _user_table_stats,
    "information_schema.schemata": _schemata,
    "information_schema.tables": _info_tables,
    "information_schema.columns": _info_columns,
    "information_schema.table_constraints": _info_constraints,
    "information_schema.key_column_usage": _info_keys,
    "information_schema.constraint_column_usage": _info_keys,
    "information_schema.sequences": _info_sequences,
    "information_schema.check_constraints": _info_checks,
    "information_schema.enabled_roles": _info_roles,
}
