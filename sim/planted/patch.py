"""Planted bugs as text: the file format, and the application of a unified diff to a source text.

A planted bug is a file `tests/mutants/<name>.patch`: a header of `Key: value` lines (a line that begins with two spaces goes on
with the one before), an empty line, and a unified diff.

    Title    what the bug is
    Breaks   the invariants that it breaks
    Seen     how it shows
    Run      the scenario (`scenarios/power_cut.yaml`), or `case NAME` of sim/planted/cases.py
    Seed     a seed that catches it; `?` until one is known
    Budget   so many seeds, from 0, may be needed to find it; one that survives them is a hole in the tests
    Note     why it is as it is, where that is not plain (optional)

D1. Line numbers only break ties: a hunk goes where its lines are, all of them, to the letter, context included.
D2. A hunk whose lines are nowhere, or twice at the same distance, does not apply; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

KEYS = ("Title", "Breaks", "Seen", "Run", "Seed", "Budget", "Note")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """A planted bug's file is malformed, or does not fit the source. `args` is (what,)."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """One change: in `path`, near `line` (from 1), the lines `old` become the lines `new`."""

    path: str
    line: int
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug."""

    name: str
    title: str
    breaks: str
    seen: str
    run: str
    seed: int | None
    budget: int
    note: str
    hunks: tuple[Hunk, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that it changes, in order."""
        return tuple(dict.fromkeys(hunk.path for hunk in self.hunks))


def parse_mutant(name: str, text: str) -> Mutant:
    """Read a planted bug's file. Raises: PatchError."""
    head, empty, diff = text.partition("\n\n")
    if not empty:
        raise PatchError(f"{name}: no empty line between header and diff")
    fields = _header(name, head)
    missing = [key for key in KEYS if key != "Note" and not fields.get(key)]
    if missing:
        raise PatchError(f"{name}: the header lacks {', '.join(missing)}")
    seed, budget = fields["Seed"], fields["Budget"]
    if not (seed == "?" or seed.isdigit()) or not budget.isdigit():
        raise PatchError(f"{name}: Seed and Budget must be whole numbers")
    hunks = parse_diff(name, diff)
    return Mutant(
        name, fields["Title"], fields["Breaks"], fields["Seen"], fields["Run"], None if seed == "?" else int(seed), int(budget),
        fields.get("Note", ""), hunks,
    )  # fmt: skip


def _header(name: str, head: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in head.splitlines():
        if line.startswith("  ") and key:
            fields[key] += " " + line.strip()
            continue
        key, colon, value = line.partition(":")
        if not colon or key not in KEYS or key in fields:
            raise PatchError(f"{name}: {line!r} is no header line; allowed once each: {', '.join(KEYS)}")
        fields[key] = value.strip()
    return fields


def with_seed(text: str, seed: int) -> str:
    """A planted bug's file with another known seed."""
    return re.sub(r"(?m)^Seed: .*$", f"Seed: {seed}", text, count=1)


def parse_diff(name: str, diff: str) -> tuple[Hunk, ...]:
    """The hunks of a unified diff that changes existing files. Raises: PatchError."""
    hunks: list[Hunk] = []
    path = ""
    lines = diff.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("+++ "):
            path = line[4:].split("\t")[0].removeprefix("b/")
            continue
        match = _HUNK.match(line)
        if match is None:
            if line and not line.startswith("--- "):
                raise PatchError(f"{name}: {line!r} is no part of a unified diff")
            continue
        if not path:
            raise PatchError(f"{name}: a hunk before the name of its file")
        old, new, at = _hunk_lines(name, lines, at, int(match[2] or 1), int(match[4] or 1))
        if not old or old == new:
            raise PatchError(f"{name}: the hunk at line {match[1]} of {path} has no context, or changes nothing")
        hunks.append(Hunk(path, int(match[1]), tuple(old), tuple(new)))
    if not hunks:
        raise PatchError(f"{name}: no hunk")
    return tuple(hunks)


def _hunk_lines(name: str, lines: list[str], at: int, old_count: int, new_count: int) -> tuple[list[str], list[str], int]:
    old: list[str] = []
    new: list[str] = []
    while len(old) < old_count or len(new) < new_count:
        if at == len(lines):
            raise PatchError(f"{name}: a hunk ends too early")
        sign, rest = lines[at][:1] or " ", lines[at][1:]
        at += 1
        if sign not in " -+":
            raise PatchError(f"{name}: {lines[at - 1]!r} in a hunk")
        if sign in " -":
            old.append(rest)
        if sign in " +":
            new.append(rest)
    if (len(old), len(new)) != (old_count, new_count):
        raise PatchError(f"{name}: a hunk has {len(old)} and {len(new)} lines, its head says {old_count} and {new_count}")
    return old, new, at


def apply_hunks(text: str, hunks: list[Hunk]) -> str:
    """Apply the hunks of one file, in order (D1, D2). Raises: PatchError."""
    lines = text.split("\n")
    shift = 0
    for hunk in hunks:
        at = _find(lines, hunk, hunk.line - 1 + shift)
        lines[at : at + len(hunk.old)] = hunk.new
        shift = at - (hunk.line - 1) + len(hunk.new) - len(hunk.old)
    return "\n".join(lines)


def _find(lines: list[str], hunk: Hunk, expected: int) -> int:
    size = len(hunk.old)
    first = hunk.old[0]
    found = [at for at in range(len(lines) - size + 1) if lines[at] == first and tuple(lines[at : at + size]) == hunk.old]
    if not found:
        raise PatchError(f"the hunk at line {hunk.line} of {hunk.path} does not apply: its lines are not there any more")
    found.sort(key=lambda at: (abs(at - expected), at))
    if len(found) > 1 and abs(found[0] - expected) == abs(found[1] - expected):
        raise PatchError(f"the hunk at line {hunk.line} of {hunk.path} fits two places equally well")
    return found[0]


def mutated(mutant: Mutant, sources: Mapping[str, str]) -> dict[str, str]:
    """The changed texts of the files that a mutant touches. Raises: PatchError if it does not apply or changes no code."""
    changed: dict[str, str] = {}
    for path in mutant.paths:
        if path not in sources:
            raise PatchError(f"{mutant.name}: {path} is not there")
        try:
            text = apply_hunks(sources[path], [hunk for hunk in mutant.hunks if hunk.path == path])
            compile(text, path, "exec")
        except (PatchError, SyntaxError) as error:
            raise PatchError(f"{mutant.name}: {error}") from None
        changed[path] = text
    return changed
