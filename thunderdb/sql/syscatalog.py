"""The system catalog as queries see it: pg_catalog and information_schema views, oids of names, names of oids.

Reading order: syscatalog_columns (which views there are), syscatalog_rows (their rows), this, syscatalog_functions (what
pg_get_indexdef and its like become).

Y1. Views are made from one immutable Catalog, so all of a query's views agree with each other and with its transaction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thunderdb.engine.catalog import Catalog
from thunderdb.sql import syscatalog_rows as made
from thunderdb.sql.syscatalog_columns import VIEWS
from thunderdb.sql.types import ALIASES, TYPES

if TYPE_CHECKING:
    from thunderdb.sql.analytic_rewrite import QuerySession

_NAME_PARTS = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')


@dataclass(frozen=True, slots=True)
class SystemTable:
    """A view's columns (name, type) and rows."""

    columns: tuple[tuple[str, str], ...]
    rows: list[list[Any]]


class SystemCatalog:
    def __init__(self, catalog: Catalog, session: QuerySession) -> None:
        self._catalog = catalog
        self._session = session
        self._tables: dict[str, SystemTable] = {}
        self._lookups: dict[str, dict[int, str]] = {}

    @staticmethod
    def has(schema: str, name: str) -> bool:
        return f"{schema}.{name}" in VIEWS

    def columns(self, schema: str, name: str) -> tuple[tuple[str, str], ...] | None:
        return VIEWS.get(f"{schema}.{name}")

    def table(self, schema: str, name: str) -> SystemTable | None:
        """A view with its rows, None if there is no such view."""
        view = f"{schema}.{name}"
        if view not in VIEWS:
            return None
        if view not in self._tables:
            self._tables[view] = SystemTable(VIEWS[view], made.rows_of(view, self._catalog, self._session))
        return self._tables[view]

    def oid_of(self, kind: str, name: str) -> int | None:
        """The oid that `name` has as a regclass, regtype, regnamespace or regrole."""
        parts = [quoted.replace('""', '"') if quoted else plain.strip().lower() for quoted, plain in _NAME_PARTS.findall(name)]
        last = parts[-1] if parts else ""
        if kind == "regclass":
            return self._relation_oid(parts)
        if kind == "regtype":
            last = re.sub(r"\(.*\)", "", last).strip()
            is_array = last.endswith("[]")
            base = last.removesuffix("[]")
            base = base[1:] if base.startswith("_") and base[1:] in TYPES else ALIASES.get(base, base)
            info = TYPES.get(base + "[]" if is_array or last.startswith("_") else base)
            return info.oid if info is not None else None
        if kind == "regnamespace":
            return next((oid for oid, known in made.NAMESPACES if known == last), None)
        if kind == "regrole":
            return next((oid for oid, known in made.role_names(self._session) if known == last), None)
        return None

    def _relation_oid(self, parts: list[str]) -> int | None:
        last = parts[-1] if parts else ""
        schema = parts[-2] if len(parts) > 1 else ""
        if schema in ("", "public"):
            table = self._catalog.table(last)
            if table is not None:
                return table.id
            index = self._catalog.index(last)
            if index is not None:
                owner, found = index
                return found.id if found is not None else next(made.indexes_of(owner))[0]
            sequence = self._catalog.sequence(last)
            if sequence is not None:
                return sequence.id
        for number, view in enumerate(VIEWS):
            if view in (f"{schema}.{last}", f"pg_catalog.{last}" if not schema else ""):
                return made.view_oid(number, last)
        return None

    def lookup(self, kind: str) -> dict[int, str]:
        """oid to text, for the functions that explain an object."""
        if kind not in self._lookups:
            self._lookups[kind] = dict(self._pairs(kind))
        return self._lookups[kind]

    def _pairs(self, kind: str) -> list[tuple[int, str]]:
        tables = self._catalog.tables()
        if kind == "regclass":
            pairs = [(table.id, made.quote_ident(table.name)) for table in tables]
            pairs += [(oid, made.quote_ident(name)) for table in tables for oid, name, *_ in made.indexes_of(table)]
            pairs += [(s.id, made.quote_ident(s.name)) for s in self._catalog.sequences()]
            for number, view in enumerate(VIEWS):
                oid = made.view_oid(number, view.partition(".")[2])
                pairs.append((oid, view.removeprefix("pg_catalog.")))
            return pairs
        if kind == "hidden":
            views = [(number, view.partition(".")) for number, view in enumerate(VIEWS)]
            return [(made.view_oid(number, name), schema) for number, (schema, _, name) in views if schema != "pg_catalog"]
        if kind == "regtype":
            return [(info.oid, info.display) for info in TYPES.values()]
        if kind == "regnamespace":
            return list(made.NAMESPACES)
        if kind == "regrole":
            return made.role_names(self._session)
        if kind == "indexdef":
            return [
                (oid, made.index_definition(table, name, columns, unique))
                for table in tables
                for oid, name, columns, unique, *_ in made.indexes_of(table)
            ]
        if kind == "indexcol":
            return [
                (oid * 1000 + number, made.quote_ident(table.columns[position].name))
                for table in tables
                for oid, _name, columns, *_ in made.indexes_of(table)
                for number, position in enumerate(columns, 1)
            ]
        return [(oid, definition) for table in tables for oid, _n, _k, _i, _c, definition in made.constraints_of(table)]
