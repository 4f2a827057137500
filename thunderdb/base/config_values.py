"""What the values of configuration keys may be: from what a file, the environment or a flag says to a Python value, and back.

Each kind has a converter, which raises ValueError or TypeError for what it does not take, and words for what it does.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cronsim import CronSim, CronSimError

from thunderdb.base.units import OFF, format_duration_ms, format_size, parse_duration_ms, parse_size

_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
_STORE_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#]*)?", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a key may be. Kinds: name, address, port, path, place, paths, text, size, size_or_off, duration,
    duration_or_off, count, switch, choice, cron."""

    section: str
    kind: str
    doc: str
    least: int = 0
    most: int = 0
    choices: tuple[Any, ...] = ()

    def allowed(self) -> str:
        """Say in words what a value may be."""
        return _ALLOWED[self.kind](self)


def format_value(kind: str, value: Any) -> str:
    """Write a value the way the file would hold it."""
    if kind == "size" or kind == "size_or_off":
        return f'"{OFF if value is None else format_size(value)}"'
    if kind == "paths":
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if kind in ("duration", "duration_or_off"):
        return f'"{OFF if value is None else format_duration_ms(value)}"'
    if kind == "switch":
        return "true" if value else "false"
    return str(value) if kind in ("port", "count") else f'"{value}"'


def is_loopback(address: str) -> bool:
    if address.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def convert(spec: Spec, value: Any) -> Any:
    """Raises: ValueError, TypeError if the value is not allowed."""
    return _CONVERTERS[spec.kind](spec, value)


def _to_name(_: Spec, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not _NODE_ID.fullmatch(str(value)):
        raise ValueError
    return str(value)


def _to_address(_: Spec, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        # All digits and dots was meant as an address; a name that merely looks like one would resolve to a surprise.
        if not _HOST_NAME.fullmatch(value) or not any(c.isalpha() for c in value):
            raise
        return value


def _to_int(spec: Spec, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError
    number = int(value)
    if not spec.least <= number <= (spec.most or 65535):
        raise ValueError
    return number


def _to_path(_: Spec, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if not value or "\0" in value:
        raise ValueError
    return value.rstrip("/") or "/"


def _to_place(_: Spec, value: Any) -> str:
    """A directory (made absolute by whoever opens it) or the URL of a store; empty is none."""
    if not isinstance(value, str):
        raise TypeError
    if "\0" in value or "://" in value and not _STORE_URL.fullmatch(value):
        raise ValueError
    return value.rstrip("/") or value[:1]


def _to_paths(spec: Spec, value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise TypeError
    return tuple(_to_place(spec, item.strip() if isinstance(item, str) else item) for item in items if item)


def _to_text(_: Spec, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if "\0" in value:
        raise ValueError
    return value


def _to_cron(_: Spec, value: Any) -> str:
    if value is False or isinstance(value, str) and value.strip().lower() in ("", OFF):
        return OFF
    if not isinstance(value, str):
        raise TypeError
    expression = " ".join(value.split())
    if len(expression.split()) != 5:
        raise ValueError  # its parser would take a sixth field for seconds
    try:
        # A moment that never comes, such as the 31st of February, is a mistake too.
        next(CronSim(expression, datetime.datetime(2000, 1, 1)))
    except (CronSimError, StopIteration):
        raise ValueError from None
    return expression


def _to_size_or_off(spec: Spec, value: Any) -> int | None:
    return None if value is False or isinstance(value, str) and value.lower() == OFF else _to_size(spec, value)


def _to_size(spec: Spec, value: Any) -> int:
    size = parse_size(value)
    if spec.choices and size not in spec.choices or spec.most and not spec.least <= size <= spec.most:
        raise ValueError
    return size


def _to_duration(spec: Spec, value: Any) -> int:
    duration_ms = parse_duration_ms(value)
    if not spec.least <= duration_ms <= spec.most:
        raise ValueError
    return duration_ms


def _to_duration_or_off(spec: Spec, value: Any) -> int | None:
    return None if value is False or isinstance(value, str) and value.lower() == OFF else _to_duration(spec, value)


def _to_switch(_: Spec, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    switch = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}.get(str(value).lower())
    if switch is None:
        raise ValueError
    return switch


def _to_choice(spec: Spec, value: Any) -> str:
    if not isinstance(value, str) or value.lower() not in spec.choices:
        raise ValueError
    return value.lower()


_CONVERTERS = {
    "name": _to_name,
    "address": _to_address,
    "port": _to_int,
    "count": _to_int,
    "path": _to_path,
    "place": _to_place,
    "paths": _to_paths,
    "text": _to_text,
    "cron": _to_cron,
    "size_or_off": _to_size_or_off,
    "size": _to_size,
    "duration": _to_duration,
    "duration_or_off": _to_duration_or_off,
    "switch": _to_switch,
    "choice": _to_choice,
}


def _duration_range(spec: Spec) -> str:
    return (
        f'a duration from "{format_duration_ms(spec.least)}" to "{format_duration_ms(spec.most)}" (units ms, s, min, h, d, w)'
    )


def _size_range(spec: Spec) -> str:
    if spec.choices:
        return "one of " + ", ".join(f'"{format_size(choice)}"' for choice in spec.choices)
    return f'a size from "{format_size(spec.least)}" to "{format_size(spec.most)}" (units B, KB, MB, GB, TB)'


_ALLOWED: dict[str, Callable[[Spec], str]] = {
    "name": lambda spec: "1 to 63 letters, digits, dots, dashes and underscores",
    "address": lambda spec: "an IP address or host name",
    "port": lambda spec: "a port from 0 to 65535",
    "count": lambda spec: f"a number from {spec.least} to {spec.most}",
    "path": lambda spec: "the path of a directory",
    "place": lambda spec: 'the path of a directory, a URL such as "s3://bucket/prefix" (s3, gs, az), or "" for none',
    "paths": lambda spec: "a list of directories and URLs",
    "text": lambda spec: 'text, or "" for none',
    "cron": lambda spec: 'a cron expression of five fields, such as "0 2 * * *", or "off"',
    "size_or_off": lambda spec: f'{_size_range(spec)}, or "off"',
    "size": _size_range,
    "duration": _duration_range,
    "duration_or_off": lambda spec: f'{_duration_range(spec)}, or "off"',
    "switch": lambda spec: "true or false",
    "choice": lambda spec: "one of " + ", ".join(spec.choices),
}
