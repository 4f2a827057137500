"""Splitting, templates and utility statements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderdb.base.errors import SqlError
from thunderdb.sql.parse import matcher, normalise, parse, split, template_sql
from thunderdb.sql.utility import parse_utility


def test_split_knows_strings_comments_and_dollars() -> None:
    sql = "select ';', $$;$$, \"a;b\" -- ;\n; /* ; /* ; */ */ select $x$;$$;$x$; ;"
    assert [s.text.strip() for s in split(sql)] == ["select ';', $$;$$, \"a;b\" -- ;", "select $x$;$$;$x$"]
    assert split(" -- nothing") == [] and split(";;") == []
    assert [s.offset for s in split("a;  b")] == [0, 4]


def test_templates_take_literals_out() -> None:
    key, literals = normalise("select a1, t.b2 from t where c = 12 and d = 'it''s' and e = 1.5e3 and f > -7") or ("", [])
    assert literals == ["12", "'it''s'", "1.5e3", "7"]
    assert template_sql(key)[1] == "isni"
    assert normalise("select 1") == ("select \0i", ["1"])
    assert (normalise("select 12345678901") or ("",))[0] == "select \0l"
    classes = [
        (normalise(f"select {n}") or ("",))[0][-1] for n in (2147483647, 2147483649, 9223372036854775807, 9223372036854775809)
    ]
    assert classes == ["i", "l", "l", "n"]
    # int4's and int8's least, which a class cannot say
    for sql in ("select -2147483648", "select -9223372036854775808"):
        assert normalise(sql) is None, sql
    for sql in ("select E'a'", "select $1, 2", "select 1 -- x", "select /* */ 1", "select x'1f'"):
        assert normalise(sql) is None, sql
    quoted = normalise('select "a1" from t where b = 5')
    assert quoted is not None and quoted[1] == ["5"] and '"a1"' in quoted[0]


PIECES = ("a", "a1", "1", "23", "0", "1234567890", "1.5", ".", "'", "''", '"', "$", "-", "--", " ", "(", ",", "e5")
LITERALS = ("7", "0042", "999999999", "1234567890", "1e3", "1.", "-3", "x", "'1'", "", "$1", "٣")


@given(st.lists(st.sampled_from(PIECES)), st.lists(st.sampled_from(LITERALS)))
def test_a_matcher_takes_only_statements_of_its_template(pieces: list[str], others: list[str]) -> None:
    found = normalise("".join(pieces))
    match = matcher(found[0]) if found is not None else None
    if found is None or match is None:
        return
    parts = found[0].split("\0")
    rest = [others[number] if number < len(others) else "5" for number in range(len(parts) - 1)]
    for values in (found[1], rest):
        sql = parts[0] + "".join(value + part[1:] for value, part in zip(values, parts[1:], strict=True))
        taken = match(sql)
        if taken is not None:
            assert normalise(sql) == (found[0], list(taken.groups())), sql
        assert taken is not None or values is rest or any(len(literal) > 9 for literal in values)


def test_adjacent_parameters_are_not_a_dollar_quote() -> None:
    assert "VALUES ($1, $2, $3)" in parse("insert into t values ($1,$2,$3)").sql("postgres")


@pytest.mark.parametrize(
    ("sql", "kind", "values"),
    [
        ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "begin",
         {"modes": {"isolation": "repeatable read", "read_only": True}}),
        ("START TRANSACTION", "begin", {"modes": {}}),
        ("END;", "commit", {"chain": False}),
        ("rollback work to savepoint \"A b\"", "rollback_to", {"name": "A b"}),
        ("set search_path to a, public", "set", {"name": "search_path", "value": "a, public", "local": False}),
        ("truncate table a, public.b restart identity cascade", "truncate",
         {"tables": [("", "a"), ("public", "b")], "restart": True}),
        ("vacuum (verbose, analyze) t", "vacuum", {"tables": [("", "t")]}),
        ("explain (costs off, analyze) select 1", "explain", {"text": "select 1", "analyze": True}),
        ("prepare p (int, character varying) as select $1", "prepare",
         {"name": "p", "types": ["int", "character varying"], "text": "select $1"}),
    ],
)  # fmt: skip
def test_utilities(sql: str, kind: str, values: dict[str, object]) -> None:
    found = parse_utility(sql)
    assert (found.kind, found.values) == (kind, values)


@pytest.mark.parametrize("sql", ["begin nonsense", "set", "savepoint", "commit 1", "truncate", "release"])
def test_bad_utilities(sql: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse_utility(sql)
    assert caught.value.sqlstate == "42601" and caught.value.position > 0
