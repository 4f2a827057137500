"""Devices and stores by name, with round numbers of their kind: what one can rent or buy, not what one measured.

Times are of one operation; bandwidths are those of a server with a 10 Gbit/s network, of one request to a store on it (a stream
of S3 has 80 to 90 MB/s), and of a rented volume (ssd) or a local disk (nvme). With a `scale`, a small database stands for a
large one: at a scale of 50,000 two megabytes take as long to copy as a hundred gigabytes, in as many requests of a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sim.world.disk import DeviceProfile
from sim.world.store import StoreProfile

US, MS = 1_000, 1_000_000
MB = 1_000_000

DISKS = {
    "nvme": DeviceProfile(read_ns=80 * US, write_ns=15 * US, sync_ns=100 * US, entry_ns=20 * US, bytes_per_s=3_000 * MB),
    "ssd": DeviceProfile(read_ns=150 * US, write_ns=40 * US, sync_ns=1 * MS, entry_ns=50 * US, bytes_per_s=1_000 * MB),
    "hdd": DeviceProfile(
        read_ns=8 * MS, write_ns=4 * MS, sync_ns=12 * MS, entry_ns=4 * MS, bytes_per_s=160 * MB, cached_reads=0.3
    ),
}
STORES = {
    "nas": StoreProfile(latency_ns=1 * MS, bytes_a_second=110 * MB),
    "s3": StoreProfile(latency_ns=30 * MS, bytes_a_second=800 * MB, stream_bytes_a_second=90 * MB),
    "s3-cross-region": StoreProfile(latency_ns=110 * MS, bytes_a_second=250 * MB, stream_bytes_a_second=40 * MB),
}
STORE_KEYS = ("latency_ns", "bytes_a_second", "stream_bytes_a_second")


def disk(values: Mapping[str, Any]) -> DeviceProfile:
    """A device from a scenario's `device`: a profile by name, changed by single values."""
    changes = dict(values)
    return replace(DISKS[changes.pop("profile")] if "profile" in changes else DeviceProfile(), **changes)


def store(values: Mapping[str, Any]) -> StoreProfile:
    """A store from a scenario's `stores`."""
    changes = {name: value for name, value in values.items() if name in STORE_KEYS}
    return replace(STORES[values.get("profile", "s3")], **changes)
