"""What a store's URL and the environment say about how to reach it; and what its client's errors say, without secrets.

Pure functions, so that every rule has a test without a network. The variables are those of each store's own tools:

    s3://bucket/prefix      AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or AWS_DEFAULT_REGION,
                            AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL; without a key, the machine's or container's role
    gs://bucket/prefix      GOOGLE_APPLICATION_CREDENTIALS; STORAGE_EMULATOR_HOST; otherwise the machine's service account
    az://container/prefix   AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or
                            AZURE_STORAGE_SAS_TOKEN; AZURE_STORAGE_ENDPOINT; otherwise the machine's identity

O1. No value of a variable that holds a secret, and no query string, ever leaves `explain`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from thunderdb.base.errors import ConfigError, StorageError

SCHEMES = ("s3", "gs", "az")
REQUEST_BYTES = 4 << 20
"""What one of several requests asks for: with fewer, the way to the store and back would count for more than the bytes."""
PART_BYTES = 8 << 20
"""A part of an upload; S3 takes 10,000 of them, of at least 5 MB."""
_URL = re.compile(r"([a-z0-9]+)://([A-Za-z0-9][A-Za-z0-9._-]*)(?:/([^?#]*))?", re.ASCII)
_SECRET_NAMES = ("SECRET", "KEY", "TOKEN", "PASSWORD", "CONNECTION_STRING", "SAS")
_QUERY = re.compile(r"\?[^\s\"'<>]*")
_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
_XML = {name: re.compile(rf"<{name}>([^<]*)</{name}>") for name in ("Code", "Message")}
_KIND = re.compile(r"HttpError \{\s*kind: (\w+)")
_KINDS = {
    "Connect": "no connection",
    "Timeout": "no answer in time",
    "Interrupted": "the connection was lost",
    "Decode": "the body ended early",
    "Request": "the connection was lost",
}
_AZURITE_ACCOUNT = "devstoreaccount1"
# The one key that every Azure emulator has; it is part of its documentation.
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to open one store. `config` holds secrets and is left out of the repr."""

    scheme: str
    bucket: str
    prefix: str
    config: dict[str, str | bool] = field(repr=False)
    allow_http: bool = False


def parse_url(url: str) -> tuple[str, str, str]:
    """Return scheme, bucket (or container) and prefix without a slash at its end. Raises: ConfigError."""
    match = _URL.fullmatch(url)
    prefix = (match[3] or "").rstrip("/") if match else ""
    if match is None or match[1] not in SCHEMES or prefix and not is_key(prefix):
        raise ConfigError(
            f"{_QUERY.sub('', url)!r} is not the place of a store",
            "expected s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
        )
    return match[1], match[2], prefix


def is_key(key: str) -> bool:
    """Whether it may name an object: relative, and no part is empty, `.` or `..`."""
    return not any(part in ("", ".", "..") for part in key.split("/"))


def check_key(key: str) -> str:
    """Raises: StorageError."""
    if not is_key(key):
        raise StorageError(f"not the name of an object: {key!r}")
    return key


def store_options(url: str, env: Mapping[str, str]) -> StoreOptions:
    """Raises: ConfigError, naming the variable that is wrong, never its value."""
    scheme, bucket, prefix = parse_url(url)
    config = {"s3": _s3, "gs": _google, "az": _azure}[scheme](env)
    endpoint = str(config.get("endpoint") or config.get("base_url") or "")
    return StoreOptions(scheme, bucket, prefix, config, allow_http=endpoint.startswith("http://"))


def _s3(env: Mapping[str, str]) -> dict[str, str | bool]:
    config: dict[str, str | bool] = {"disable_bulk_delete": True}  # which not every compatible store has
    config["region"] = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if endpoint:
        config["endpoint"] = _endpoint(endpoint, "AWS_ENDPOINT_URL")
    key, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(secret):
        missing = "AWS_SECRET_ACCESS_KEY" if key else "AWS_ACCESS_KEY_ID"
        raise ConfigError(f"{missing} is not set, although the other half of the key is", "set both or none of them")
    if key and secret:
        config |= {"access_key_id": key, "secret_access_key": secret}
        if env.get("AWS_SESSION_TOKEN"):
            config["session_token"] = env["AWS_SESSION_TOKEN"]
    return config


def _google(env: Mapping[str, str]) -> dict[str, str | bool]:
    host = env.get("STORAGE_EMULATOR_HOST")
    if host:  # any token does; without one the client would ask the machine for its account
        host = host if "://" in host else f"http://{host}"
        return {"base_url": _endpoint(host, "STORAGE_EMULATOR_HOST"), "bearer_token": "emulator"}
    credentials = env.get("GOOGLE_APPLICATION_CREDENTIALS")
    return {"application_credentials": credentials} if credentials else {}


def _azure(env: Mapping[str, str]) -> dict[str, str | bool]:
    text = env.get("AZURE_STORAGE_CONNECTION_STRING")
    if text:
        return _azure_connection(text)
    config: dict[str, str | bool] = {}
    account = env.get("AZURE_STORAGE_ACCOUNT") or env.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise ConfigError("AZURE_STORAGE_ACCOUNT is not set", "set it, or AZURE_STORAGE_CONNECTION_STRING")
    config["account_name"] = account
    for option, names in (
        ("account_key", ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY")),
        ("sas_key", ("AZURE_STORAGE_SAS_TOKEN",)),
        ("endpoint", ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")),
    ):
        value = next((env[name] for name in names if env.get(name)), "")
        if value:
            config[option] = _endpoint(value, names[0]) if option == "endpoint" else value.removeprefix("?")
    return config


def _azure_connection(text: str) -> dict[str, str | bool]:
    fields = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    if fields.get("UseDevelopmentStorage", "").lower() == "true":
        fields = {"AccountName": _AZURITE_ACCOUNT, "AccountKey": _AZURITE_KEY} | fields
        fields.setdefault("BlobEndpoint", f"http://127.0.0.1:10000/{_AZURITE_ACCOUNT}")
    account = fields.get("AccountName", "")
    endpoint = fields.get("BlobEndpoint", "")
    if not endpoint and account and "EndpointSuffix" in fields:
        endpoint = f"{fields.get('DefaultEndpointsProtocol', 'https')}://{account}.blob.{fields['EndpointSuffix']}"
    if not account and endpoint:  # a connection string with a shared access signature names no account
        account = endpoint.partition("://")[2].partition(".")[0]
    if not account:
        raise ConfigError("AZURE_STORAGE_CONNECTION_STRING names no account", "copy it whole from the portal or from az")
    config: dict[str, str | bool] = {"account_name": account}
    if fields.get("AccountKey"):
        config["account_key"] = fields["AccountKey"]
    if fields.get("SharedAccessSignature"):
        config["sas_key"] = fields["SharedAccessSignature"].removeprefix("?")
    if endpoint:
        config["endpoint"] = _endpoint(endpoint, "AZURE_STORAGE_CONNECTION_STRING")
    return config


def _endpoint(value: str, variable: str) -> str:
    if not value.startswith(("http://", "https://")) or "@" in value:
        raise ConfigError(f"{variable} is not an http:// or https:// address", f"correct the environment variable {variable}")
    return value.rstrip("/")


def explain(text: str, env: Mapping[str, str]) -> str:
    """Say in a line why a request failed: the store's status, code and message, or what became of the connection (O1)."""
    said = text.partition("\n\nDebug source")[0]
    status = _STATUS.search(said)
    if status is not None:
        found = [match[1] for pattern in _XML.values() if (match := pattern.search(said))]
        detail = ": ".join(text.partition("RequestId:")[0].strip() for text in found)
        reason = f"{status[1].strip()}, {detail}" if detail else status[1].strip()
    else:
        kind = _KIND.search(text)
        reason = _KINDS.get(kind[1], "") if kind else ""
        reason = reason or said.splitlines()[0] if said else "unknown"
    return _scrub(" ".join(reason.split())[:400], env)


def _scrub(text: str, env: Mapping[str, str]) -> str:
    text = _QUERY.sub("?…", text)
    for name, value in sorted(env.items()):
        if len(value) >= 6 and name.startswith(("AWS_", "AZURE_", "GOOGLE_")) and any(part in name for part in _SECRET_NAMES):
            text = text.replace(value, "…")
    return text


def advice(text: str, scheme: str) -> str:
    """What to look at first, by the store's answer; empty where there is nothing to say."""
    status = _STATUS.search(text)
    variables = {
        "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS",
        "az": "AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY",
    }[scheme]
    if status is not None and status[1].startswith(("401", "403")):
        return f"check the credentials in the daemon's environment ({variables}) and what they allow"
    if "<Code>NoSuchBucket<" in text or "<Code>ContainerNotFound<" in text:
        return "create the bucket or container first, or correct the URL"
    return ""


def is_missing_bucket(text: str) -> bool:
    return any(f"<Code>{code}<" in text for code in ("NoSuchBucket", "ContainerNotFound"))
