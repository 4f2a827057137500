"""Formats on disk and on the wire are written once, as a table in the docstring beside its struct.Struct, and compared here.

A table reads

    NAME, little-endian:
    offset  size  name
    0       8     checksum

where NAME is a struct.Struct of the same module; its fields have the offsets, sizes and order of the rows.
"""

from __future__ import annotations

import ast
import enum
import importlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "thunderdb"
# Where every public Struct describes something that outlives the process, so each needs its table.
DURABLE = ("storage", "wal", "access", "recovery", "txn", "engine", "archive", "backup")

TITLE = re.compile(r"^\s*([A-Z][A-Z0-9_]*), (little|big)-endian:\s*$")
HEADER = re.compile(r"^\s*offset\s+size\s+name\b")
ROW = re.compile(r"^\s*(\d+)\s+(\d+)\s+([a-z_][a-z0-9_]*)\b")
CODE = re.compile(r"(\d*)([xcbB?hHiIlLqQefdsp])")


@dataclass(frozen=True, slots=True)
class Table:
    module: str
    name: str
    endian: str
    rows: tuple[tuple[int, int, str], ...]


def tables_of(docstring: str, module: str) -> list[Table]:
    lines = docstring.splitlines()
    tables = []
    for at, line in enumerate(lines):
        title = TITLE.match(line)
        if title is None:
            continue
        if at + 1 >= len(lines) or not HEADER.match(lines[at + 1]):
            raise AssertionError(f"{module}: the table {title[1]} has no 'offset  size  name' line")
        rows = []
        for row in lines[at + 2 :]:
            match = ROW.match(row)
            if match is None:
                break
            rows.append((int(match[1]), int(match[2]), match[3]))
        tables.append(Table(module, title[1], title[2], tuple(rows)))
    return tables


def fields_of(layout: struct.Struct) -> list[tuple[int, int]]:
    """Return (offset, size) of each value that the struct packs, padding left out."""
    text = layout.format
    order, codes = text[0], text[1:]
    fields, offset = [], 0
    for count, code in CODE.findall(codes.replace(" ", "")):
        number = int(count) if count else 1
        if code in "sp":
            fields.append((offset, number))
            offset += number
        elif code == "x":
            offset += number
        else:
            size = struct.calcsize(order + code)
            for _ in range(number):
                fields.append((offset, size))
                offset += size
    return fields


def source_modules() -> list[tuple[str, Path]]:
    paths = [path for path in sorted(ENGINE.rglob("*.py")) if path.name != "__init__.py"]
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts), path) for path in paths]


def all_tables() -> list[Table]:
    found = []
    for module, path in source_modules():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        found += tables_of(docstring or "", module)
    return found


def structs_of(path: Path) -> list[str]:
    """Names of public module-level struct.Struct values that pack more than one field."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        call, target = node.value, node.targets[0] if isinstance(node, ast.Assign) else node.target
        made = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if made != "Struct" or not isinstance(target, ast.Name) or target.id.startswith("_"):
            continue
        if isinstance(call.args[0], ast.Constant) and len(fields_of(struct.Struct(call.args[0].value))) > 1:
            names.append(target.id)
    return names


@pytest.mark.parametrize("table", all_tables(), ids=lambda table: f"{table.module}.{table.name}")
def test_table_equals_its_struct(table: Table) -> None:
    layout = getattr(importlib.import_module(table.module), table.name, None)
    assert isinstance(layout, struct.Struct), f"{table.module} has no struct.Struct named {table.name}"
    assert layout.format[0] == {"little": "<", "big": ">"}[table.endian]
    assert [(offset, size) for offset, size, _ in table.rows] == fields_of(layout)
    names = [name for _, _, name in table.rows]
    assert len(set(names)) == len(names), "two fields have one name"


def test_every_durable_struct_has_its_table() -> None:
    tables = {(table.module, table.name) for table in all_tables()}
    missing = []
    for module, path in source_modules():
        if module.split(".")[1] in DURABLE:
            missing += [f"{module}.{name}" for name in structs_of(path) if (module, name) not in tables]
    assert not missing, f"no format table in the docstring for {missing}"


def test_codes_have_explicit_numbers_used_once() -> None:
    """Kinds and operations that are written to disk never depend on the order of their lines."""
    wrong = []
    for module, path in source_modules():
        if module.split(".")[1] not in DURABLE:
            continue
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or not any(getattr(base, "id", "") == "IntEnum" for base in node.bases):
                continue
            kinds = getattr(importlib.import_module(module), node.name)
            assert issubclass(kinds, enum.IntEnum)
            values = [s.value.value for s in node.body if isinstance(s, ast.Assign) and isinstance(s.value, ast.Constant)]
            if len(values) != len(kinds.__members__) or len(set(values)) != len(values):
                wrong.append(f"{module}.{node.name}")
    assert not wrong, wrong


def test_the_parser_sees_a_wrong_table() -> None:
    text = "X, little-endian:\noffset  size  name\n0       8     checksum\n8       4     length\n\nprose"
    (table,) = tables_of(text, "example")
    assert table.rows == ((0, 8, "checksum"), (8, 4, "length"))
    assert fields_of(struct.Struct("<QI")) == [(0, 8), (8, 4)]
    assert fields_of(struct.Struct("<Q4sB3xH")) == [(0, 8), (8, 4), (12, 1), (16, 2)]
    assert fields_of(struct.Struct("<2I")) == [(0, 4), (4, 4)]
