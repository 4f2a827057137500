"""The analytic path as plans see it. DuckDB and numpy are loaded by the first query that needs them, off the loop.

L1. `import thunderdb.server.daemon` loads neither: a daemon that only ever sees keys and ranges starts without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thunderdb.runtime.ports import Offload

if TYPE_CHECKING:
    from sqlglot import exp

    from thunderdb.sql.analytic import Analytics, ResultStream
    from thunderdb.sql.analytic_rewrite import Param, QuerySession
    from thunderdb.sql.result import ResultColumn


def _load(offload: Offload) -> Analytics:
    from thunderdb.sql.analytic import Analytics

    return Analytics(offload)


class LateAnalytics:
    """`Analytics`, made when it is first asked for something."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._engine: Analytics | None = None

    async def _loaded(self) -> Analytics:
        if self._engine is None:
            engine = await self._offload.run(_load, self._offload)
            if self._engine is None:  # another session may have been quicker
                self._engine = engine
        return self._engine

    async def run_select(
        self, db: Any, txn: Any, tree: exp.Expression, params: Mapping[int, Param], session: QuerySession
    ) -> ResultStream:
        return await (await self._loaded()).run_select(db, txn, tree, params, session)

    async def describe(
        self, db: Any, txn: Any, tree: exp.Expression, param_types: Mapping[int, str], session: QuerySession
    ) -> tuple[ResultColumn, ...]:
        return await (await self._loaded()).describe(db, txn, tree, param_types, session)

    async def parameter_types(
        self, db: Any, txn: Any, tree: exp.Expression, known: Mapping[int, str], session: QuerySession
    ) -> dict[int, str]:
        return await (await self._loaded()).parameter_types(db, txn, tree, known, session)

    async def evaluate_rows(
        self, db: Any, txn: Any, tree: exp.Expression, target: str, params: Mapping[int, Param], session: QuerySession
    ) -> list[tuple[bytes, tuple[Any, ...]]]:
        return await (await self._loaded()).evaluate_rows(db, txn, tree, target, params, session)
