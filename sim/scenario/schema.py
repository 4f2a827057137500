"""What a YAML file may say: kinds of values that read one with its line number, and describe themselves as JSON Schema.

    Section({"rate": Key("rate_per_s", Rate(), "Transactions a second.")}).read(parse_yaml(text, "x.yaml"))

V1. An error names file, line, key and value, and what is allowed there.
V2. A key that is not in the table is an error, and so is a key written twice.
V3. `json()` describes the same set of files as `read` accepts, as far as JSON Schema can say it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import yaml

from thunderdb.base.errors import ThunderError
from thunderdb.base.units import parse_duration_ms, parse_size

MS = 1_000_000
Range = tuple[int, int]


class ScenarioError(ThunderError):
    """A scenario file or one of its keys is wrong."""

    sqlstate = "F0000"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the file, where it stands, and the keys that lead to it. Maps and lists hold Values."""

    data: Any
    file: str
    line: int = 0
    key: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def plain(self) -> Any:
        """The value as YAML's own types."""
        if isinstance(self.data, dict):
            return {name: value.plain() for name, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data

    def fails(self, allowed: str) -> ScenarioError:
        """The error of a value that cannot stand here (V1)."""
        return ScenarioError(f"{self.place}: {self.key}: {self.plain()!r} is not allowed; allowed: {allowed}")

    def error(self, text: str) -> ScenarioError:
        return ScenarioError(f"{self.place}: {self.key + ': ' if self.key else ''}{text}")


def parse_yaml(text: str, file: str) -> Value:
    """Read a document. Raises: ScenarioError."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        return Value(None, file) if node is None else _value(loader, node, file, "")
    except yaml.YAMLError as error:
        raise ScenarioError(f"{file}: not YAML: {error}") from None
    finally:
        loader.dispose()


def _value(loader: yaml.SafeLoader, node: yaml.Node, file: str, key: str) -> Value:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Value] = {}
        for name_node, value_node in node.value:
            name = str(loader.construct_object(name_node, deep=True))
            where = f"{key}.{name}" if key else name
            if name in found:
                raise ScenarioError(f"{file}:{name_node.start_mark.line + 1}: {where}: this key is there twice")
            value = _value(loader, value_node, file, where)
            # An error about a key shows the key's own line, also where its value begins on the next one.
            found[name] = Value(value.data, file, name_node.start_mark.line + 1, where)
        return Value(found, file, line, key)
    if isinstance(node, yaml.SequenceNode):
        return Value([_value(loader, one, file, f"{key}[{at}]") for at, one in enumerate(node.value)], file, line, key)
    return Value(loader.construct_object(node, deep=True), file, line, key)


def wrap(data: Any, file: str, key: str = "") -> Value:
    """A value that comes from elsewhere than a file (the command line, a replay file's plan)."""
    if isinstance(data, Mapping):
        below = f"{key}." if key else ""
        return Value({str(name): wrap(one, file, f"{below}{name}") for name, one in data.items()}, file, 0, key)
    if isinstance(data, (list, tuple)):
        return Value([wrap(one, file, f"{key}[{at}]") for at, one in enumerate(data)], file, 0, key)
    return Value(data, file, 0, key)


class Kind(Protocol):
    """What values a key takes."""

    def read(self, value: Value) -> Any:
        """Raises: ScenarioError."""
        ...

    def json(self) -> dict[str, Any]: ...


# -- Single values


@dataclass(frozen=True, slots=True)
class Text:
    def read(self, value: Value) -> str:
        if not isinstance(value.data, str):
            raise value.fails("text")
        return value.data

    def json(self) -> dict[str, Any]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Switch:
    def read(self, value: Value) -> bool:
        if not isinstance(value.data, bool):
            raise value.fails("true, false")
        return value.data

    def json(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Count:
    low: int = 0
    high: int = 1_000_000

    def read(self, value: Value) -> int:
        data = value.data
        if isinstance(data, str) and data.isdigit():
            data = int(data)
        if not isinstance(data, int) or isinstance(data, bool) or not self.low <= data <= self.high:
            raise value.fails(f"a whole number from {self.low} to {self.high}")
        return data

    def json(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True, slots=True)
class Chance:
    def read(self, value: Value) -> float:
        if not isinstance(value.data, (int, float)) or isinstance(value.data, bool) or not 0 <= value.data <= 1:
            raise value.fails("a probability from 0 to 1")
        return float(value.data)

    def json(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "maximum": 1}


@dataclass(frozen=True, slots=True)
class Duration:
    """Nanoseconds. `signed` allows a minus; `unit` refuses a number without a unit (0 needs none)."""

    signed: bool = False
    unit: bool = True

    def read(self, value: Value) -> int:
        data = value.data
        try:
            if data in (0, "0") and not isinstance(data, bool):
                return 0
            if not isinstance(data, str):
                raise ValueError
            text = data.strip()
            if self.signed and text[:1] in "+-":
                return (-1 if text[0] == "-" else 1) * _duration_ns(text[1:])
            return _duration_ns(text)
        except (ValueError, TypeError):
            examples = "500us, 20ms, 5s, 1min, 24h" + (", -1h" if self.signed else "")
            missing = " (a duration needs its unit)" if isinstance(data, (int, float)) or _is_number(data) else ""
            raise value.fails(f"a duration such as {examples}{missing}") from None

    def json(self) -> dict[str, Any]:
        sign = "[+-]?" if self.signed else ""
        pattern = f"^{sign}[0-9.]+ *(ns|us|ms|s|m|min|h|d)$"
        return {"anyOf": [{"type": "string", "pattern": pattern}, {"const": 0}]}


def _duration_ns(text: str) -> int:
    if text.endswith("ns"):
        return int(text[:-2])
    if text.endswith("us"):
        return int(float(text[:-2]) * 1000)
    if _is_number(text):
        raise ValueError(text)
    return parse_duration_ms(text) * MS


def _is_number(data: Any) -> bool:
    return isinstance(data, str) and data.strip().replace(".", "", 1).isdigit()


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes."""

    def read(self, value: Value) -> int:
        try:
            if isinstance(value.data, bool):
                raise ValueError
            return parse_size(value.data)
        except (ValueError, TypeError, AttributeError):
            raise value.fails("a size such as 512B, 20KB, 1MB, 100GB") from None

    def json(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": "^[0-9.]+ *([KMGT]?B)$"}, {"type": "integer", "minimum": 0}]}


@dataclass(frozen=True, slots=True)
class Rate:
    """Transactions a second, from `5/s`, `30/min`, `100/h`."""

    def read(self, value: Value) -> float:
        count, slash, unit = str(value.data).replace(" ", "").partition("/")
        seconds = {"s": 1, "min": 60, "h": 3600}.get(unit)
        try:
            if not slash or seconds is None or float(count) <= 0:
                raise ValueError
            return float(count) / seconds
        except ValueError:
            raise value.fails("a rate with its unit, such as 5/s, 30/min, 100/h") from None

    def json(self) -> dict[str, Any]:
        return {"type": "string", "pattern": "^[0-9.]+ */ *(s|min|h)$"}


@dataclass(frozen=True, slots=True)
class OneOf:
    names: tuple[str, ...]

    def read(self, value: Value) -> str:
        if value.data not in self.names:
            raise value.fails(", ".join(self.names))
        return str(value.data)

    def json(self) -> dict[str, Any]:
        return {"enum": list(self.names)}


@dataclass(frozen=True, slots=True)
class RangeOf:
    """`[low, high]`, or one value for both ends."""

    kind: Kind

    def read(self, value: Value) -> Range:
        ends = value.data if isinstance(value.data, list) else [value, value]
        if len(ends) != 2:
            raise value.fails("one value, or [low, high]")
        low, high = (self.kind.read(Value(end.data, value.file, value.line, value.key)) for end in ends)
        if low > high:
            raise value.fails("[low, high] with low <= high")
        return low, high

    def json(self) -> dict[str, Any]:
        one = self.kind.json()
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 2, "maxItems": 2}]}


@dataclass(frozen=True, slots=True)
class ListOf:
    kind: Kind

    def read(self, value: Value) -> tuple[Any, ...]:
        if not isinstance(value.data, list):
            raise value.fails("a list")
        return tuple(self.kind.read(one) for one in value.data)

    def json(self) -> dict[str, Any]:
        return {"type": "array", "items": self.kind.json()}


# -- Maps


@dataclass(frozen=True, slots=True)
class MapOf:
    """Some of these names, each with a value of one kind, in the order of the names."""

    names: tuple[str, ...]
    kind: Kind

    def read(self, value: Value) -> dict[str, Any]:
        if not isinstance(value.data, dict):
            raise value.fails(f"a map from any of {', '.join(self.names)}")
        for name, one in value.data.items():
            if name not in self.names:
                raise one.error(f"unknown name; allowed: {', '.join(self.names)}")
        return {name: self.kind.read(value.data[name]) for name in self.names if name in value.data}

    def json(self) -> dict[str, Any]:
        one = self.kind.json()
        return {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(self.names, one)}


@dataclass(frozen=True, slots=True)
class NamesOf:
    """Any names, each with a value of one kind."""

    kind: Kind

    def read(self, value: Value) -> dict[str, Any]:
        if not isinstance(value.data, dict):
            raise value.fails("a map of names")
        return {name: self.kind.read(one) for name, one in value.data.items()}

    def json(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.kind.json()}


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section: the field that it fills, the kind of its value, and what it means."""

    field: str
    kind: Kind
    doc: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A map with these keys. An empty value counts as an empty map; `make` builds the result from the fields."""

    keys: Mapping[str, Key]
    make: Callable[..., Any] = dict

    def read(self, value: Value) -> Any:
        data = {} if value.data is None else value.data
        if not isinstance(data, dict):
            raise value.fails(f"a map from any of {', '.join(self.keys)}")
        found: dict[str, Any] = {}
        for name, one in data.items():
            key = self.keys.get(name)
            if key is None:
                raise one.error(f"unknown key; allowed: {', '.join(self.keys) or 'none'}")
            found[key.field] = key.kind.read(one)
        return self.make(**found)

    def json(self) -> dict[str, Any]:
        properties = {}
        for name, key in self.keys.items():
            properties[name] = {**key.kind.json(), **({"description": key.doc} if key.doc else {})}
        return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}
