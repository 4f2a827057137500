"""Types on the way into DuckDB and out of it.

    ours                    in DuckDB           carried in as (numpy)            carried out as
    int2, int4, int8, oid   SMALLINT … BIGINT   int16, int32, int64              int
    bool                    BOOLEAN             bool                             bool
    float4, float8          REAL, DOUBLE        float64 (text where one is NaN)  float
    numeric(p, s), p<=38    DECIMAL(p, s)       text                             Decimal
    numeric                 DECIMAL(38, s)      text; s = the greatest that comes
    text, varchar, bpchar   VARCHAR             object (bpchar without its trailing blanks)
    json, jsonb             JSON                object                           str
    bytea                   BLOB                object                           bytes
    uuid                    UUID                hex text                         bytes(16)
    date                    DATE                int32 days since 2000            int days since 2000
    time, timestamp(tz)     TIME, TIMESTAMP(TZ) int64 us (since 2000)            int us (since 2000)
    interval                INTERVAL            three integers                   (months, days, us)

V1. A value that DuckDB's type cannot hold is a named error; it is never rounded on the way in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

EPOCH_2000_US = 946_684_800_000_000

_SIMPLE = {
    "bool": "BOOLEAN", "int2": "SMALLINT", "int4": "INTEGER", "int8": "BIGINT", "oid": "BIGINT", "float4": "REAL",
    "float8": "DOUBLE", "text": "VARCHAR", "varchar": "VARCHAR", "bpchar": "VARCHAR", "name": "VARCHAR", "json": "JSON",
    "jsonb": "JSON", "bytea": "BLOB", "uuid": "UUID", "date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ", "interval": "INTERVAL", "char": "VARCHAR", "regclass": "VARCHAR", "regtype": "VARCHAR",
}  # fmt: skip

_FROM_DUCKDB = {
    "BOOLEAN": "bool", "TINYINT": "int2", "UTINYINT": "int2", "SMALLINT": "int2", "USMALLINT": "int4", "INTEGER": "int4",
    "UINTEGER": "int8", "BIGINT": "int8", "UBIGINT": "numeric", "HUGEINT": "numeric", "UHUGEINT": "numeric", "FLOAT": "float4",
    "REAL": "float4", "DOUBLE": "float8", "VARCHAR": "text", "BLOB": "bytea", "UUID": "uuid", "DATE": "date", "TIME": "time",
    "TIMESTAMP": "timestamp", "TIMESTAMP_S": "timestamp", "TIMESTAMP_MS": "timestamp", "TIMESTAMP_NS": "timestamp",
    "TIMESTAMP WITH TIME ZONE": "timestamptz", "INTERVAL": "interval", "JSON": "jsonb", '"NULL"': "text", "BIGNUM": "numeric",
}  # fmt: skip
_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type of ours, arrays as `int4[]`."""

    name: str
    typmod: int = -1


def numeric_bounds(typmod: int) -> tuple[int, int] | None:
    """(precision, scale) of a numeric's typmod, None where it has none or DuckDB has no decimal that wide."""
    if typmod < 4:
        return None
    precision, scale = (typmod - 4) >> 16, (typmod - 4) & 0x7FF
    if scale & 0x400:
        scale -= 0x800
    return (precision, scale) if precision <= 38 and 0 <= scale <= precision else None


def numeric_typmod(precision: int, scale: int) -> int:
    return ((precision << 16) | scale) + 4


def duckdb_type(name: str, typmod: int = -1) -> str:
    """The DuckDB type that holds one of ours; a numeric without bounds is staged as text."""
    if name.endswith("[]"):
        element = duckdb_type(name[:-2])
        return f"{'DECIMAL(38,6)' if name == 'numeric[]' else element}[]"
    if name == "numeric":
        bounds = numeric_bounds(typmod)
        return f"DECIMAL({bounds[0]},{bounds[1]})" if bounds else "VARCHAR"
    return _SIMPLE.get(name, "VARCHAR")


def from_duckdb(text: str) -> SqlType:
    """Our type for a type that DuckDB names."""
    text = text.strip()
    if text.endswith("]"):
        return SqlType(from_duckdb(text[: text.rindex("[")]).name.removesuffix("[]") + "[]")
    match = _DECIMAL.fullmatch(text)
    if match is not None:
        return SqlType("numeric")
    return SqlType(_FROM_DUCKDB.get(text, "text"))


def outward(column: str, duck_type: str) -> tuple[str, Callable[[Any], Any] | None]:
    """(SQL that carries a column out, what to make of each fetched value that is not NULL)."""
    kind = from_duckdb(duck_type)
    if kind.name.endswith("[]"):
        return column, list
    if duck_type.startswith(("STRUCT", "TUPLE", "MAP", "UNION", "ENUM")):
        return f"CAST({column} AS VARCHAR)", None
    if kind.name in ("timestamp", "timestamptz"):
        return f"epoch_us({column}) - {EPOCH_2000_US}", None
    if kind.name == "date":
        return f"{column} - DATE '2000-01-01'", None
    if kind.name == "time":
        return f"epoch_us({column})", None
    if kind.name == "interval":
        return (
            f"CASE WHEN {column} IS NOT NULL THEN [datepart('year', {column}) * 12 + datepart('month', {column}),"
            f" datepart('day', {column}), datepart('hour', {column}) * 3600000000 + datepart('minute', {column}) * 60000000"
            f" + datepart('microsecond', {column})] END",
            tuple,
        )
    if kind.name == "uuid":
        return column, _uuid_bytes
    if kind.name == "numeric" and not duck_type.startswith("DECIMAL"):
        return f"CAST({column} AS VARCHAR)", Decimal
    return column, None


def _uuid_bytes(value: Any) -> bytes:
    data: bytes = value.bytes
    return data


def literal(value: Any, kind: SqlType) -> str:
    """A value of ours as DuckDB SQL (parameters become literals, so that each query is planned for its values)."""
    target = duckdb_type(kind.name, kind.typmod)
    if value is None:
        return f"CAST(NULL AS {'DECIMAL(38,6)' if kind.name == 'numeric' else target})"
    if kind.name.endswith("[]"):
        element = SqlType(kind.name[:-2])
        return f"CAST([{', '.join(literal(item, element) for item in value)}] AS {target})"
    if kind.name == "numeric":
        return _numeric_literal(value)
    if kind.name in ("int2", "int4", "int8", "oid"):
        return f"CAST({int(value)} AS {target})"
    if kind.name == "bool":
        return "true" if value else "false"
    if kind.name in ("float4", "float8"):
        return f"CAST('{value!r}' AS {target})"
    if kind.name == "date":
        return f"(DATE '2000-01-01' + ({int(value)}))"
    if kind.name in ("timestamp", "timestamptz"):
        stamp = f"make_timestamp({int(value) + EPOCH_2000_US})"
        return stamp if kind.name == "timestamp" else f"CAST({stamp} AS TIMESTAMPTZ)"
    if kind.name == "time":
        return f"CAST(make_timestamp({int(value)}) AS TIME)"
    if kind.name == "interval":
        months, days, micros = value
        return f"(to_months({months}) + to_days({days}) + to_microseconds({micros}))"
    if kind.name == "uuid":
        return f"CAST('{value.hex()}' AS UUID)"
    if kind.name == "bytea":
        return f"from_hex('{value.hex()}')"
    text = str(value).rstrip(" ") if kind.name == "bpchar" else str(value)
    quoted = "'" + text.replace("'", "''") + "'"
    return f"CAST({quoted} AS JSON)" if target == "JSON" else quoted


def _numeric_literal(value: Any) -> str:
    number = Decimal(value)
    if not number.is_finite():
        return f"CAST('{number}' AS DOUBLE)"
    exponent = number.as_tuple().exponent
    scale = max(0, -int(exponent))
    text = format(number, "f")
    digits = len(text.lstrip("-").replace(".", ""))
    if digits > 38:
        return f"CAST('{text}' AS DOUBLE)"
    return f"CAST('{text}' AS DECIMAL({max(digits, scale, 1)},{scale}))"
