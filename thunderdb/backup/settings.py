"""The configuration as it goes into a backup: for reference when it is restored, and without secrets.

C1. Commands are left out (they may carry credentials), and so is whatever could be a key or token itself. Names of files that
    hold secrets stay: they say what has to be put back.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from thunderdb.base.config import SECTIONS, Config
from thunderdb.base.config_values import Spec
from thunderdb.base.units import OFF, format_duration_ms, format_size

_SECRET_WORDS = ("command", "token", "password", "secret", "key")


def config_text(config: Config) -> str:
    """thunderdb.toml of a configuration: every key that is not at its default."""
    lines = ["# The configuration of the node when the backup was made, defaults and secrets left out."]
    for section in SECTIONS:
        body = []
        for name, spec, default in _keys(section):
            value = getattr(config, name)
            if value == default:
                continue
            if _is_secret(name):
                body.append(f"# {name} was set; it is left out, for it may hold a secret")
            else:
                body.append(f"{name} = {_toml(value, spec)}")
        if body:
            lines += ["", f"[{section}]", *body]
    return "\n".join(lines) + "\n"


def _keys(section: str) -> list[tuple[str, Spec, Any]]:
    found = [(field.name, field.metadata["spec"], field.default) for field in fields(Config)]
    return [entry for entry in found if entry[1].section == section]


def _is_secret(name: str) -> bool:
    return not name.endswith("_file") and any(word in name.split("_") for word in _SECRET_WORDS)


def _toml(value: Any, spec: Spec) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return f'"{OFF}"'
    if isinstance(value, int):
        kind = spec.kind.removesuffix("_or_off")
        printed = {"size": format_size, "duration": format_duration_ms}.get(kind)
        return str(value) if printed is None else f'"{printed(value)}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(_quoted(item) for item in value) + "]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    escaped = "".join(
        {"\\": "\\\\", '"': '\\"'}.get(char) or (char if char.isprintable() else f"\\U{ord(char):08X}") for char in text
    )
    return f'"{escaped}"'
