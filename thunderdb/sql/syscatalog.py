"""stub"""
from __future__ import annotations
from dataclasses import dataclass
from typing import Any
MACROS: tuple[str, ...] = ()
@dataclass
class SystemTable:
    columns: Any
    rows: Any
class SystemCatalog:
    def __init__(self, catalog: Any, session: Any) -> None: ...
    def table(self, schema: str, name: str) -> SystemTable | None: return None
    def has(self, schema: str, name: str) -> bool: return False
    def oid_of(self, kind: str, name: str) -> int | None: return None
