"""How a store is reached, by its URL and the environment; and that no error shows a secret."""

from __future__ import annotations

import pytest

from thunderdb.base.errors import ConfigError, StorageError
from thunderdb.runtime.store_options import advice, check_key, explain, parse_url, store_options

FORBIDDEN = """The operation lacked valid authentication credentials for path p/x: Error performing PUT \
https://acc.blob.core.windows.net/c/p/x?sv=1&sig=SIGNATURE in 3ms - Server returned non-2xx status code: 403 Forbidden: <?xml?>
<Error><Code>SignatureDoesNotMatch</Code><Message>The signature we calculated does not match; hunter2hunter2</Message>
<StringToSign>SIGNED</StringToSign></Error>

Debug source:
RetryErrorImpl { uri: https://x/?sig=SIGNATURE }"""
LOST = """Generic S3 error: Error performing GET http://127.0.0.1:1/b/x in 4ms - HTTP error: error sending request

Debug source:
Generic { inner: Http(
    HttpError {
        kind: Connect,
"""


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://my-bucket", ("s3", "my-bucket", "")),
        ("s3://my-bucket/", ("s3", "my-bucket", "")),
        ("gs://b.example/wal/", ("gs", "b.example", "wal")),
        ("az://box/a/b", ("az", "box", "a/b")),
    ],
)
def test_places(url: str, parts: tuple[str, str, str]) -> None:
    assert parse_url(url) == parts


@pytest.mark.parametrize(
    "url", ["ftp://b/x", "s3://", "s3:///x", "s3://b/../x", "s3://b//x", "s3://b/x?sig=hunter2", "s3://a@b/x"]
)
def test_what_is_no_place_is_said(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the place of a store") as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value.args)


@pytest.mark.parametrize("key", ["", "/x", "x/", "../x", "a/../b", "a//b", "."])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(StorageError, match="not the name of an object"):
        check_key(key)


def test_s3_from_the_environment() -> None:
    env = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-1"}
    options = store_options("s3://b/p", env)
    assert options.config == {
        "disable_bulk_delete": True,
        "region": "eu-west-1",
        "access_key_id": "id",
        "secret_access_key": "hunter2",
        "session_token": "t",
    }
    assert not options.allow_http and "hunter2" not in repr(options)
    options = store_options("s3://b/p", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000/", "AWS_DEFAULT_REGION": "x"})
    assert options.allow_http and options.config["endpoint"] == "http://127.0.0.1:9000" and options.config["region"] == "x"
    both = {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "https://b"}
    assert store_options("s3://b/p", both).config["endpoint"] == "https://b"


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"AWS_ACCESS_KEY_ID": "id"}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "hunter2"}, "AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://user:hunter2@host"}, "AWS_ENDPOINT_URL"),
    ],
)
def test_a_wrong_environment_is_named_without_its_value(env: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        store_options("s3://b", env)
    assert "hunter2" not in str(caught.value.args)


def test_azure_from_the_environment() -> None:
    assert store_options("az://c", {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_KEY": "k"}).config == {
        "account_name": "acc",
        "account_key": "k",
    }
    sas = {"AZURE_STORAGE_ACCOUNT": "acc", "AZURE_STORAGE_SAS_TOKEN": "?sv=1&sig=2"}
    assert store_options("az://c", sas).config == {"account_name": "acc", "sas_key": "sv=1&sig=2"}
    text = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5==;EndpointSuffix=core.windows.net"
    assert store_options("az://c", {"AZURE_STORAGE_CONNECTION_STRING": text}).config == {
        "account_name": "acc",
        "account_key": "a2V5==",
        "endpoint": "https://acc.blob.core.windows.net",
    }
    text = "BlobEndpoint=https://acc.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=2"
    assert store_options("az://c", {"AZURE_STORAGE_CONNECTION_STRING": text}).config == {
        "account_name": "acc",
        "sas_key": "sv=1&sig=2",
        "endpoint": "https://acc.blob.core.windows.net",
    }
    emulator = store_options("az://c", {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"})
    assert emulator.allow_http and emulator.config["endpoint"] == "http://127.0.0.1:10000/devstoreaccount1"
    for env in ({}, {"AZURE_STORAGE_CONNECTION_STRING": "hunter2"}):
        with pytest.raises(ConfigError, match="AZURE_STORAGE") as caught:
            store_options("az://c", env)
        assert "hunter2" not in str(caught.value.args)


def test_google_from_the_environment() -> None:
    assert store_options("gs://b", {}).config == {}
    assert store_options("gs://b", {"GOOGLE_APPLICATION_CREDENTIALS": "/k.json"}).config == {
        "application_credentials": "/k.json"
    }
    for host in ("127.0.0.1:4443", "http://127.0.0.1:4443"):
        options = store_options("gs://b", {"STORAGE_EMULATOR_HOST": host})
        assert options.config == {"base_url": "http://127.0.0.1:4443", "bearer_token": "emulator"} and options.allow_http


def test_an_answer_is_explained_in_a_line_without_secrets() -> None:
    said = explain(FORBIDDEN, {"AWS_SECRET_ACCESS_KEY": "hunter2hunter2", "HOME": "signature"})
    assert said == "403 Forbidden, SignatureDoesNotMatch: The signature we calculated does not match; …"
    assert "credentials" in advice(FORBIDDEN, "s3") and "AWS_SECRET_ACCESS_KEY" in advice(FORBIDDEN, "s3")
    assert explain(LOST, {}) == "no connection" and advice(LOST, "gs") == ""
    assert explain("odd: GET https://a/b?sig=SIGNATURE failed", {}) == "odd: GET https://a/b?… failed"
    assert explain("", {}) == "unknown"
