"""Functions that DuckDB has under PostgreSQL's name with another meaning: rewritten to what PostgreSQL means, or refused.

    substring(s, start, length)   a start below 1 counts back from the end there; here it is before the beginning
    s SIMILAR TO p                p is a regular expression there; here % and _ are wildcards
    to_hex(n)                     upper case there
    encode(b, 'hex')              b is text and the answer bytes there
    format(f, …)                  f has {} there; here %s and %I, written in the statement itself
    upper(s)                      'ẞ' of 'ß' there, which stays as it is here
    other formats, decode, regexp_matches, other encodings: 0A000, for what DuckDB would answer is something else
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlglot import exp

from thunderdb.base.errors import SqlError
from thunderdb.sql.analytic_types import SqlType

TypeOf = Callable[[exp.Expression], SqlType | None]
_PLAIN = frozenset("|*+?{}()[]")
"""What means the same in SIMILAR TO and in a regular expression."""
_NOBODYS = "\ufdd0"
"""A code point that is never a character."""


def same_meaning(node: exp.Expression, type_of: TypeOf) -> exp.Expression | None:
    """What DuckDB is to compute instead of a node of one of the kinds in NODES; None: the node itself. Raises: SqlError."""
    if isinstance(node, exp.Substring):
        return _substring(node)
    if isinstance(node, exp.SimilarTo):
        return _similar(node)
    if isinstance(node, exp.Hex):
        return exp.Lower(this=node.copy())
    if isinstance(node, exp.Upper):
        return _upper(node)
    if isinstance(node, exp.Format):
        return _format(node)
    if isinstance(node, exp.Encode):
        kind = type_of(node.this)
        if kind is not None and kind.name == "bytea" and str(node.args["charset"].name).lower() == "hex":
            return exp.Lower(this=exp.Hex(this=node.this.copy()))
    raise _unsupported(str(node.key))


def refuse_function(name: str) -> None:
    """Raises: SqlError for a function of which DuckDB has another idea."""
    if name == "regexp_matches":
        raise _unsupported(name)


def _unsupported(name: str) -> SqlError:
    return SqlError("0A000", f"function {name} is not supported in this query")


def _substring(node: exp.Substring) -> exp.Expression | None:
    start, length = node.args.get("start"), node.args.get("length")
    if start is None or (isinstance(start, exp.Literal) and not _is_number(start)):
        return None
    if length is not None and isinstance(length, exp.Neg):
        raise SqlError("22011", "negative substring length not allowed")
    if _is_number(start) and int(start.name) >= 1:
        return None
    before = exp.LT(this=start.copy(), expression=exp.Literal.number(1))
    first = exp.Case(ifs=[exp.If(this=before, true=exp.Literal.number(1))], default=start.copy())
    found = exp.Substring(this=node.this.copy(), start=first)
    if length is not None:
        end = exp.Add(this=_alone(length), expression=_alone(start))
        left = exp.Paren(this=exp.Sub(this=end, expression=exp.Literal.number(1)))
        none = exp.If(this=exp.LT(this=left.copy(), expression=exp.Literal.number(0)), true=exp.Literal.number(0))
        cut = exp.Case(ifs=[none], default=left)
        found.set("length", exp.Case(ifs=[exp.If(this=before.copy(), true=cut)], default=length.copy()))
    return found


def _upper(node: exp.Upper) -> exp.Expression | None:
    if node.meta.get("same"):
        return None
    hidden = _call("replace", node.this.copy(), exp.Literal.string("ß"), exp.Literal.string(_NOBODYS))
    upper = exp.Upper(this=hidden)
    upper.meta["same"] = True
    return _call("replace", upper, exp.Literal.string(_NOBODYS), exp.Literal.string("ß"))


def _format(node: exp.Format) -> exp.Expression:
    """A concatenation: NULL is nothing for %s, and not allowed for %I."""
    pattern, arguments = node.this, list(node.expressions)
    if not (isinstance(pattern, exp.Literal) and pattern.is_string):
        raise _unsupported("format")
    parts: list[exp.Expression] = [exp.Literal.string("")]
    for piece in re.split(r"(%.?)", pattern.name):
        if piece in ("%s", "%I"):
            if not arguments:
                raise SqlError("22023", "too few arguments for format()")
            value = arguments.pop(0).copy()
            text = exp.Cast(this=value, to=exp.DataType.build("text"))
            parts.append(_quoted(text) if piece == "%I" else text)
        elif piece.startswith("%") and piece != "%%":
            raise _unsupported("format")
        else:
            parts.append(exp.Literal.string("%" if piece == "%%" else piece))
    return _call("concat", *parts)


def _quoted(text: exp.Expression) -> exp.Expression:
    plain = exp.If(this=_call("regexp_matches", text, exp.Literal.string("^[a-z_][a-z0-9_$]*$")), true=text.copy())
    doubled = _call("replace", text.copy(), exp.Literal.string('"'), exp.Literal.string('""'))
    return exp.Case(ifs=[plain], default=_call("concat", exp.Literal.string('"'), doubled, exp.Literal.string('"')))


def _call(name: str, *arguments: exp.Expression) -> exp.Expression:
    return exp.Anonymous(this=name, expressions=list(arguments))


def _is_number(node: exp.Expression) -> bool:
    return isinstance(node, exp.Literal) and not node.is_string and node.name.isdigit()


def _alone(node: exp.Expression) -> exp.Paren:
    return exp.Paren(this=node.copy())


def _similar(node: exp.SimilarTo) -> exp.Expression:
    pattern = node.args["expression"]
    if not (isinstance(pattern, exp.Literal) and pattern.is_string):
        raise _unsupported("SIMILAR TO with a pattern that is not a constant")
    return exp.RegexpLike(this=node.this.copy(), expression=exp.Literal.string(f"^(?s:{_expression(pattern.name)})$"))


def _expression(pattern: str) -> str:
    """The regular expression that a pattern of SIMILAR TO is."""
    out: list[str] = []
    at, in_brackets = 0, False
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            out.append("\\" + pattern[at] if not pattern[at].isalnum() else pattern[at])
        elif in_brackets:
            in_brackets = char != "]"
            out.append(char)
        elif char == "[":
            in_brackets = True
            out.append(char)
        elif char in "%_":
            out.append(".*" if char == "%" else ".")
        elif char in _PLAIN or char.isalnum() or char.isspace():
            out.append(char)
        else:
            out.append("\\" + char if char.isascii() else char)
        at += 1
    return "".join(out)


NODES: tuple[type[exp.Expression], ...] = (exp.Substring, exp.SimilarTo, exp.Hex, exp.Encode, exp.Decode, exp.Format, exp.Upper)
