"""One measured row: both systems' rounds, their medians, the ratio and the bar it is held against."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """`bar` is the ratio ThunderDB / PostgreSQL that must be reached (rates) or not passed (times), `limit` an absolute one."""

    name: str
    unit: str
    more_is_better: bool
    bar: float | None = None
    limit: float | None = None
    thunder: list[float] = field(default_factory=list)
    postgres: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, system: str, value: float) -> None:
        (self.thunder if system == "ThunderDB" else self.postgres).append(value)

    def medians(self) -> tuple[float | None, float | None]:
        return tuple(statistics.median(values) if values else None for values in (self.thunder, self.postgres))  # type: ignore[return-value]

    def ratio(self) -> float | None:
        ours, theirs = self.medians()
        return ours / theirs if ours is not None and theirs else None

    def passed(self) -> bool | None:
        """Whether the bar is met; None where there is none, or nothing to hold against it."""
        ours, ratio = self.medians()[0], self.ratio()
        if ours is None:
            return None
        if self.limit is not None:
            return ours >= self.limit if self.more_is_better else ours <= self.limit
        if self.bar is None or ratio is None:
            return None
        return ratio >= self.bar if self.more_is_better else ratio <= self.bar

    def as_dict(self) -> dict[str, object]:
        ours, theirs = self.medians()
        return {
            "name": self.name,
            "unit": self.unit,
            "thunderdb": ours,
            "postgresql": theirs,
            "ratio": self.ratio(),
            "bar": self.bar,
            "limit": self.limit,
            "passed": self.passed(),
            "thunderdb_rounds": self.thunder,
            "postgresql_rounds": self.postgres,
            "note": self.note,
        }


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def table(rows: list[Row]) -> str:
    """The rows as text, one a line, medians side by side."""
    lines = [f"{'':44} {'ThunderDB':>11} {'PostgreSQL':>11} {'ratio':>6}  {'bar':<14} verdict"]
    for row in rows:
        ours, theirs = row.medians()
        ratio = row.ratio()
        sign = ">=" if row.more_is_better else "<="
        bar = (
            f"{sign} {row.limit:g} {row.unit}"
            if row.limit is not None
            else f"{sign} {row.bar:g} x"
            if row.bar is not None
            else ""
        )
        verdict = {True: "met", False: "MISSED", None: ""}[row.passed()]
        name = f"{row.name} [{row.unit}]"
        lines.append(
            f"{name:44} {_number(ours):>11} {_number(theirs):>11} {f'{ratio:.2f}' if ratio else '':>6}  {bar:<14} {verdict}"
        )
        if row.note:
            lines.append(f"    {row.note}")
    return "\n".join(lines)
