"""The real clients behind a network that misbehaves: a fault that passes is not noticed, one that stays has a name, and
neither loses or invents a byte."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest

from thunderdb.base.errors import StorageError
from thunderdb.runtime.ports import ObjectStore
from thunderdb.runtime.real_ports import run_real
from thunderdb.runtime.real_store import RealStores, StoreLimits
from tools.harness.emulators import BUCKET, SECRET, Emulator
from tools.harness.faulty_proxy import FaultyProxy

KINDS = ("s3", "az", "gs")
IMPATIENT = StoreLimits(
    connect_s=2, read_timeout_s=0.5, request_s=10, retry_s=4, retries=4, first_pause_s=0.01, longest_pause_s=0.05
)
LARGE = b"".join(number.to_bytes(4, "big") for number in range((9 << 20) // 4))  # two parts of an upload
_prefixes = itertools.count(1)


class Behind:
    """A store behind the proxy. `run(body)` drives `body(store)` with impatient limits."""

    def __init__(self, emulator: Emulator, proxy: FaultyProxy) -> None:
        self.emulator = emulator
        self.proxy = proxy
        self.url = emulator.url(f"faults/{next(_prefixes)}")

    def run(self, body: Callable[[ObjectStore], Coroutine[Any, Any, Any]], limits: StoreLimits = IMPATIENT) -> Any:
        async def main(ports: Any) -> Any:
            return await body(RealStores(ports.scheduler, limits).open(self.url))

        return run_real(main)


@pytest.fixture(scope="module")
def proxies(emulators: Callable[[str], Emulator]) -> Iterator[Callable[[str], tuple[FaultyProxy, str]]]:
    started: dict[str, tuple[FaultyProxy, str]] = {}

    def start(kind: str) -> tuple[FaultyProxy, str]:
        if kind not in started:
            proxy = FaultyProxy(emulators(kind).endpoint)
            started[kind] = (proxy, proxy.start())
        return started[kind]

    yield start
    for proxy, _ in started.values():
        proxy.stop()


@pytest.fixture(params=KINDS)
def behind(
    request: pytest.FixtureRequest,
    emulators: Callable[[str], Emulator],
    proxies: Callable[[str], tuple[FaultyProxy, str]],
    clean_environment: pytest.MonkeyPatch,
) -> Behind:
    emulator = emulators(request.param)
    proxy, endpoint = proxies(request.param)
    proxy.clear()
    for name, value in emulator.behind(endpoint).items():
        clean_environment.setenv(name, value)
    return Behind(emulator, proxy)


async def use_everything(store: ObjectStore) -> None:
    await store.put("x", b"one")
    assert await store.put_new("new", b"two")
    assert await store.get("x") == b"one"
    assert await store.get_range("new", 1, 5) == b"wo"
    assert await store.size("x") == 3
    assert [entry.key for entry in await store.list()] == ["new", "x"]
    await store.delete("x")
    assert await store.size("x") is None


@pytest.mark.parametrize("kind", ["503", "429", "500", "drop", "hang"])
def test_a_fault_that_passes_is_not_noticed(behind: Behind, kind: str) -> None:
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        behind.proxy.fault(kind, method=method, times=1)
    behind.run(use_everything)
    assert behind.proxy.fired[kind] >= 3


@pytest.mark.parametrize(
    ("kind", "reason"), [("503", "503"), ("403", "403"), ("drop", "connection was lost"), ("hang", "no answer in time")]
)
def test_a_fault_that_stays_has_a_name(behind: Behind, kind: str, reason: str) -> None:
    if kind == "hang" and behind.emulator.scheme != "s3":
        return  # six seconds each, and the same code

    async def body(store: ObjectStore) -> None:
        await store.put("x", b"one")
        behind.proxy.fault(kind)
        calls = {
            "read": store.get("x"),
            "look": store.size("x"),
            "write": store.put("x", b""),
            "create": store.put_new("y", b""),
        }
        calls |= {"list": store.list(), "delete": store.delete("x")}
        begun = time.monotonic()
        for action, call in calls.items():
            with pytest.raises(StorageError) as caught:
                await call
            assert caught.value.message.startswith(f"{behind.url}: cannot {action}") and reason in caught.value.message
            assert SECRET not in repr(caught.value.args) and "?" not in caught.value.message
            assert kind != "403" or "credentials" in caught.value.hint
        assert time.monotonic() - begun < 40
        behind.proxy.clear()
        assert await store.get("x") == b"one" and await store.size("y") is None

    behind.run(body, replace(IMPATIENT, retries=1))


def test_a_body_cut_short_is_read_on(behind: Behind) -> None:
    async def body(store: ObjectStore) -> None:
        await store.put("x", LARGE)
        behind.proxy.fault("truncate", method="GET", times=2)
        assert await store.get("x") == LARGE
        behind.proxy.fault("truncate", method="GET", times=1)
        assert await store.get_range("x", 4096, 100_000) == LARGE[4096:104_096]

    behind.run(body)
    assert behind.proxy.fired["truncate"] == 3


def test_a_body_that_always_ends_early_is_an_error_and_not_an_object(behind: Behind) -> None:
    async def body(store: ObjectStore) -> None:
        await store.put("x", b"0123456789" * 10)
        behind.proxy.fault("truncate", method="GET")
        for call in (store.get("x"), store.get_range("x", 0, 100)):
            with pytest.raises(StorageError, match="ended early|connection was lost"):
                await call

    behind.run(body)


def test_who_created_has_won_even_if_the_answer_was_lost(behind: Behind) -> None:
    async def body(store: ObjectStore) -> None:
        behind.proxy.fault("drop_after", method="PUT", times=1)
        assert await store.put_new("claim", b"mine")
        assert await store.get("claim") == b"mine"
        behind.proxy.fault("drop", method="PUT", times=1)
        assert not await store.put_new("claim", b"theirs"), "the retry finds another's"
        behind.proxy.fault("503", method="PUT", times=1)
        assert not await store.put_new("claim", b"theirs")
        assert await store.get("claim") == b"mine"

    behind.run(body)
    assert behind.proxy.fired["drop_after"] == 1


def test_a_change_whose_answer_was_lost_is_repeated(behind: Behind) -> None:
    async def body(store: ObjectStore) -> None:
        behind.proxy.fault("drop_after", method="PUT", times=1)
        await store.put("x", b"one")
        assert await store.get("x") == b"one"
        behind.proxy.fault("drop_after", method="DELETE", times=1)
        await store.delete("x")
        assert await store.list() == []

    behind.run(body)


PART = {"s3": "partNumber=", "gs": "partNumber=", "az": "comp=block&|comp=block$"}
COMPLETE = {"s3": ("POST", "uploadId="), "gs": ("POST", "uploadId="), "az": ("PUT", "comp=blocklist")}


@pytest.mark.parametrize("kind", ["drop", "drop_after", "503", "hang"])
def test_a_part_that_got_lost_is_sent_again(behind: Behind, kind: str) -> None:
    async def body(store: ObjectStore) -> None:
        behind.proxy.fault(kind, method="PUT", path=PART[behind.emulator.scheme], times=2)
        writer = await store.writer("x")
        for at in range(0, len(LARGE), 1 << 20):
            await writer.write(LARGE[at : at + (1 << 20)])
        await writer.close()
        assert await store.get("x") == LARGE

    behind.run(body)
    assert behind.proxy.fired[kind] == 2


def test_an_upload_that_cannot_go_on_leaves_nothing(behind: Behind) -> None:
    async def body(store: ObjectStore) -> None:
        await store.put("x", b"as it was")
        behind.proxy.fault("drop", method="PUT", path=PART[behind.emulator.scheme])
        writer = await store.writer("x")
        with pytest.raises(StorageError, match=f"{behind.url}: cannot write x: the connection was lost"):
            for _ in range(3):
                await writer.write(LARGE)
            await writer.close()
        await writer.abort()
        assert await store.get("x") == b"as it was"
        with pytest.raises(StorageError):
            await store.put("y", LARGE)
        assert [entry.key for entry in await store.list()] == ["x"]

    behind.run(body)
    assert unfinished_uploads(behind.emulator) == 0


def test_the_end_of_an_upload_whose_answer_was_lost(behind: Behind) -> None:
    """It may be an error, for the client cannot tell; what is there is the whole object or none."""

    async def body(store: ObjectStore) -> None:
        method, path = COMPLETE[behind.emulator.scheme]
        behind.proxy.fault("drop_after", method=method, path=path, times=1)
        try:
            await store.put("x", LARGE)
        except StorageError as error:
            assert error.message.startswith(f"{behind.url}: cannot write x")
        assert await store.size("x") in (None, len(LARGE))
        await store.put("x", LARGE)
        assert await store.get("x") == LARGE

    behind.run(body)
    assert behind.proxy.fired["drop_after"] == 1


def unfinished_uploads(emulator: Emulator) -> int:
    """As the S3 emulator's own client sees them; others do not list them."""
    if emulator.scheme != "s3":
        return 0
    import boto3

    names = {"aws_access_key_id": emulator.environment["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=emulator.endpoint, region_name="us-east-1", **names)
    return len(client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []))


def test_a_wrong_key_is_named_and_not_shown(
    emulators: Callable[[str], Emulator], clean_environment: pytest.MonkeyPatch
) -> None:
    """Azurite checks signatures; moto does not."""
    emulator = emulators("az")
    wrong = "d3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3Jvbmctd3JvbmctMTI="
    text = emulator.environment["AZURE_STORAGE_CONNECTION_STRING"]
    account_key = text.partition("AccountKey=")[2].partition(";")[0]
    clean_environment.setenv("AZURE_STORAGE_CONNECTION_STRING", text.replace(account_key, wrong))

    async def main(ports: Any) -> None:
        store = ports.stores.open(emulator.url("x"))
        for call in (store.put("x", b""), store.get("x"), store.list(), store.put_new("x", b"")):
            with pytest.raises(StorageError, match="403") as caught:
                await call
            assert wrong not in repr(caught.value.args) and "AZURE_STORAGE_KEY" in caught.value.hint

    run_real(main)


def test_no_store_at_all(clean_environment: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }.items():
        clean_environment.setenv(name, value)

    async def main(ports: Any) -> None:
        with pytest.raises(StorageError, match="s3://bucket/p: cannot write x: no connection"):
            await RealStores(ports.scheduler, IMPATIENT).open("s3://bucket/p").put("x", b"")

    run_real(main)
