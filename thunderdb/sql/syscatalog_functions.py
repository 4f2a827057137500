"""PostgreSQL's functions about the system catalog, as templates of DuckDB SQL.

`$1`, `$2` … in a template are the call's arguments; `lookup(kind, oid)` becomes a look-up in a constant map made from the
catalog, which works wherever an expression does (a correlated subquery does not).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import sqlglot
from sqlglot import exp

if TYPE_CHECKING:
    from thunderdb.sql.syscatalog import SystemCatalog

_TYPMOD = (
    "CASE WHEN $1 IN (1042, 1043) AND $2 >= 4 THEN '(' || ($2 - 4) || ')'"
    " WHEN $1 = 1700 AND $2 >= 4 THEN '(' || (($2 - 4) >> 16) || ',' || (($2 - 4) & 2047) || ')' ELSE '' END"
)

# name, or name/number of arguments
TEMPLATES = {
    "__regclass_name": "coalesce(lookup('regclass', $1), CAST($1 AS VARCHAR))",
    "__regtype_name": "coalesce(lookup('regtype', $1), CAST($1 AS VARCHAR))",
    "__regnamespace_name": "coalesce(lookup('regnamespace', $1), CAST($1 AS VARCHAR))",
    "__regrole_name": "coalesce(lookup('regrole', $1), CAST($1 AS VARCHAR))",
    "format_type": f"coalesce(lookup('regtype', $1), '???') || coalesce({_TYPMOD}, '')",
    "pg_get_userbyid": "coalesce(lookup('regrole', $1), 'unknown (OID=' || $1 || ')')",
    "pg_table_is_visible": "(lookup('hidden', $1) IS NULL)",
    "pg_get_expr": "CAST($1 AS VARCHAR)",
    "pg_get_indexdef/1": "lookup('indexdef', $1)",
    "pg_get_indexdef/3": "CASE WHEN $2 = 0 THEN lookup('indexdef', $1) ELSE lookup('indexcol', $1 * 1000 + $2) END",
    "pg_get_constraintdef": "lookup('constraintdef', $1)",
    "pg_encoding_to_char": "CASE WHEN $1 = 6 THEN 'UTF8' ELSE '' END",
    "pg_char_to_encoding": "6",
    "pg_size_pretty": (
        "CASE WHEN abs($1) < 10240 THEN CAST($1 AS BIGINT) || ' bytes' WHEN abs($1) < 10485760 THEN"
        " CAST(round($1 / 1024.0) AS BIGINT) || ' kB' ELSE CAST(round($1 / 1048576.0) AS BIGINT) || ' MB' END"
    ),
    "quote_ident": (
        "CASE WHEN regexp_matches(CAST($1 AS VARCHAR), '^[a-z_][a-z0-9_$]*$') THEN CAST($1 AS VARCHAR)"
        " ELSE '\"' || replace(CAST($1 AS VARCHAR), '\"', '\"\"') || '\"' END"
    ),
    "quote_literal": "'''' || replace(CAST($1 AS VARCHAR), '''', '''''') || ''''",
    "array_upper": "nullif(len($1), 0)",
    "array_lower": "CASE WHEN len($1) > 0 THEN 1 END",
    "cardinality": "len($1)",
    "array_to_string/2": "array_to_string($1, $2)",
    "char_length": "CAST(length($1) AS INTEGER)",
    "character_length": "CAST(length($1) AS INTEGER)",
    "octet_length": "CAST(octet_length(encode(CAST($1 AS VARCHAR))) AS INTEGER)",
    "btrim/1": "trim($1)",
    "btrim/2": "trim($1, $2)",
    "div": "CAST($1 AS BIGINT) // CAST($2 AS BIGINT)",
    "timeofday": "CAST(now() AS VARCHAR)",
}
_CONSTANTS = {
    "true": (
        "pg_type_is_visible pg_function_is_visible pg_operator_is_visible pg_opclass_is_visible"
        " pg_collation_is_visible pg_statistics_obj_is_visible pg_conversion_is_visible pg_ts_dict_is_visible"
        " pg_relation_is_publishable has_table_privilege has_schema_privilege has_database_privilege has_column_privilege"
        " has_any_column_privilege has_function_privilege has_sequence_privilege has_type_privilege has_language_privilege"
        " has_tablespace_privilege pg_has_role row_security_active pg_relation_is_updatable"
    ),
    "false": "pg_is_in_recovery pg_is_other_temp_schema pg_is_wal_replay_paused",
    "0": "pg_my_temp_schema",
    # Nobody counts a relation's pages or its scans: unknown, which psql shows as nothing. A zero would be taken for one.
    "CAST(NULL AS BIGINT)": (
        "pg_table_size pg_relation_size pg_total_relation_size pg_indexes_size pg_tablespace_size"
        " pg_stat_get_numscans pg_stat_get_live_tuples"
    ),
    "CAST(NULL AS VARCHAR)": (
        "obj_description col_description shobj_description pg_get_viewdef pg_get_ruledef pg_get_partkeydef"
        " pg_get_statisticsobjdef_columns pg_get_statisticsobjdef pg_get_triggerdef inet_server_addr inet_client_addr"
        " pg_get_functiondef pg_get_function_result pg_get_function_arguments pg_get_function_identity_arguments"
        " pg_get_function_sqlbody txid_current_if_assigned pg_conf_load_time"
    ),
    "''": "pg_tablespace_location",
    "CAST(NULL AS INTEGER)": "inet_server_port inet_client_port pg_blocking_pids",
}
for _text, _names in _CONSTANTS.items():
    for _name in _names.split():
        TEMPLATES[_name] = _text

_ARGUMENT = re.compile(r"\$(\d+)")


@lru_cache(maxsize=256)
def _parsed(template: str) -> exp.Expression:
    return sqlglot.parse_one(_ARGUMENT.sub(r"__argument\1", template), read="duckdb")


def system_call(system: SystemCatalog, name: str, arguments: list[exp.Expression]) -> exp.Expression | None:
    """What the call becomes, None if it is not one of these functions (or has too few arguments for it)."""
    template = TEMPLATES.get(f"{name}/{len(arguments)}") or TEMPLATES.get(name)
    if template is None:
        return None
    if name == "array_to_string":
        return None
    tree = exp.Paren(this=_parsed(template).copy())
    for node in list(tree.find_all(exp.Column)):
        number = int(node.name.removeprefix("__argument"))
        if number > len(arguments):
            return None
        node.replace(arguments[number - 1].copy())
    for node in list(tree.find_all(exp.Anonymous)):
        if str(node.this) == "lookup":
            node.replace(_map_lookup(system.lookup(node.expressions[0].name), node.expressions[1].copy()))
    result: exp.Expression = tree
    return result


def _map_lookup(pairs: dict[int, str], key: exp.Expression) -> exp.Expression:
    if not pairs:
        return exp.Cast(this=exp.Null(), to=exp.DataType.build("VARCHAR", dialect="duckdb"))
    keys = exp.Array(expressions=[exp.Literal.number(oid) for oid in pairs])
    values = exp.Array(expressions=[exp.Literal.string(text) for text in pairs.values()])
    bigint = exp.DataType.build("BIGINT[]", dialect="duckdb")
    table = exp.Anonymous(this="map", expressions=[exp.Cast(this=keys, to=bigint), values])
    cast_key = exp.Cast(this=key, to=exp.DataType.build("BIGINT", dialect="duckdb"))
    return exp.Anonymous(this="map_extract_value", expressions=[table, cast_key])
