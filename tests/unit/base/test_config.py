"""Configuration: every key has a default, a place and a clear error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderdb.base.config import Config, describe, env_name, parse, sample
from thunderdb.base.errors import ConfigError


def test_an_empty_file_is_valid_and_is_the_defaults() -> None:
    assert parse("") == Config()
    assert parse("[cluster]\n[security]\n") == Config()


def test_values_of_the_file_are_converted() -> None:
    config = parse(
        '[storage]\nbuffer_pool_size = "64MB"\ncheckpoint_interval = "30s"\nrecovery_target = "off"\nsync_commit = false\n'
    )
    assert (config.buffer_pool_size, config.checkpoint_interval, config.recovery_target, config.sync_commit) == (
        64 << 20,
        30_000,
        None,
        False,
    )


def test_flags_beat_the_environment_which_beats_the_file() -> None:
    text = "[network]\npg_port = 1\nhttp_port = 11\nmax_connections = 111\n"
    config = parse(
        text, {"THUNDERDB_PG_PORT": "2", "THUNDERDB_HTTP_PORT": "22", "PG_PORT": "9"}, {"pg_port": 3, "http_port": None}
    )
    assert (config.pg_port, config.http_port, config.max_connections) == (3, 22, 111)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[storage]\nbufer_pool_size = 1", ["storage.bufer_pool_size", "did you mean buffer_pool_size?"]),
        ("[storag]\n", ["[storag]", "did you mean storage?"]),
        ("[network]\npage_size = 1", ["page_size", "[storage]"]),
        ("pg_port = 1", ["pg_port", "[network]"]),
        ("nonsense = 1", ["nonsense"]),
        ("storage = 1", ["storage", "section"]),
        ('[storage]\nbuffer_pool_size = "128 parsecs"', ["buffer_pool_size", "128 parsecs", "MB"]),
        ('[storage]\nbuffer_pool_size = "1KB"', ["buffer_pool_size", "1KB", "1MB"]),
        ('[storage]\nbuffer_pool_size = "1MB"\npage_size = "32KB"', ["buffer_pool_size", "1MB", "2MB"]),
        ('[storage]\npage_size = "12KB"', ["page_size", "12KB", '"4KB", "8KB", "16KB", "32KB"']),
        ('[storage]\ncheckpoint_interval = "off"', ["checkpoint_interval", "off", "1s"]),
        ('[storage]\nrecovery_target = "soon"', ["recovery_target", "soon", '"off"']),
        ('[storage]\nmax_wal_size = "8MB"', ["wal_segment_size", "16MB", "8MB"]),
        ('[storage]\ndata_dir = "/x"\nwal_dir = "/x/"', ["wal_dir", "data_dir"]),
        ("[storage]\ndata_dir = 5", ["data_dir", "5"]),
        ("[network]\npg_port = 65536", ["pg_port", "65536", "65535"]),
        ('[network]\npg_port = "psql"', ["pg_port", "psql"]),
        ("[network]\npg_port = true", ["pg_port", "True"]),
        ("[network]\npg_port = 8088", ["http_port", "8088", "pg_port"]),
        ('[network]\nlisten_addr = "0.0.0.0"', ["listen_addr", "0.0.0.0", "authentication"]),
        ('[network]\nlisten_addr = "1.2.3"', ["listen_addr", "1.2.3", "address"]),
        ('[network]\nhttp_listen_addr = "::"', ["http_listen_addr", "authentication"]),
        ('[node]\nnode_id = "a b"', ["node_id", "a b"]),
        ('[logging]\nlevel = "loud"', ["level", "loud", "debug, info, warning, error"]),
        ('[storage]\nsync_commit = "maybe"', ["sync_commit", "maybe", "true or false"]),
        ("[storage", ["TOML"]),
    ],
)
def test_every_mistake_names_key_value_and_what_is_allowed(text: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, source="test.toml")
    said = f"{caught.value.message} {caught.value.hint}"
    assert [part for part in named if part not in said] == [], said
    assert caught.value.exit_code == 2


def test_mistakes_in_the_environment_name_the_variable() -> None:
    with pytest.raises(ConfigError, match="THUNDERDB_PAGE_SIZE"):
        parse("", {"THUNDERDB_PAGE_SIZE": "3KB"})


def test_a_slip_in_a_variables_name_is_an_error_but_other_peoples_variables_are_not() -> None:
    with pytest.raises(ConfigError, match="THUNDERDB_PGPORT") as caught:
        parse("", {"THUNDERDB_PGPORT": "1"})
    assert "THUNDERDB_PG_PORT" in caught.value.hint
    others = {"THUNDERDB_PORT": "tcp://10.0.0.1:5432", "THUNDERDB_PORT_5432_TCP": "x", "THUNDERDB_SERVICE_HOST": "x"}
    assert parse("", others | {"THUNDERDB_CONFIG": "/x"}) == Config()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_authentication(address: str) -> None:
    assert parse("", {}, {"listen_addr": address}).listen_addr == address


def test_every_key_is_described_and_its_printed_default_parses_back() -> None:
    rows = describe()
    assert [row.name for row in rows] == list(Config.__dataclass_fields__)
    for row in rows:
        assert row.doc.endswith(".") and row.allowed
        assert parse(f"[{row.section}]\n{row.name} = {row.default}\n") == Config(), row
        assert row.env == env_name(row.name)


def test_the_sample_names_every_key_and_is_valid_with_and_without_its_comments() -> None:
    text = sample()
    assert parse(text) == Config()
    uncommented = "\n".join(line[2:] if line.startswith("# ") and " = " in line else line for line in text.splitlines())
    assert parse(uncommented) == Config()


@given(st.sampled_from(list(Config.__dataclass_fields__)), st.text(max_size=12))
def test_any_text_is_a_value_or_a_config_error(name: str, text: str) -> None:
    try:
        parse("", {env_name(name): text})
    except ConfigError:
        pass
