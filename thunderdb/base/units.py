"""Sizes and durations as people write them: "128MB", "60s", "6h", "1d", "off".

U1. Sizes are binary (1KB = 1024 bytes), as in PostgreSQL; a bare number is bytes for a size and seconds for a duration.
U2. What is parsed prints back to the same value: parse(format(x)) == x.
U3. Every error names the text and the units that are allowed.
"""

from __future__ import annotations

import re

SIZE_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
DURATION_UNITS_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
OFF = "off"

_NUMBER_AND_UNIT = re.compile(r"\s*(\d+)(?:\.(\d{1,6}))?\s*([A-Za-z]*)\s*", re.ASCII)
_SIZE_SPELLINGS = {
    "": 1, "B": 1, "K": 1 << 10, "KB": 1 << 10, "KIB": 1 << 10, "M": 1 << 20, "MB": 1 << 20, "MIB": 1 << 20,
    "G": 1 << 30, "GB": 1 << 30, "GIB": 1 << 30, "T": 1 << 40, "TB": 1 << 40, "TIB": 1 << 40,
}  # fmt: skip
_DURATION_SPELLINGS = {**DURATION_UNITS_MS, "": 1000, "m": 60_000, "sec": 1000, "hour": 3_600_000, "day": 86_400_000}
_LARGEST = 1 << 62


def parse_size(value: str | int) -> int:
    """Return a size in bytes, from "128MB" or a number of bytes.

    Raises: ValueError, saying what is allowed.
    """
    scaled = _scale(value, {unit.upper(): factor for unit, factor in _SIZE_SPELLINGS.items()}, upper=True)
    if scaled is None:
        raise ValueError(f'not a size: {value!r} (expected a number with a unit of {", ".join(SIZE_UNITS)}, e.g. "128MB")')
    return scaled


def parse_duration_ms(value: str | int | float) -> int:
    """Return a duration in milliseconds, from "60s", "500ms", "6h", "1d" or a number of seconds.

    Raises: ValueError, saying what is allowed.
    """
    scaled = _scale(value, _DURATION_SPELLINGS, upper=False)
    if scaled is None:
        units = ", ".join(DURATION_UNITS_MS)
        raise ValueError(f'not a duration: {value!r} (expected a number with a unit of {units}, e.g. "60s")')
    return scaled


def format_size(size_bytes: int) -> str:
    """Print a size in its largest whole unit: 134217728 is "128MB"."""
    return _format(size_bytes, SIZE_UNITS)


def format_duration_ms(duration_ms: int) -> str:
    """Print a duration in its largest whole unit, a single minute as "60s", which is how everybody writes it."""
    if duration_ms in (0, 60_000):
        return f"{duration_ms // 1000}s"
    return _format(duration_ms, DURATION_UNITS_MS)


def _scale(value: str | int | float, units: dict[str, int], upper: bool) -> int | None:
    if isinstance(value, bool):
        return None
    text = str(value)
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None:
        return None
    whole, fraction, unit = match[1], match[2] or "", match[3]
    factor = units.get(unit.upper() if upper else unit if unit in units else unit.lower())
    if factor is None or len(whole) > 19:
        return None
    # Integer arithmetic only: "1.5GB" is exact, and no size is ever a rounded float.
    scaled, remainder = divmod(int(whole + fraction) * factor, 10 ** len(fraction))
    return None if remainder or scaled > _LARGEST else scaled


def _format(value: int, units: dict[str, int]) -> str:
    for unit, factor in reversed(units.items()):
        if value >= factor and value % factor == 0:
            return f"{value // factor}{unit}"
    return f"{value}{next(iter(units))}"
