"""What type a parameter has in a query that DuckDB runs: that of what it stands beside, as PostgreSQL decides it.

Clients that ask before they bind (asyncpg, pgx, …) encode a value for the type that they are told.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlglot import exp

from thunderdb.sql.analytic_types import SqlType
from thunderdb.sql.analytic_typing import Typer, data_type
from thunderdb.sql.types import TYPES

UNKNOWN = "unknown"


def parameter_types(tree: exp.Expression, typer: Typer, known: Mapping[int, str]) -> dict[int, str]:
    """The type of each `$n` of the tree: as known, else of where it stands first, else "unknown" (which is sent as text)."""
    found = dict(known)
    for node in tree.find_all(exp.Parameter):
        if not node.name.isdigit():
            continue
        number = int(node.name)
        if found.get(number, UNKNOWN) == UNKNOWN:
            kind = _beside(node, typer)
            found[number] = kind.name if kind is not None and kind.name in TYPES else UNKNOWN
    return found


def _beside(node: exp.Expression, typer: Typer) -> SqlType | None:
    parent = node.parent
    if isinstance(parent, exp.Paren):
        return _beside(parent, typer)
    if isinstance(parent, exp.Cast):
        return data_type(parent.to)
    if isinstance(parent, (exp.Limit, exp.Offset)):
        return SqlType("int8")
    if isinstance(parent, (exp.Like, exp.ILike)):
        return SqlType("text")
    if isinstance(parent, (exp.Any, exp.All)):
        of = typer.type_of(_other(parent))
        return SqlType(of.name + "[]") if of is not None else None
    if isinstance(parent, (exp.In, exp.Between, exp.Coalesce)) or _compares(parent):
        for other in (parent.this, *parent.args.values()):
            for each in other if isinstance(other, list) else (other,):
                of = typer.type_of(each) if isinstance(each, exp.Expression) and each is not node else None
                if of is not None and of.name != UNKNOWN:
                    return of
    return None


def _compares(node: exp.Expression | None) -> bool:
    return isinstance(node, exp.Binary) and isinstance(
        node, (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Add, exp.Mul)
    )


def _other(node: exp.Expression) -> exp.Expression | None:
    """What is compared with ANY (…) or ALL (…)."""
    parent = node.parent
    return parent.this if isinstance(parent, exp.Binary) and parent.this is not node else None
