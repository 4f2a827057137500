"""Splitting, templates and utility statements."""

import pytest

from thunderdb.base.errors import SqlError
from thunderdb.sql.parse import normalise, parse, split, template_sql
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
        (normalise(f"select {n}") or ("",))[0][-1] for n in (2147483647, 2147483648, 9223372036854775807, 9223372036854775808)
    ]
    assert classes == ["i", "l", "l", "n"]
    for sql in ("select E'a'", "select $1, 2", "select 1 -- x", "select /* */ 1", "select x'1f'"):
        assert normalise(sql) is None, sql
    quoted = normalise('select "a1" from t where b = 5')
    assert quoted is not None and quoted[1] == ["5"] and '"a1"' in quoted[0]


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
