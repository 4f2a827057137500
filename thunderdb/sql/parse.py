"""From query text to syntax trees: splitting, templates, parsing, and syntax errors with their position.

A statement's *template* is its text with the literals taken out, so that `WHERE aid = 17` and `WHERE aid = 18` share a plan.
One regular expression finds the literals; what stands before and between them, plus each literal's class, is the key:

    class   literal             type
    i       below 2^31          int4
    l       below 2^63          int8
    n       other numbers       numeric
    s       'text'              unknown, resolved by where it stands

T1. A template is only ever a shortcut: a statement whose meaning depends on a literal (LIMIT is fine, a type's length is not)
    is planned from its own text.
T2. Literals become the parameters $1001, $1002 …; a statement's own parameters keep their numbers.
T3. Nobody changes a tree that `parse` gave: the next to parse the same text gets the same one.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from thunderdb.base.errors import LimitExceeded, SqlError
from thunderdb.sql import types

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # what it cannot read is an error of ours, not a log line

LITERAL_BASE = 1000
MAX_TEMPLATE_BYTES = 16 << 10
_MAX_KEPT_TEXT = 1000

# Strings, quoted identifiers, dollars, comments, numbers; the first character tells which. Each alternative begins with a plain
# character, so that the regular expression engine skips quickly to the next candidate; look-behinds keep digits out of names.
_LITERAL = re.compile(
    r"""('(?:[^']+|'')*'|"(?:[^"]+|"")*"|\$|--|/\*"""
    r"""|(?:\d(?<!\w\d)\d*(?:\.\d*)?|\.\d(?<!\w\.\d)\d*)(?:[eE][+-]?\d+)?(?!\w))"""
)
_PREFIXED = re.compile(r"(?:\b[eEbBxXnN]|[uU]&)$")
_STRING_PREFIXES = frozenset("eEbBxXnN&")
_SPLIT = re.compile(
    r"""(?P<skip>\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\$\$.*?\$\$|\$(?P<tag>[A-Za-z_]\w*)\$.*?\$(?P=tag)\$
        |/\*)|(?P<end>;)|(?P<bad>['"])""",
    re.VERBOSE | re.DOTALL,
)
_PARAM = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*)|\$(\d+)(?=[^\s\d])""")
_BLANK = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_WORD_OR_POINT = re.compile(r"[\w.]")
_LEAST = frozenset(("2147483648", "9223372036854775808"))
"""Behind a minus sign these are of the type below that of their class."""
_DIGIT_START = frozenset(".0123456789")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a query string. `offset` is where it starts in it, in characters."""

    text: str
    offset: int = 0


def split(sql: str) -> list[Statement]:
    """Cut a query string at its semicolons; empty statements are dropped. Raises: SqlError 42601 for an open string."""
    if ";" not in sql:
        return [Statement(sql)] if _skip_blank(sql, 0, len(sql)) < len(sql) else []
    first = sql.index(";")
    if "'" not in sql and "$$" not in sql and '"' not in sql and "/*" not in sql and "--" not in sql and first == len(sql) - 1:
        return [Statement(sql[:-1])] if sql[:-1].strip() else []
    pieces, start = [], 0
    for end in [*_semicolons(sql), len(sql)]:
        begin = _skip_blank(sql, start, end)
        if begin < end:
            pieces.append(Statement(sql[begin:end], begin))
        start = end + 1
    return pieces


def _skip_blank(sql: str, at: int, end: int) -> int:
    """The first character from `at` on that is neither blank nor comment, at most `end`."""
    while at < end:
        if sql[at].isspace():
            at += 1
        elif sql.startswith("--", at):
            line_end = sql.find("\n", at)
            at = end if line_end < 0 else line_end + 1
        elif sql.startswith("/*", at):
            at = _comment_end(sql, at)
        else:
            return at
    return end


def _semicolons(sql: str) -> list[int]:
    found: list[int] = []
    at = 0
    while True:
        match = _SPLIT.search(sql, at)
        if match is None:
            return found
        at = match.end()
        if match["end"]:
            found.append(match.start())
        elif match["bad"]:
            kind = "quoted string" if match["bad"] == "'" else "quoted identifier"
            near = sql[match.start() :]
            raise SqlError("42601", f'unterminated {kind} at or near "{near}"', position=match.start() + 1)
        elif match[0] == "/*":
            at = _comment_end(sql, match.start())


def _comment_end(sql: str, at: int) -> int:
    """Comments nest in PostgreSQL."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(sql, at):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    raise SqlError("42601", f'unterminated /* comment at or near "{sql[at:]}"', position=at + 1)


def normalise(sql: str) -> tuple[str, list[str]] | None:
    """(template key, literals as written) of a statement, or None where only its exact text will do (T1)."""
    if len(sql) > MAX_TEMPLATE_BYTES:
        return None
    pieces = _LITERAL.split(sql)
    count = len(pieces)
    if count == 1:
        return None
    literals = pieces[1::2]
    for i, literal in enumerate(literals):
        first = literal[0]
        if first == "'":
            if pieces[2 * i][-1:] in _STRING_PREFIXES and _PREFIXED.search(pieces[2 * i]):
                return None
            pieces[2 * i + 1] = "\0s"
        elif first in _DIGIT_START:
            size = len(literal)
            if literal.isdigit():
                if size >= 10 and literal in _LEAST:
                    return None
                pieces[2 * i + 1] = "\0i" if size < 10 else _wide_class(literal)
            else:
                pieces[2 * i + 1] = "\0n"
        elif first == '"':
            continue
        else:
            return None
    if '"' in sql:
        literals = [literal for literal in literals if literal[0] != '"']
    return "".join(pieces), literals


def matcher(key: str) -> Callable[[str], re.Match[str] | None] | None:
    """A function that matches only statements whose template is `key`, with their literals as groups, if that is easy to tell.

    It is where all literals are of class `i` (written with at most nine digits) and stand free: then what `normalise` takes for
    a literal depends on nothing but the characters around it, which are the template's.
    """
    pieces = key.split("\0")
    texts = [pieces[0], *(piece[1:] for piece in pieces[1:])]
    if '"' in key or len(pieces) == 1 or any(piece[0] != "i" for piece in pieces[1:]):
        return None
    if any(_WORD_OR_POINT.match(text) for text in texts[1:]):
        return None
    return re.compile("([0-9]{1,9})".join(map(re.escape, texts))).fullmatch


def _wide_class(digits: str) -> str:
    """The class of a number of ten digits or more: its value decides, as in PostgreSQL."""
    size = len(digits)
    if size == 10 and digits <= "2147483647":
        return "\0i"
    return "\0l" if size < 19 or (size == 19 and digits <= "9223372036854775807") else "\0n"


def literal_text(literal: str) -> str:
    """A literal's text: a string without its quotes, a number as it is."""
    return literal[1:-1].replace("''", "'") if literal[0] == "'" else literal


def template_sql(key: str) -> tuple[str, str]:
    """(SQL with literals as parameters, the class of each)."""
    pieces = key.split("\0")
    out, classes = [pieces[0]], []
    for number, piece in enumerate(pieces[1:], 1):
        classes.append(piece[0])
        out.append(f" ${LITERAL_BASE + number} {piece[1:]}")
    return "".join(out), "".join(classes)


def parse(sql: str, offset: int = 0) -> exp.Expression:
    """One statement's tree (sqlglot's, PostgreSQL dialect), read-only: who changes one takes a copy (T3).

    Raises: SqlError 42601 with position (plus `offset`).
    """
    text, inserted = _spaced_params(sql)
    try:
        trees = _parsed(text)
    except ParseError as error:
        word = _FIRST_WORD.match(text)
        if word is not None and word[1].lower() in _UNSUPPORTED:
            raise SqlError("0A000", f"{word[1].upper()} is not supported") from None
        if word is not None and word[1].lower() not in _FIRST_WORDS:
            raise _near(word[1], offset + word.start(1)) from None
        raise _syntax_error(error, text, inserted, offset) from None
    except TokenError:
        raise _token_error(sql, offset) from None
    except RecursionError:
        raise SqlError("54001", "stack depth limit exceeded") from None
    if len(trees) != 1 or trees[0] is None:
        raise SqlError("42601", "cannot insert multiple commands into a prepared statement")
    tree = trees[0]
    if isinstance(tree, exp.Command):
        raise _command_error(tree, sql, offset)
    if not isinstance(tree, _STATEMENTS):  # sqlglot takes a bare expression or name for a statement
        word = _FIRST_WORD.match(sql)
        if word is not None and word[1].lower() in _UNSUPPORTED:
            raise SqlError("0A000", f"{word[1].upper()} is not supported")
        raise _near(word[1] if word else sql, offset + (word.start(1) if word else 0))
    return tree


def _parsed(text: str) -> list[exp.Expression | None]:
    """sqlglot's trees. A text is mostly parsed again because its table has changed, or in the simulator for another database;
    a copy would cost nearly as much as parsing does."""
    return sqlglot.parse(text, dialect="postgres") if len(text) > _MAX_KEPT_TEXT else _kept(text)


@functools.lru_cache(256)
def _kept(text: str) -> list[exp.Expression | None]:
    return sqlglot.parse(text, dialect="postgres")


def _near(text: str, at: int) -> SqlError:
    return SqlError("42601", f'syntax error at or near "{text}"', position=at + 1)


_FIRST_WORD = re.compile(_BLANK.pattern + r"(\w+|\S)", re.DOTALL)
_UNSUPPORTED = frozenset("grant revoke do call import refresh security reassign load merge".split())
_FIRST_WORDS = frozenset("select insert update delete with values table create alter drop truncate comment merge (".split())


_STATEMENTS = (exp.Query, exp.DML, exp.Create, exp.Drop, exp.Alter, exp.TruncateTable, exp.Values, exp.Comment)


def parse_expression(sql: str) -> exp.Expression:
    """A stored expression (a default, a check). Raises: SqlError 42601."""
    tree = parse(f"SELECT {sql}")
    found: exp.Expression = tree.expressions[0]
    return found


def _spaced_params(sql: str) -> tuple[str, list[int]]:
    """`$1,$2` would be read as the start of a dollar-quoted string: put a blank behind each parameter."""
    if "$" not in sql:
        return sql, []
    inserted: list[int] = []

    def spaced(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        inserted.append(match.end())
        return match[0] + " "

    return _PARAM.sub(spaced, sql), inserted


def _syntax_error(error: ParseError, text: str, inserted: list[int], offset: int) -> SqlError:
    info = error.errors[0]
    near = info.get("highlight") or ""
    start = len(info.get("start_context") or "")
    context = (info.get("start_context") or "") + near
    at = text.rfind(context) if context else -1
    line, column = info.get("line") or 1, info.get("col") or 1
    line_start = sum(len(part) + 1 for part in text.split("\n")[: line - 1])
    at = at + start if at >= 0 and line == 1 and at + start + len(near) == column else line_start + column - len(near)
    at = max(0, min(at, len(text)))
    rest = _BLANK.match(text, at + len(near))
    if rest is not None and rest.end() >= len(text) and _wants_more(info.get("description") or "", near):
        return SqlError("42601", "syntax error at end of input", position=offset + len(text) - len(inserted) + 1)
    at -= sum(1 for position in inserted if position < at)
    return SqlError("42601", f'syntax error at or near "{near}"', position=offset + at + 1)


def _wants_more(description: str, near: str) -> bool:
    return description.startswith(("Expected", "Expecting", "Required keyword")) and near != ")"


def _token_error(sql: str, offset: int) -> SqlError:
    try:
        _semicolons(sql)
    except SqlError as error:
        if error.position:
            return SqlError("42601", error.message, position=offset + error.position)
        return error
    return SqlError("42601", "syntax error", position=offset + 1)


_COMMAND_WORDS = frozenset(
    "create alter drop grant revoke comment lock declare fetch move close listen notify unlisten reindex cluster do call "
    "import refresh security reassign load".split()
)


def _command_error(tree: exp.Command, sql: str, offset: int) -> SqlError:
    """sqlglot hands back what it cannot read as an opaque command: either not ours, or not SQL."""
    word = str(tree.this).lower()
    at = sql.lower().find(word)
    if word in _COMMAND_WORDS:
        following = re.compile(r"\s*(\S+)").match(sql, at + len(word))
        known = "table index sequence view schema function type role user database extension unique materialized policy trigger"
        if word in ("create", "alter", "drop") and following is not None and following[1].lower() not in known.split():
            return SqlError("42601", f'syntax error at or near "{following[1]}"', position=offset + following.start(1) + 1)
        return SqlError("0A000", f"this form of {word.upper()} is not supported")
    return SqlError("42601", f'syntax error at or near "{sql[at : at + len(word)]}"', position=offset + at + 1)


def ident(node: object) -> str:
    """An identifier as PostgreSQL folds it: lower case unless quoted. "" for no node."""
    if node is None or node == "":
        return ""
    if isinstance(node, exp.Identifier):
        name: str = node.this if node.args.get("quoted") else node.this.lower()
        return name
    if isinstance(node, exp.Expression):
        return ident(node.args.get("this"))
    return str(node).lower()


def is_single(node: exp.DataType, numbers: Sequence[int]) -> bool:
    """Whether a floating-point type is `real`: sqlglot calls that FLOAT, and PostgreSQL's float and float(n) DOUBLE."""
    return node.this == exp.DataType.Type.FLOAT or bool(numbers and numbers[0] < 25)


def type_of(node: exp.DataType) -> tuple[str, int, bool]:
    """(our name, typmod, is it a serial) of a written type. Raises: SqlError 42704."""
    if str(getattr(node.this, "value", node.this)).upper() == "ARRAY" and node.expressions:
        name, _, _ = type_of(node.expressions[0])
        return name + "[]", -1, False
    written = node.args.get("kind") or getattr(node.this, "value", node.this)
    if isinstance(written, exp.Dot) and ident(written.this) == "pg_catalog":
        written = written.expression
    name = str(getattr(written, "this", written)).lower()
    if name in types.TYPES and name not in ("char", "unknown"):
        found = name
    elif name in types.ALIASES:
        found = types.ALIASES[name]
    else:
        raise SqlError("42704", f'type "{name}" does not exist')
    numbers = []
    for parameter in node.expressions:
        if isinstance(parameter.this, exp.Parameter):  # T1
            raise SqlError("42601", "type modifiers must be simple constants or identifiers")
        text = parameter.this.this if isinstance(parameter.this, exp.Expression) else str(parameter.this)
        if str(text).isdigit():
            numbers.append(int(text))
    if name in ("char", "nchar", "character") and not numbers:
        return "bpchar", 5, False
    if found == "float8" and is_single(node, numbers):
        return "float4", -1, False
    typmod = types.make_typmod(found, numbers) if numbers else -1
    return found, typmod, name.endswith("serial") or name in ("serial2", "serial4", "serial8")


def check_size(sql: str, limit: int) -> None:
    if len(sql) > limit:
        raise LimitExceeded(f"a statement of {len(sql)} characters is longer than the limit of {limit}")
