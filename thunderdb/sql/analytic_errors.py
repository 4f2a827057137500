"""DuckDB's errors as PostgreSQL's: SQLSTATE and message.

D1. What is not recognised is never swallowed: it becomes XX000, or 42601/0A000 by DuckDB's own class of error.
"""

from __future__ import annotations

import re

import duckdb

from thunderdb.base.errors import LimitExceeded, QueryCancelled, SqlError

_INTEGERS = {
    "INT16": "smallint", "INT32": "integer", "INT64": "bigint", "INT128": "numeric",
    "DOUBLE": "double precision", "FLOAT": "real", "BOOL": "boolean", "UUID": "uuid",
}  # fmt: skip

# In order: the first that matches decides. `{1}` is the pattern's first group, `{type}` a group translated.
_RULES: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), sqlstate, message)
    for pattern, sqlstate, message in (
        (r"division by zero", "22012", "division by zero"),
        (r"Overflow in \w+ of (INT16|INT32|INT64)\b", "22003", "{type} out of range"),
        (r"Overflow in \w+ of (INT128|DECIMAL)", "22003", "value overflows numeric format"),
        (r"square root of a negative", "2201F", "cannot take square root of a negative number"),
        (r"logarithm of zero", "2201E", "cannot take logarithm of zero"),
        (r"logarithm of a negative", "2201E", "cannot take logarithm of a negative number"),
        (r"Could not convert string '(.*?)' to (\w+)", "22P02", 'invalid input syntax for type {type}: "{1}"'),
        (r"Could not convert string \"(.*?)\" to DECIMAL", "22P02",
         'invalid input syntax for type numeric: "{1}"'),
        (r"(timestamp|date|time) field value out of range: \"(.*?)\"", "22008",
         'date/time field value out of range: "{2}"'),
        (r"invalid (timestamp|date|time|interval) field format: \"(.*?)\"", "22007",
         'invalid input syntax for type {1}: "{2}"'),
        (r"(?:can't be cast|out of range for the destination type|Could not cast value).*?(INT16|INT32|INT64)", "22003",
         "{type} out of range"),
        (r"Type (\w+) with value (\S+) can't be cast.*?type (INT16|INT32|INT64)", "22003",
         "{type} out of range"),
        (r"Malformed JSON", "22P02", "invalid input syntax for type json"),
        (r"More than one row returned by a subquery", "21000",
         "more than one row returned by a subquery used as an expression"),
        (r"Referenced column \"(.*?)\" was not found", "42703", 'column "{1}" does not exist'),
        (r"Referenced column \"(.*?)\" not found", "42703", 'column "{1}" does not exist'),
        (r"Table \"(.*?)\" does not have a column named \"(.*?)\"", "42703", "column {1}.{2} does not exist"),
        (r"does not have a column (?:named|with name) \"?(\w+)", "42703", 'column "{1}" does not exist'),
        (r"Referenced table \"(.*?)\" not found", "42P01", 'missing FROM-clause entry for table "{1}"'),
        (r"Ambiguous reference to column name \"(.*?)\"", "42702", 'column reference "{1}" is ambiguous'),
        (r"column \"(.*?)\" must appear in the GROUP BY", "42803",
         'column "{1}" must appear in the GROUP BY clause or be used in an aggregate function'),
        (r"aggregate|aggregates .*(?:not allowed|cannot contain)|WHERE clause cannot contain aggregates", "42803", ""),
        (r"window functions? .*(?:not allowed|cannot)|cannot contain window functions", "42P20", ""),
        (r"(?:Scalar|Aggregate|Table|Macro|Table Macro)?\s*Function with name \"?(.*?)\"? does not exist", "42883",
         "function {1} does not exist"),
        (r"Table with name (.*?) does not exist", "42P01", 'relation "{1}" does not exist'),
        (r"Type with name (.*?) does not exist", "42704", 'type "{1}" does not exist'),
        (r"No function matches the given name and argument types '(.*?)'", "42883", "function {1} does not exist"),
        (r"best candidate function for the function call \"(.*?)\"\.", "42725", "function {1} is not unique"),
        (r"Set operations can only apply to expressions with the same number", "42601",
         "each UNION query must have the same number of columns"),
        (r"Cannot (?:compare|mix) values of type (.*)", "42883", ""),
        (r"ORDER (?:BY )?term out of range", "42P10", ""),
        (r"GROUP BY term out of range", "42P10", ""),
        (r"negative (?:LIMIT|value).*LIMIT|LIMIT.*(?:negative|out of range)", "2201W", "LIMIT must not be negative"),
        (r"argument of WHERE|WHERE clause", "42804", ""),
        (r"step size cannot (?:be|equal) (?:zero|0)|interval cannot be 0", "22023", "step size cannot equal zero"),
    )
)  # fmt: skip

_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (duckdb.ParserException, "42601"),
    (duckdb.SyntaxException, "42601"),
    (duckdb.NotImplementedException, "0A000"),
    (duckdb.ConversionException, "22P02"),
    (duckdb.OutOfRangeException, "22003"),
    (duckdb.CatalogException, "42883"),
    (duckdb.BinderException, "42804"),
    (duckdb.InvalidInputException, "22023"),
)


_NO_BLOCK = "could not allocate block"


def sql_error(error: BaseException) -> SqlError:
    """Translate an error that DuckDB raised."""
    if isinstance(error, SqlError):
        return error
    if isinstance(error, duckdb.InterruptException):
        return QueryCancelled("canceling statement due to user request")
    text = str(error)
    # While rows are brought in, the same comes as a commit that failed.
    if isinstance(error, duckdb.OutOfMemoryException) or "out of memory" in text[:40].lower() or _NO_BLOCK in text:
        return LimitExceeded(
            "the query needs more memory than analytic queries may use",
            hint="Name fewer columns: those named are held in memory, 256 MB for all such queries together.",
        )
    first = text.split("\n", 1)[0].split(": ", 1)[-1]
    for pattern, sqlstate, message in _RULES:
        match = pattern.search(text)
        if match is not None:
            return SqlError(sqlstate, _filled(message, match) if message else first)
    for kind, sqlstate in _BY_CLASS:
        if isinstance(error, kind):
            return SqlError(sqlstate, first)
    return SqlError("XX000", first)


def _filled(message: str, match: re.Match[str]) -> str:
    for number, value in enumerate(match.groups(), 1):
        value = value or ""
        if value.upper() in _INTEGERS:
            message = message.replace("{type}", _INTEGERS[value.upper()])
        message = message.replace(f"{{{number}}}", value)
    return message.replace("{type}", match.groups()[-1].lower() if match.groups() else "")
